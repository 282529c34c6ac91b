// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"time"

	"skep.dev/skep/datapath"
)

// RuleStats is a rule with what it decided on one node; in audit mode, what it would have decided.
type RuleStats struct {
	PolicyRule
	Connections, Packets, Bytes uint64
	// Since is when the node began to count; zero for a rule that has no counter.
	Since time.Time `json:",omitzero"`
	// WouldDeny and WouldAllow count the connections about which an audit would have decided otherwise.
	WouldDeny, WouldAllow uint64
}

// Stats gives rules their counters. Take the rules before the counters: one that goes meanwhile has none, and one that comes is left
// out.
func Stats(rules []PolicyRule, counters []datapath.RuleCounter) []RuleStats {
	byID := make(map[datapath.RuleID]datapath.RuleCounter, len(counters))
	for _, c := range counters {
		byID[c.Rule] = c
	}
	out := make([]RuleStats, len(rules))
	for i, r := range rules {
		c := byID[r.ID]
		out[i] = RuleStats{
			PolicyRule: r, Connections: c.Connections, Packets: c.Packets, Bytes: c.Bytes, Since: c.Since,
			WouldDeny: c.WouldDeny, WouldAllow: c.WouldAllow,
		}
	}
	return out
}
