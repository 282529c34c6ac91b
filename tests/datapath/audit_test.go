// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/bpfobj"
	"skep.dev/skep/datapath/event"
	"skep.dev/skep/datapath/progtest"
)

// audited is a policy under which b would only be reached on port 80 (rule 1, and rule 2 for what is denied) if it were enforced.
// With enforced it is.
func audited(enforced bool) *datapath.PolicyState {
	set := datapath.PolicySet{
		ID: "audit", Default: datapath.Allow, Audit: &datapath.AuditDefault{Action: datapath.Deny, Rule: 2},
		Rules: []datapath.Rule{{ID: 1, View: datapath.AuditOnly, AnyPeer: true, Ports: tcpPorts(80, 80)}},
	}
	if enforced {
		set.ID, set.Default, set.DefaultRule, set.Audit, set.Rules[0].View = "enforce", datapath.Deny, 2, nil, datapath.BothViews
	}
	return &datapath.PolicyState{
		Sets: map[datapath.SetID]datapath.PolicySet{"open": {ID: "open", Default: datapath.Allow}, set.ID: set},
		Endpoints: map[datapath.EndpointID]datapath.EndpointPolicy{
			"a": {Ingress: "open", Egress: "open"}, "b": {Ingress: set.ID, Egress: "open"},
		},
	}
}

func auditHarness(t *testing.T) (*progtest.Harness, *event.Reader) {
	h := progtest.New(t)
	must(t, h.Endpoint("a", podA4, podA6))
	must(t, h.Endpoint("b", podB4, podB6))
	must(t, h.Load(audited(false)))
	events, err := event.NewReader(h.Maps)
	must(t, err)
	t.Cleanup(func() { must(t, events.Close()) })
	return h, events
}

// counts are the counters by rule; when they began is left out.
func counts(t *testing.T, h *progtest.Harness) map[datapath.RuleID]datapath.RuleCounter {
	t.Helper()
	all, err := bpfmap.RuleCounters(h.Maps.RuleSlot, h.Maps.RuleCount)
	must(t, err)
	out := map[datapath.RuleID]datapath.RuleCounter{}
	for _, c := range all {
		if c.Since.IsZero() {
			t.Errorf("rule %d counts since never", c.Rule)
		}
		c.Since = time.Time{}
		out[c.Rule] = c
	}
	return out
}

func wantCounts(t *testing.T, h *progtest.Harness, want ...datapath.RuleCounter) {
	t.Helper()
	all := map[datapath.RuleID]datapath.RuleCounter{}
	for _, c := range want {
		all[c.Rule] = c
	}
	if d := cmp.Diff(all, counts(t, h)); d != "" {
		t.Error(d)
	}
}

func drain(t *testing.T, r *event.Reader) []datapath.AuditEvent {
	t.Helper()
	var out []datapath.AuditEvent
	must(t, r.Drain(func(e datapath.AuditEvent) { out = append(out, e) }))
	return out
}

func TestAuditCountsAndTellsButDoesNotBite(t *testing.T) {
	h, events := auditHarness(t)
	good := first("10.244.0.5", "10.244.0.6", progtest.TCP, 80)
	bad := first("10.244.0.5", "10.244.0.6", progtest.TCP, 81)
	size := uint64(len(good.Bytes()))
	for range 3 {
		send(t, h, "a", good, toLocal)
		send(t, h, "a", bad, toLocal)
	}
	back := bad
	back.Src, back.Dst, back.SrcPort, back.DstPort, back.Flags = bad.Dst, bad.Src, bad.DstPort, bad.SrcPort, progtest.ACK
	send(t, h, "b", back, toLocal)
	wantCounts(t, h,
		datapath.RuleCounter{Rule: 1, Connections: 1, Packets: 3, Bytes: 3 * size},
		datapath.RuleCounter{Rule: 2, Connections: 1, Packets: 4, Bytes: 4 * size, WouldDeny: 1},
	)
	told := drain(t, events)
	want := []datapath.AuditEvent{{
		Direction: datapath.Ingress, Protocol: datapath.TCP, WouldRule: 2,
		Src: netip.AddrPortFrom(podA4, 1000), Dst: netip.AddrPortFrom(podB4, 81),
	}}
	if len(told) != 1 || time.Since(told[0].Time).Abs() > time.Minute {
		t.Fatalf("events %+v", told)
	}
	told[0].Time = time.Time{}
	if d := cmp.Diff(want, told, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Error(d)
	}
}

// A policy that changes has every flow judged again. That makes no new connections.
func TestJudgingAgainCountsNoConnectionTwice(t *testing.T) {
	h, events := auditHarness(t)
	p := first("10.244.0.5", "10.244.0.6", progtest.TCP, 81)
	send(t, h, "a", p, toLocal)
	drain(t, events)
	ack := p
	ack.Flags = progtest.ACK
	for range 3 {
		must(t, h.Load(audited(false)))
		send(t, h, "a", ack, toLocal)
	}
	if c := counts(t, h)[2]; c.Connections != 1 || c.WouldDeny != 1 || c.Packets != 4 {
		t.Errorf("counted %+v", c)
	}
	if told := drain(t, events); len(told) != 0 {
		t.Errorf("told again: %+v", told)
	}
}

func TestAuditBecomesEnforcementForOpenConnectionsToo(t *testing.T) {
	h, _ := auditHarness(t)
	good, bad := first("10.244.0.5", "10.244.0.6", progtest.TCP, 80), first("10.244.0.5", "10.244.0.6", progtest.TCP, 81)
	send(t, h, "a", good, toLocal)
	send(t, h, "a", bad, toLocal)
	_, entry := flow(t, h, bad)
	side := entry.Sides[datapath.Ingress]
	if side.Rule != 0 || side.WouldRule != 2 || bpfobj.SkepCtFlag(entry.Flags)&bpfobj.SkepCtFlagCT_WOULD_DIFFER_INGRESS == 0 {
		t.Errorf("in audit mode: %+v, flags %#x", side, entry.Flags)
	}
	must(t, h.Load(audited(true)))
	good.Flags, bad.Flags = progtest.ACK, progtest.ACK
	send(t, h, "a", good, toLocal)
	send(t, h, "a", bad, denied)
	_, entry = flow(t, h, bad)
	side = entry.Sides[datapath.Ingress]
	if side.Rule != 2 || side.WouldRule != 0 || bpfobj.SkepCtFlag(entry.Flags)&bpfobj.SkepCtFlagCT_WOULD_DIFFER_INGRESS != 0 {
		t.Errorf("enforced: %+v, flags %#x", side, entry.Flags)
	}
	must(t, h.Load(audited(false)))
	send(t, h, "a", bad, toLocal)
}

// Every attempt at what the enforced policy refuses and one in audit mode would allow is told: nothing is remembered of it.
func TestAuditOfAnAllowance(t *testing.T) {
	h, events := auditHarness(t)
	state := audited(true)
	set := state.Sets["enforce"]
	set.ID, set.Rules = "both", append(set.Rules, datapath.Rule{ID: 3, View: datapath.AuditOnly, AnyPeer: true, Ports: tcpPorts(81, 81)})
	state.Sets["both"] = set
	state.Endpoints["b"] = datapath.EndpointPolicy{Ingress: "both", Egress: "open"}
	must(t, h.Load(state))
	p := first("10.244.0.5", "10.244.0.6", progtest.TCP, 81)
	for range 2 {
		send(t, h, "a", p, bpfobj.SkepReasonSKEP_REASON_POLICY_INGRESS)
	}
	size := uint64(len(p.Bytes()))
	wantCounts(t, h,
		datapath.RuleCounter{Rule: 1},
		datapath.RuleCounter{Rule: 2, Connections: 2, Packets: 2, Bytes: 2 * size},
		datapath.RuleCounter{Rule: 3, Connections: 2, Packets: 2, Bytes: 2 * size, WouldAllow: 2},
	)
	told := drain(t, events)
	if len(told) != 2 || !told[0].WouldAllow || told[0].Rule != 2 || told[0].WouldRule != 3 {
		t.Errorf("told %+v", told)
	}
}

// What finds no room is counted as lost, and the counters have all of it.
func TestEventsThatFindNoRoomAreCounted(t *testing.T) {
	h, events := auditHarness(t)
	const attempts = 6000
	p := first("10.244.0.5", "10.244.0.6", progtest.UDP, 81)
	for i := range attempts {
		p.SrcPort = uint16(1000 + i)
		send(t, h, "a", p, toLocal)
	}
	lost, err := event.Lost(h.Maps)
	must(t, err)
	told := len(drain(t, events))
	if lost == 0 || told == 0 || int(lost)+told != attempts {
		t.Errorf("%d told and %d lost of %d", told, lost, attempts)
	}
	if c := counts(t, h)[2]; c.WouldDeny != attempts {
		t.Errorf("counted %+v", c)
	}
}
