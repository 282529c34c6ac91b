// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"skep.dev/skep/controlplane/kinds"
)

// An API object is a struct with TypeMeta, ObjectMeta, usually Spec and Status, sometimes other fields. The
// helpers here tell the three parts apart, so that no kind must: metadata, status, and content (the rest).

func clearTypeMeta(o kinds.Object) { o.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{}) }

func value(o kinds.Object) reflect.Value { return reflect.ValueOf(o).Elem() }

// resetStatus empties the status.
func resetStatus(o kinds.Object) {
	if f := value(o).FieldByName("Status"); f.IsValid() {
		f.SetZero()
	}
}

// copyStatus gives o the status of from.
func copyStatus(o, from kinds.Object) {
	if f := value(o).FieldByName("Status"); f.IsValid() {
		f.Set(value(from).FieldByName("Status"))
	}
}

// copyContent gives o the content of from.
func copyContent(o, from kinds.Object) {
	to, source := value(o), value(from)
	for i := range to.NumField() {
		if isContent(to.Type().Field(i)) {
			to.Field(i).Set(source.Field(i))
		}
	}
}

func eachContentField(a, b kinds.Object, visit func(a, b any)) {
	va, vb := value(a), value(b)
	for i := range va.NumField() {
		if isContent(va.Type().Field(i)) {
			visit(va.Field(i).Interface(), vb.Field(i).Interface())
		}
	}
}

// contentFields returns the JSON names of the content.
func contentFields(o kinds.Object) []string {
	var names []string
	t := value(o).Type()
	for i := range t.NumField() {
		if f := t.Field(i); isContent(f) {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			names = append(names, name)
		}
	}
	return names
}

func isContent(f reflect.StructField) bool {
	return f.Name != "TypeMeta" && f.Name != "ObjectMeta" && f.Name != "Status"
}
