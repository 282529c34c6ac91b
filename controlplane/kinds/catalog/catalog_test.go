// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/kindtest"
)

func each(t *testing.T, check func(*testing.T, kinds.Kind)) {
	t.Helper()
	for _, k := range Kinds() {
		t.Run(k.GroupVersionKind.Group+"/"+k.Resource, func(t *testing.T) { check(t, k) })
	}
}

func TestEachResourceAndStoragePlaceIsTakenOnce(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range Kinds() {
		name := k.GroupVersionKind.Group + "/" + k.Resource
		if seen[name] {
			t.Errorf("%s is listed twice", name)
		}
		seen[name] = true
		if place := "place " + k.StoragePrefix; k.View == nil {
			if seen[place] {
				t.Errorf("%s shares its place in storage", name)
			}
			seen[place] = true
		}
	}
}

// An empty object is the worst that a decoder hands over: no function may fall over it.
func TestEmptyObjectsAreHandled(t *testing.T) {
	each(t, func(t *testing.T, k kinds.Kind) {
		o := k.New()
		if k.Default != nil {
			kindtest.DefaultsOnce(t, k, o)
		}
		if k.PrepareForCreate != nil {
			k.PrepareForCreate(t.Context(), o)
		}
		if k.PrepareForUpdate != nil {
			k.PrepareForUpdate(t.Context(), o, k.New())
		}
		if k.Validate != nil {
			k.Validate(o)
		}
		if k.ValidateUpdate != nil {
			k.ValidateUpdate(o, k.New())
		}
		if k.ValidateStatusUpdate != nil {
			k.ValidateStatusUpdate(o, k.New())
		}
		if k.GracefulDelete != nil {
			k.GracefulDelete(t.Context(), o, &metav1.DeleteOptions{})
		}
		if k.Row == nil {
			t.Fatal("has no columns of its own")
		}
		if got, want := len(k.Row(o)), len(k.Columns); got != want {
			t.Errorf("%d cells for %d columns", got, want)
		}
		for _, c := range k.Columns {
			if c.Description == "" {
				t.Errorf("column %s has no description", c.Name)
			}
		}
	})
}

func TestFieldsAreTheOnesThatAreNamed(t *testing.T) {
	each(t, func(t *testing.T, k kinds.Kind) {
		if k.Fields == nil {
			if len(k.FieldNames) > 0 {
				t.Errorf("names fields %v but returns none", k.FieldNames)
			}
			return
		}
		set := k.Fields(k.New())
		for name := range set {
			if !slices.Contains(k.FieldNames, name) {
				t.Errorf("returns %s, which it does not name", name)
			}
		}
		for _, name := range k.FieldNames {
			if _, ok := set[name]; !ok {
				t.Errorf("names %s, which it does not return", name)
			}
		}
		if k.IndexedField != "" && !slices.Contains(k.FieldNames, k.IndexedField) {
			t.Errorf("indexes %s, which is not selectable", k.IndexedField)
		}
	})
}
