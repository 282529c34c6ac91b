// SPDX-License-Identifier: Apache-2.0

package agentapi

import (
	"context"

	"skep.dev/skep/datapath"
	"skep.dev/skep/nodeagent/intent"
)

const rulesPath = "/v1/policy/rules"

// RuleSource knows the rules of the policies that are there now.
type RuleSource interface {
	Current() []intent.PolicyRule
}

// RuleStats is a rule with what it decided on one node.
type RuleStats struct {
	intent.PolicyRule
	Connections, Packets, Bytes uint64
}

// Rules asks the agent behind the socket for the rules of all policies, in order, and what they decided on its node.
func Rules(ctx context.Context, socket string) ([]RuleStats, error) {
	var rules []RuleStats
	err := get(ctx, socket, rulesPath, &rules)
	return rules, err
}

// ruleStats takes the names before the counters: a rule that goes meanwhile has none, and one that comes is left out.
func ruleStats(ctx context.Context, counters StatusSource, rules RuleSource) ([]RuleStats, error) {
	current := rules.Current()
	status, err := counters.Status(ctx)
	if err != nil {
		return nil, err
	}
	return withCounters(current, status.Rules), nil
}

func withCounters(rules []intent.PolicyRule, counters []datapath.RuleCounter) []RuleStats {
	byID := make(map[datapath.RuleID]datapath.RuleCounter, len(counters))
	for _, c := range counters {
		byID[c.Rule] = c
	}
	out := make([]RuleStats, len(rules))
	for i, r := range rules {
		c := byID[r.ID]
		out[i] = RuleStats{PolicyRule: r, Connections: c.Connections, Packets: c.Packets, Bytes: c.Bytes}
	}
	return out
}
