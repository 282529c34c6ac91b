// SPDX-License-Identifier: Apache-2.0

package coordination

import (
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/utils/ptr"

	"skep.dev/skep/controlplane/kinds/kindtest"
)

func TestLeasesAreChecked(t *testing.T) {
	type l = *coordinationv1.Lease
	valid := func() l {
		return &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{HolderIdentity: ptr.To("n1"), LeaseDurationSeconds: ptr.To[int32](40)}}
	}
	kindtest.Create(t, Lease(), valid, []struct {
		Name   string
		Change func(l)
		Want   []string
	}{
		{"a valid one", func(l) {}, nil},
		{"no time", func(x l) { x.Spec.LeaseDurationSeconds = ptr.To[int32](0) }, []string{"spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"}},
		{"fewer transitions than none", func(x l) { x.Spec.LeaseTransitions = ptr.To[int32](-1) }, []string{"spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0"}},
	})
	if got := kindtest.Line(Lease(), valid(), true)[1]; got != "n1" {
		t.Errorf("holder %v", got)
	}
}
