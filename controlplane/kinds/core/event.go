// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/check"
)

// Event is the kind Event.
func Event() kinds.Kind {
	return kinds.Define(&corev1.EventList{}, kinds.Def[*corev1.Event]{
		GroupVersion:        corev1.SchemeGroupVersion,
		Kind:                "Event",
		Resource:            "events",
		ShortNames:          []string{"ev"},
		NoGeneration:        true,
		AllowCreateOnUpdate: true,
		Validate:            ValidateEvent,
		Columns:             EventColumns,
		Row:                 EventRow,
		Fields:              EventFields,
		FieldNames:          EventFieldNames,
	})
}

// ValidateEvent checks an Event as the core group accepts it: written by clients of either API.
func ValidateEvent(e *corev1.Event) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("involvedObject", "namespace")
	// An Event about a thing outside namespaces lives in "default", by custom of all recorders.
	switch about := e.InvolvedObject.Namespace; {
	case about == "" && e.Namespace != metav1.NamespaceNone && e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem:
		errs = append(errs, field.Invalid(path, about, "does not match event.namespace"))
	case about != "" && about != e.Namespace:
		errs = append(errs, field.Invalid(path, about, "does not match event.namespace"))
	}
	if e.Namespace != "" {
		errs = append(errs, check.Invalid(field.NewPath("namespace"), e.Namespace, validation.IsDNS1123Subdomain(e.Namespace))...)
	}
	return errs
}

// ValidateNewEvent adds what events.k8s.io asks of its writers.
func ValidateNewEvent(e *corev1.Event) field.ErrorList {
	errs := ValidateEvent(e)
	required := func(name, value string) {
		if value == "" {
			errs = append(errs, field.Required(field.NewPath(name), ""))
		}
	}
	if e.EventTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("eventTime"), ""))
	}
	required("reportingController", e.ReportingController)
	if e.ReportingController != "" {
		errs = append(errs, check.Invalid(field.NewPath("reportingController"), e.ReportingController, validation.IsQualifiedName(e.ReportingController))...)
	}
	required("reportingInstance", e.ReportingInstance)
	required("action", e.Action)
	required("reason", e.Reason)
	limit := func(name, value string, most int) {
		if len(value) > most {
			errs = append(errs, field.Invalid(field.NewPath(name), "", fmt.Sprintf("can have at most %d characters", most)))
		}
	}
	limit("reportingInstance", e.ReportingInstance, 128)
	limit("action", e.Action, 128)
	limit("reason", e.Reason, 128)
	limit("message", e.Message, 1024)
	if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
		errs = append(errs, field.Invalid(field.NewPath("type"), "", fmt.Sprintf("has invalid value: %v", e.Type)))
	}
	return errs
}

// EventFieldNames are the selectable fields of Events.
var EventFieldNames = []string{"involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
	"involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason", "reportingComponent", "source", "type"}

// EventFields returns them.
func EventFields(e *corev1.Event) fields.Set {
	source := e.Source.Component
	if source == "" {
		source = e.ReportingController
	}
	return fields.Set{
		"involvedObject.kind":            e.InvolvedObject.Kind,
		"involvedObject.namespace":       e.InvolvedObject.Namespace,
		"involvedObject.name":            e.InvolvedObject.Name,
		"involvedObject.uid":             string(e.InvolvedObject.UID),
		"involvedObject.apiVersion":      e.InvolvedObject.APIVersion,
		"involvedObject.resourceVersion": e.InvolvedObject.ResourceVersion,
		"involvedObject.fieldPath":       e.InvolvedObject.FieldPath,
		"reason":                         e.Reason,
		"reportingComponent":             e.ReportingController,
		"source":                         source,
		"type":                           e.Type,
	}
}

var eventDoc = corev1.Event{}.SwaggerDoc()

// EventColumns are the columns of Events; the name comes last because nobody reads it.
var EventColumns = []metav1.TableColumnDefinition{
	kinds.Column("Last Seen", "string", eventDoc["lastTimestamp"]),
	kinds.Column("Type", "string", eventDoc["type"]),
	kinds.Column("Reason", "string", eventDoc["reason"]),
	kinds.Column("Object", "string", eventDoc["involvedObject"]),
	kinds.WideColumn("Subobject", "string", corev1.ObjectReference{}.SwaggerDoc()["fieldPath"]),
	kinds.WideColumn("Source", "string", eventDoc["source"]),
	kinds.Column("Message", "string", eventDoc["message"]),
	kinds.WideColumn("First Seen", "string", eventDoc["firstTimestamp"]),
	kinds.WideColumn("Count", "string", eventDoc["count"]),
	{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"], Priority: 1},
}

// EventRow is a line of them.
func EventRow(e *corev1.Event) []any {
	first, last, count := eventTimes(e)
	object := strings.ToLower(e.InvolvedObject.Kind)
	if e.InvolvedObject.Name != "" {
		object += "/" + e.InvolvedObject.Name
	}
	return []any{last, e.Type, e.Reason, object, e.InvolvedObject.FieldPath, eventSource(e), strings.TrimSpace(e.Message), first, count, e.Name}
}

// eventTimes reads the three ways in which recorders have said when and how often.
func eventTimes(e *corev1.Event) (first, last string, count int64) {
	micro := func(t time.Time) string { return kinds.Age(metav1.NewTime(t)) }
	first = kinds.Age(e.FirstTimestamp)
	if e.FirstTimestamp.IsZero() {
		first = micro(e.EventTime.Time)
	}
	last, count = first, int64(e.Count)
	switch {
	case e.Series != nil:
		last, count = micro(e.Series.LastObservedTime.Time), int64(e.Series.Count)
	case !e.LastTimestamp.IsZero():
		last = kinds.Age(e.LastTimestamp)
	}
	if count == 0 {
		count = 1
	}
	return first, last, count
}

func eventSource(e *corev1.Event) string {
	component, host := e.Source.Component, e.Source.Host
	if component == "" {
		component = e.ReportingController
	}
	if host == "" {
		host = e.ReportingInstance
	}
	if host == "" {
		return component
	}
	return component + ", " + host
}
