// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"skep.dev/skep/datapath"
)

func TestRulesGetTheirCounters(t *testing.T) {
	rule := func(id datapath.RuleID, index int) PolicyRule {
		return PolicyRule{RuleInfo: RuleInfo{ID: id, Policies: []string{"shop/web"}, Index: index}}
	}
	since := time.Unix(1000, 0)
	got := Stats([]PolicyRule{rule(7, 0), rule(8, 1), rule(0, 2), rule(9, -1)}, []datapath.RuleCounter{
		{Rule: 5, Connections: 50}, // of a policy that is gone
		{Rule: 7, Connections: 2, Packets: 3, Bytes: 180, Since: since, WouldDeny: 1},
		{Rule: 9, Connections: 1, Packets: 1, Bytes: 74, WouldAllow: 4},
	})
	want := []RuleStats{
		{PolicyRule: rule(7, 0), Connections: 2, Packets: 3, Bytes: 180, Since: since, WouldDeny: 1}, {PolicyRule: rule(8, 1)}, {PolicyRule: rule(0, 2)},
		{PolicyRule: rule(9, -1), Connections: 1, Packets: 1, Bytes: 74, WouldAllow: 4},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
