// SPDX-License-Identifier: Apache-2.0

package scheduling

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	v1 "k8s.io/api/scheduling/v1"
	"k8s.io/utils/ptr"

	"skep.dev/skep/controlplane/kinds/kindtest"
)

func TestPriorityClassesAreChecked(t *testing.T) {
	type p = *v1.PriorityClass
	type c struct {
		Name   string
		Change func(p)
		Want   []string
	}
	valid := func() p { x := &v1.PriorityClass{Value: 100}; x.Name = "high"; return x }
	kindtest.Create(t, PriorityClass(), valid, []c{
		{"a valid one", func(p) {}, nil},
		{"higher than users go", func(x p) { x.Value = 1000000001 }, []string{"value: Forbidden: maximum allowed value of a user defined priority is 1000000000"}},
		{"a name of the system", func(x p) { x.Name = "system-mine" }, []string{"metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only."}},
		{"the system's own", func(x p) { x.Name, x.Value = "system-node-critical", 2000001000 }, nil},
	})
	kindtest.Update(t, PriorityClass(), valid, []c{
		{"the value", func(x p) { x.Value = 5 }, []string{"value: Forbidden: may not be changed in an update."}},
		{"preemption", func(x p) { x.PreemptionPolicy = ptr.To(corev1.PreemptNever) }, []string{`preemptionPolicy: Invalid value: "Never": field is immutable`}},
	})
}
