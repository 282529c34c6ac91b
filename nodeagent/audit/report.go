// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"fmt"
	"slices"
	"time"

	"skep.dev/skep/datapath"
	"skep.dev/skep/nodeagent/intent"
)

// tellInterval is the least time between two reports about one policy: each is an event in the API.
const tellInterval = 5 * time.Minute

// The reasons of events about policies in audit mode.
const (
	ReasonWouldDeny  = "WouldDeny"
	ReasonWouldAllow = "WouldAllow"
)

// Report is an event about a policy.
type Report struct {
	// Policy is "namespace/name", or "name" of a ClusterNetworkPolicy.
	Policy, Reason, Message string
}

// Reporter decides what to report of the counters. It belongs to one goroutine.
type Reporter struct {
	// Node is named in reports.
	Node string
	// Describe writes one remembered connection for people.
	Describe func(Seen) string

	told map[string]told // by policy and reason
}

type told struct {
	at    time.Time
	count uint64
}

// total is what the rules of one policy would have decided otherwise.
type total struct {
	policy, reason string
	count          uint64
	since          time.Time
	rules          []datapath.RuleID
}

// Reports lists what should be told now: for each policy in audit mode by which anything would be otherwise, if that has grown since it was
// told last and that is a while ago.
func (r *Reporter) Reports(now time.Time, rules []intent.PolicyRule, counters []datapath.RuleCounter, seen []Seen) []Report {
	if r.told == nil {
		r.told = map[string]told{}
	}
	var out []Report
	there := map[string]bool{}
	for _, t := range totals(rules, counters) {
		key := t.policy + " " + t.reason
		there[key] = true
		last := r.told[key]
		if t.count == last.count || now.Sub(last.at) < tellInterval {
			continue
		}
		r.told[key] = told{now, t.count}
		out = append(out, Report{Policy: t.policy, Reason: t.reason, Message: r.message(t, seen)})
	}
	for key := range r.told {
		if !there[key] {
			delete(r.told, key)
		}
	}
	return out
}

func (r *Reporter) message(t total, seen []Seen) string {
	verb := "denied"
	if t.reason == ReasonWouldAllow {
		verb = "allowed"
	}
	connections := "connections"
	if t.count == 1 {
		connections = "connection"
	}
	text := fmt.Sprintf("in audit mode: would have %s %d %s on node %s since %s", verb, t.count, connections, r.Node, t.since.UTC().Format(time.RFC3339))
	for _, s := range seen {
		if slices.Contains(t.rules, s.WouldRule) && s.WouldAllow == (t.reason == ReasonWouldAllow) {
			return text + "; the last: " + r.Describe(s)
		}
	}
	return text
}

// totals sums the counters by policy, in order of the rules. What policies decide together is told of each.
func totals(rules []intent.PolicyRule, counters []datapath.RuleCounter) []total {
	byRule := map[datapath.RuleID]datapath.RuleCounter{}
	for _, c := range counters {
		byRule[c.Rule] = c
	}
	var out []total
	add := func(policy, reason string, count uint64, c datapath.RuleCounter) {
		if count == 0 {
			return
		}
		at := slices.IndexFunc(out, func(t total) bool { return t.policy == policy && t.reason == reason })
		if at < 0 {
			at = len(out)
			out = append(out, total{policy: policy, reason: reason, since: c.Since})
		}
		t := &out[at]
		t.count += count
		t.rules = append(t.rules, c.Rule)
		if c.Since.Before(t.since) {
			t.since = c.Since
		}
	}
	for _, rule := range rules {
		c, counted := byRule[rule.ID]
		if !counted || !rule.Audit {
			continue
		}
		for _, policy := range rule.Policies {
			add(policy, ReasonWouldDeny, c.WouldDeny, c)
			add(policy, ReasonWouldAllow, c.WouldAllow, c)
		}
	}
	return out
}
