// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/bpfobj"
	"skep.dev/skep/nodeagent/policymodel"
)

// told takes the audit events that the programs have sent.
func (b *bench) told() []datapath.AuditEvent {
	b.t.Helper()
	var out []datapath.AuditEvent
	if err := b.events.Drain(func(e datapath.AuditEvent) { out = append(out, e) }); err != nil {
		b.t.Fatal(err)
	}
	return out
}

// would is what the model says with the policies in audit mode, reduced to the checks that this node owes.
func (b *bench) would(p probe) policymodel.Verdict {
	return b.owed(p, policymodel.Would(b.world, p.conn()))
}

// differing lists the sides of a new connection, of those that are asked, about which the two answers differ.
func (b *bench) differing(p probe, enforced policymodel.Verdict) []datapath.Direction {
	if p.fromNode {
		return nil
	}
	var out []datapath.Direction
	would := b.would(p)
	if enforced.Egress.Allowed != would.Egress.Allowed {
		out = append(out, datapath.Egress)
	}
	if enforced.Egress.Allowed && enforced.Ingress.Allowed != would.Ingress.Allowed {
		out = append(out, datapath.Ingress)
	}
	return out
}

// compareAudit checks the events about a connection that was judged for the first time: one for each side about which the answers
// differ, with both ends and both rules.
func (b *bench) compareAudit(p probe, enforced policymodel.Verdict) string {
	events, would := b.told(), b.would(p)
	differing := b.differing(p, enforced)
	if len(events) != len(differing) {
		return fmt.Sprintf("%v: %d audit events, want %d: %+v; enforced %+v, would be %+v", p, len(events), len(differing), events, enforced, would)
	}
	tuple := p.Tuple()
	for i, e := range events {
		side, want := enforced.Ingress, would.Ingress
		if differing[i] == datapath.Egress {
			side, want = enforced.Egress, would.Egress
		}
		if e.Direction != differing[i] || e.Src != tuple.Src || e.Dst != tuple.Dst || uint8(e.Protocol) != p.Protocol || e.WouldAllow != want.Allowed {
			return fmt.Sprintf("%v: event %+v; enforced %+v, would be %+v", p, e, enforced, would)
		}
		if !b.decides(side, e.Rule) || !b.decides(want, e.WouldRule) {
			return fmt.Sprintf("%v: event %+v names %+v and %+v; enforced %+v, would be %+v", p, e, b.rule(e.Rule), b.rule(e.WouldRule), side, want)
		}
	}
	return ""
}

// compareWould checks what a flow's entry says about the answer that would be given.
func (b *bench) compareWould(p probe, enforced policymodel.Verdict, entry bpfmap.FlowEntry) string {
	would := b.would(p)
	for dir, sides := range map[datapath.Direction][2]policymodel.Side{
		datapath.Egress: {enforced.Egress, would.Egress}, datapath.Ingress: {enforced.Ingress, would.Ingress},
	} {
		rule := datapath.RuleID(entry.Sides[dir].WouldRule)
		if rule == 0 {
			rule = datapath.RuleID(entry.Sides[dir].Rule)
		}
		if !b.decides(sides[1], rule) {
			return fmt.Sprintf("%v: direction %d would be decided by %+v; enforced %+v, would be %+v", p, dir, b.rule(rule), sides[0], sides[1])
		}
		flag := bpfobj.SkepCtFlagCT_WOULD_DIFFER_INGRESS
		if dir == datapath.Egress {
			flag = bpfobj.SkepCtFlagCT_WOULD_DIFFER_EGRESS
		}
		if differs := bpfobj.SkepCtFlag(entry.Flags)&flag != 0; differs != (sides[0].Allowed != sides[1].Allowed) {
			return fmt.Sprintf("%v: direction %d differs: %v; enforced %+v, would be %+v", p, dir, differs, sides[0], sides[1])
		}
	}
	return ""
}

// decides reports whether a rule is one that the model names for a side.
func (b *bench) decides(side policymodel.Side, id datapath.RuleID) bool {
	info := b.rule(id)
	switch {
	case side.Pod == "":
		return id == 0
	case side.Cluster != nil:
		return names(info, *side.Cluster)
	case len(side.Isolating) == 0:
		return id == 0 || (info.DefaultDeny() && info.Audit)
	case side.Allowed:
		return !info.DefaultDeny() && slices.Contains(side.Allowing, policymodel.RuleRef{Policy: info.Policies[0], Index: info.Index})
	}
	return info.DefaultDeny() && slices.Equal(slices.Sorted(slices.Values(info.Policies)), slices.Sorted(slices.Values(side.Isolating)))
}
