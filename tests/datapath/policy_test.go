// SPDX-License-Identifier: Apache-2.0

// Package datapath_test sends packets through the real programs.
package datapath_test

import (
	"net/netip"
	"testing"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/progtest"
)

// judged is a world for first packets: b lets in pods labelled a on TCP port 80, a network except half of it on any port, and a
// range of UDP ports from everybody. a may send what it likes.
func judged(t testing.TB) *progtest.Harness {
	h := progtest.New(t)
	must(t, h.Endpoint("a", podA4, podA6))
	must(t, h.Endpoint("b", podB4, podB6))
	addresses, groups := datapath.Grouped(map[netip.Addr][]datapath.AtomID{podA4: {"app=a"}, podA6: {"app=a"}, elsewhere4: {"app=c"}})
	must(t, h.Load(&datapath.PolicyState{
		Addresses: addresses, Groups: groups,
		CIDRs: datapath.MapOf(map[datapath.AtomID]datapath.CIDR{
			"net4": {Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Except: []netip.Prefix{netip.MustParsePrefix("192.0.2.128/25")}},
			"all6": {Prefixes: []netip.Prefix{netip.MustParsePrefix("::/0")}, Except: []netip.Prefix{netip.MustParsePrefix("2001:db8:1::/48")}},
		}),
		Sets: map[datapath.SetID]datapath.PolicySet{
			"open": {ID: "open", Default: datapath.Allow},
			"in": {ID: "in", Default: datapath.Deny, DefaultRule: 9, Rules: []datapath.Rule{
				{ID: 1, Peers: []datapath.AtomID{"app=a"}, Ports: tcpPorts(80, 80)},
				{ID: 2, Peers: []datapath.AtomID{"net4", "all6"}, AnyPort: true},
				{ID: 3, AnyPeer: true, Ports: []datapath.PortRange{{Protocol: datapath.UDP, First: 7000, Last: 7999}}},
			}},
		},
		Endpoints: map[datapath.EndpointID]datapath.EndpointPolicy{
			"a": {Ingress: "open", Egress: "open"}, "b": {Ingress: "in", Egress: "open"},
		},
	}))
	return h
}

func tcpPorts(first, last uint16) []datapath.PortRange {
	return []datapath.PortRange{{Protocol: datapath.TCP, First: first, Last: last}}
}

var elsewhere4 = netip.MustParseAddr("10.244.1.7")

func TestFirstPacketsAreJudged(t *testing.T) {
	h := judged(t)
	for _, c := range []struct {
		name     string
		src, dst string
		protocol uint8
		port     uint16
		want     datapath.RuleID
		allow    bool
	}{
		{"the labelled pod on the port", "10.244.0.5", "10.244.0.6", progtest.TCP, 80, 1, true},
		{"the same by IPv6", "fd00:10:244::5", "fd00:10:244::6", progtest.TCP, 80, 1, true},
		{"another port", "10.244.0.5", "10.244.0.6", progtest.TCP, 81, 9, false},
		{"the port of another protocol", "10.244.0.5", "10.244.0.6", progtest.UDP, 80, 9, false},
		{"a range that everybody may use", "10.244.0.5", "10.244.0.6", progtest.UDP, 7123, 3, true},
		{"the first port of the range", "10.244.0.5", "10.244.0.6", progtest.UDP, 7000, 3, true},
		{"before the range", "10.244.0.5", "10.244.0.6", progtest.UDP, 6999, 9, false},
		{"after the range", "10.244.0.5", "10.244.0.6", progtest.UDP, 8000, 9, false},
		{"a protocol without ports", "10.244.0.5", "10.244.0.6", progtest.ICMP, 0, 9, false},
		{"SCTP", "10.244.0.5", "10.244.0.6", progtest.SCTP, 80, 9, false},
	} {
		t.Run("from a pod/"+c.name, func(t *testing.T) {
			verdict(t, h, "a", datapath.Egress, first(c.src, c.dst, c.protocol, c.port), c.allow, c.want)
		})
	}
	for _, c := range []struct {
		name, src, dst string
		want           datapath.RuleID
		allow          bool
	}{
		{"a pod with another label", "10.244.1.7", "10.244.0.6", 9, false},
		{"an address in the network", "192.0.2.1", "10.244.0.6", 2, true},
		{"an address in the exception", "192.0.2.129", "10.244.0.6", 9, false},
		{"an address that no atom covers", "198.51.100.1", "10.244.0.6", 9, false},
		{"an IPv6 address, by ::/0", "2001:db8::1", "fd00:10:244::6", 2, true},
		{"an IPv6 address in the exception of ::/0", "2001:db8:1::1", "fd00:10:244::6", 9, false},
	} {
		t.Run("from elsewhere/"+c.name, func(t *testing.T) {
			verdict(t, h, "b", datapath.Ingress, first(c.src, c.dst, progtest.TCP, 81), c.allow, c.want)
		})
	}
}

func first(src, dst string, protocol uint8, port uint16) progtest.Packet {
	p := progtest.Packet{
		Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Protocol: protocol, SrcPort: 1000, DstPort: port,
	}
	if protocol == progtest.ICMP {
		p.Type, p.ID = progtest.EchoRequest4, 77
	}
	return p
}

func verdict(t *testing.T, h *progtest.Harness, id datapath.EndpointID, dir datapath.Direction, p progtest.Packet, allow bool, want datapath.RuleID) {
	t.Helper()
	got, rule, reason, err := h.Verdict(id, dir, p)
	must(t, err)
	if got != allow || rule != want {
		t.Errorf("allowed %v by rule %d (%s); want %v by rule %d", got, rule, bpfmap.ReasonName(reason), allow, want)
	}
}

func BenchmarkVerdict(b *testing.B) {
	h := progtest.New(b)
	must(b, h.Endpoint("a", podA4))
	must(b, h.Endpoint("b", podB4))
	must(b, h.Load(&datapath.PolicyState{
		Sets:      map[datapath.SetID]datapath.PolicySet{"open": {ID: "open", Default: datapath.Allow}},
		Endpoints: map[datapath.EndpointID]datapath.EndpointPolicy{"a": {Ingress: "open", Egress: "open"}, "b": {Ingress: "open", Egress: "open"}},
	}))
	p := progtest.Packet{Src: podA4, Dst: podB4, Protocol: progtest.TCP, SrcPort: 1000, DstPort: 80}
	for b.Loop() {
		if allow, _, reason, err := h.Verdict("a", datapath.Egress, p); !allow || err != nil {
			b.Fatal(reason, err)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
