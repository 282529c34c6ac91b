// SPDX-License-Identifier: Apache-2.0

package events

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/core"
)

// Event is the kind Event of events.k8s.io, the newer face of core Events.
func Event() kinds.Kind {
	return kinds.Define(&corev1.EventList{}, kinds.Def[*corev1.Event]{
		GroupVersion:        eventsv1.SchemeGroupVersion,
		Kind:                "Event",
		Resource:            "events",
		ShortNames:          []string{"ev"},
		NoGeneration:        true,
		AllowCreateOnUpdate: true,
		Validate:            core.ValidateNewEvent,
		ValidateUpdate:      func(e, _ *corev1.Event) field.ErrorList { return core.ValidateEvent(e) },
		Columns:             core.EventColumns,
		Row:                 core.EventRow,
		Fields:              fieldsOf,
		FieldNames:          fieldNames(),
		View: &kinds.View{
			Of:             corev1.SchemeGroupVersion.WithKind("Event"),
			New:            func() kinds.Object { return &eventsv1.Event{} },
			NewList:        func() runtime.Object { return &eventsv1.EventList{} },
			AddConversions: addConversions,
		},
	})
}

// fieldsOf names the fields as this group does: regarding instead of involvedObject, and the controller by its new name.
func fieldsOf(e *corev1.Event) fields.Set {
	set := fields.Set{}
	for name, value := range core.EventFields(e) {
		set[name] = value
		set[newName(name)] = value
	}
	return set
}

// fieldNames also keeps the old names: the server has always answered to both.
func fieldNames() []string {
	names := append([]string(nil), core.EventFieldNames...)
	for _, name := range core.EventFieldNames {
		if renamed := newName(name); renamed != name {
			names = append(names, renamed)
		}
	}
	return names
}

func newName(name string) string {
	switch {
	case name == "reportingComponent":
		return "reportingController"
	case strings.HasPrefix(name, "involvedObject."):
		return "regarding." + strings.TrimPrefix(name, "involvedObject.")
	}
	return name
}
