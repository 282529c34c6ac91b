// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"skep.dev/skep/controlplane/kinds/kindtest"
)

func TestDisruptionBudgetsAreChecked(t *testing.T) {
	type b = *v1.PodDisruptionBudget
	valid := func() b {
		return &v1.PodDisruptionBudget{Spec: v1.PodDisruptionBudgetSpec{MinAvailable: ptr.To(intstr.FromString("50%"))}}
	}
	kindtest.Create(t, PodDisruptionBudget(), valid, []struct {
		Name   string
		Change func(b)
		Want   []string
	}{
		{"a valid one", func(b) {}, nil},
		{"both ends", func(x b) { x.Spec.MaxUnavailable = ptr.To(intstr.FromInt32(1)) }, []string{"spec: Invalid value: {"}},
		{"more than all", func(x b) { x.Spec.MinAvailable.StrVal = "150%" }, []string{`spec.minAvailable: Invalid value: "150%": must not be greater than 100%`}},
		{"fewer than none", func(x b) { x.Spec.MinAvailable = ptr.To(intstr.FromInt32(-1)) }, []string{"spec.minAvailable: Invalid value: -1: must be greater than or equal to 0"}},
	})
	x := valid()
	x.Name, x.Status.DisruptionsAllowed = "b", 1
	if d := cmp.Diff([]any{"b", "50%", "N/A", int64(1), "<unknown>"}, kindtest.Line(PodDisruptionBudget(), x, true)); d != "" {
		t.Error(d)
	}
}
