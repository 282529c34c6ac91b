// SPDX-License-Identifier: Apache-2.0

// Package kindtest helps to test the rules of a kind: one valid object, one mutation per case, errors as text.
package kindtest

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds"
)

// A case changes a valid object in one way. Want lists the errors, or their beginnings, that this must cause. Tests declare the
// struct themselves, so that a case fits on a line without names of fields.

// Create checks each case as a new object: defaults first, then validation.
func Create[T kinds.Object, C ~struct {
	Name   string
	Change func(T)
	Want   []string
}](t *testing.T, k kinds.Kind, valid func() T, cases []C) {
	t.Helper()
	run(t, cases, func(c oneCase[T]) field.ErrorList {
		o := valid()
		c.Change(o)
		defaults(k, o)
		return k.Validate(o)
	})
}

// Update checks each case as a change of a stored object.
func Update[T kinds.Object, C ~struct {
	Name   string
	Change func(T)
	Want   []string
}](t *testing.T, k kinds.Kind, valid func() T, cases []C) {
	t.Helper()
	run(t, cases, func(c oneCase[T]) field.ErrorList {
		old, o := valid(), valid()
		defaults(k, old)
		c.Change(o)
		defaults(k, o)
		if k.PrepareForUpdate != nil {
			k.PrepareForUpdate(t.Context(), o, old)
		}
		if k.ValidateUpdate == nil {
			return k.Validate(o)
		}
		return k.ValidateUpdate(o, old)
	})
}

// StatusUpdate checks each case as a write to /status.
func StatusUpdate[T kinds.Object, C ~struct {
	Name   string
	Change func(T)
	Want   []string
}](t *testing.T, k kinds.Kind, valid func() T, cases []C) {
	t.Helper()
	run(t, cases, func(c oneCase[T]) field.ErrorList {
		old, o := valid(), valid()
		c.Change(o)
		return k.ValidateStatusUpdate(o, old)
	})
}

func defaults(k kinds.Kind, o kinds.Object) {
	if k.Default != nil {
		k.Default(o)
	}
}

type oneCase[T kinds.Object] struct {
	Name   string
	Change func(T)
	Want   []string
}

func run[T kinds.Object, C ~struct {
	Name   string
	Change func(T)
	Want   []string
}](t *testing.T, cases []C, validate func(oneCase[T]) field.ErrorList) {
	t.Helper()
	for _, c := range cases {
		one := oneCase[T](c)
		t.Run(one.Name, func(t *testing.T) {
			t.Helper()
			compare(t, validate(one), one.Want)
		})
	}
}

func compare(t *testing.T, errs field.ErrorList, want []string) {
	t.Helper()
	var got []string
	for _, e := range errs {
		got = append(got, e.Error())
	}
	slices.Sort(got)
	want = slices.Sorted(slices.Values(want))
	same := len(got) == len(want)
	for i := 0; same && i < len(got); i++ {
		same = strings.HasPrefix(got[i], want[i])
	}
	if !same {
		t.Errorf("errors:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// DefaultsOnce checks that defaulting an object twice is the same as once, since it runs on every decode.
func DefaultsOnce(t *testing.T, k kinds.Kind, o kinds.Object) {
	t.Helper()
	k.Default(o)
	once := o.DeepCopyObject()
	k.Default(o)
	equal := cmp.Comparer(func(a, b resource.Quantity) bool { return a.Cmp(b) == 0 })
	if d := cmp.Diff(once, any(o), equal); d != "" {
		t.Errorf("the second defaulting of %s changed it:\n%s", k.GroupVersionKind.Kind, d)
	}
}

// Line returns the cells of an object as a person reads them, up to the last column that kubectl shows without -o wide, or
// all of them.
func Line(k kinds.Kind, o kinds.Object, wide bool) []any {
	var cells []any
	for i, cell := range k.Row(o) {
		if wide || k.Columns[i].Priority == 0 {
			cells = append(cells, cell)
		}
	}
	return cells
}
