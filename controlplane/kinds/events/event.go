// SPDX-License-Identifier: Apache-2.0

package events

import (
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skep.dev/skep/controlplane/kinds"
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
		View: &kinds.View{
			Of:             corev1.SchemeGroupVersion.WithKind("Event"),
			New:            func() kinds.Object { return &eventsv1.Event{} },
			NewList:        func() runtime.Object { return &eventsv1.EventList{} },
			AddConversions: addConversions,
		},
	})
}
