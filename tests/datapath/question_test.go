// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"net/netip"
	"testing"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/progtest"
)

func askAbout(t testing.TB, h *progtest.Harness, src, dst string, protocol datapath.Protocol, port uint16) datapath.Answer {
	t.Helper()
	answer, err := h.Ask(datapath.Question{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Protocol: protocol, Port: port})
	must(t, err)
	return answer
}

func TestQuestionsAreAnsweredLikePackets(t *testing.T) {
	h := judged(t)
	allowed := func(rule datapath.RuleID) datapath.Verdict {
		return datapath.Verdict{Judged: true, Allowed: true, Rule: rule, WouldAllow: true, WouldRule: rule}
	}
	denied := datapath.Verdict{Judged: true, Reason: "policy_ingress", Rule: 9, WouldRule: 9}
	none := datapath.Verdict{Allowed: true, WouldAllow: true}
	for _, c := range []struct {
		name, src, dst  string
		protocol        datapath.Protocol
		port            uint16
		egress, ingress datapath.Verdict
	}{
		{"both pods are local", "10.244.0.5", "10.244.0.6", datapath.TCP, 80, allowed(0), allowed(1)},
		{"by IPv6", "fd00:10:244::5", "fd00:10:244::6", datapath.TCP, 80, allowed(0), allowed(1)},
		{"another port", "10.244.0.5", "10.244.0.6", datapath.TCP, 81, allowed(0), denied},
		{"a range", "10.244.0.5", "10.244.0.6", datapath.UDP, 7123, allowed(0), allowed(3)},
		{"a protocol without ports", "10.244.0.5", "10.244.0.6", 1, 0, allowed(0), denied},
		{"only the destination is local", "192.0.2.1", "10.244.0.6", datapath.TCP, 81, none, allowed(2)},
		{"an exception", "192.0.2.129", "10.244.0.6", datapath.TCP, 81, none, denied},
		{"only the source is local", "10.244.0.5", "192.0.2.1", datapath.TCP, 81, allowed(0), none},
		{"neither is", "192.0.2.1", "198.51.100.1", datapath.TCP, 81, none, none},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := askAbout(t, h, c.src, c.dst, c.protocol, c.port)
			if got.Egress != c.egress || got.Ingress != c.ingress || got.Lost || got.Generation == 0 {
				t.Errorf("%+v, want %+v and %+v", got, c.egress, c.ingress)
			}
		})
	}
}

// TestQuestionsLeaveNoTrace asks, and sends packets that say the same, and looks for flows and counts after both.
func TestQuestionsLeaveNoTrace(t *testing.T) {
	h := judged(t)
	traces := func() (flows int, rules, packets uint64) {
		keys, err := h.Maps.Flow.Keys()
		must(t, err)
		counters, err := bpfmap.RuleCounters(h.Maps.RuleSlot, h.Maps.RuleCount)
		must(t, err)
		for _, r := range counters {
			rules += r.Connections
		}
		verdicts, drops, err := bpfmap.Metrics(h.Maps.Metric)
		must(t, err)
		for _, c := range append(verdicts, drops...) {
			packets += c.Packets
		}
		return len(keys), rules, packets
	}
	askAbout(t, h, "10.244.0.5", "10.244.0.6", datapath.TCP, 80)
	askAbout(t, h, "10.244.0.5", "10.244.0.6", datapath.TCP, 81)
	if flows, rules, packets := traces(); flows+int(rules+packets) != 0 {
		t.Errorf("questions left %d flows, %d counts of rules and %d of packets", flows, rules, packets)
	}
	for _, port := range []uint16{80, 81} {
		_, err := h.Send("a", datapath.Egress, first("10.244.0.5", "10.244.0.6", progtest.TCP, port))
		must(t, err)
	}
	if flows, rules, packets := traces(); flows != 1 || rules != 2 || packets != 2 {
		t.Errorf("packets left %d flows, %d counts of rules and %d of packets", flows, rules, packets)
	}
}

func TestALostEndpointIsTold(t *testing.T) {
	h := judged(t)
	entries, err := h.Maps.EndpointName.Keys()
	must(t, err)
	for _, ifindex := range entries {
		must(t, h.Maps.Endpoint.Remove(ifindex))
	}
	if got := askAbout(t, h, "10.244.0.5", "10.244.0.6", datapath.TCP, 80); !got.Lost {
		t.Errorf("%+v", got)
	}
}

func TestAPodWithoutPolicyIsToldFromADeniedOne(t *testing.T) {
	h := progtest.New(t)
	must(t, h.Endpoint("a", podA4))
	if got := askAbout(t, h, "10.244.0.5", "192.0.2.1", datapath.TCP, 80).Egress; !got.Failed || got.Allowed || got.Reason != "no_policy" {
		t.Errorf("%+v", got)
	}
}

func TestAnswersSayWhatAuditWouldChange(t *testing.T) {
	h := progtest.New(t)
	must(t, h.Endpoint("b", podB4))
	must(t, h.Load(&datapath.PolicyState{
		Sets: map[datapath.SetID]datapath.PolicySet{
			"open": {ID: "open", Default: datapath.Allow},
			"audited": {
				ID: "audited", Default: datapath.Allow, Audit: &datapath.AuditDefault{Action: datapath.Deny, Rule: 9},
				Rules: []datapath.Rule{{ID: 1, View: datapath.AuditOnly, AnyPeer: true, Ports: tcpPorts(80, 80)}},
			},
		},
		Endpoints: map[datapath.EndpointID]datapath.EndpointPolicy{"b": {Ingress: "audited", Egress: "open"}},
	}))
	for port, want := range map[uint16]datapath.Verdict{
		80: {Judged: true, Allowed: true, WouldAllow: true, WouldRule: 1},
		81: {Judged: true, Allowed: true, WouldRule: 9},
	} {
		if got := askAbout(t, h, "192.0.2.1", "10.244.0.6", datapath.TCP, port).Ingress; got != want {
			t.Errorf("port %d: %+v, want %+v", port, got, want)
		}
	}
}
