// SPDX-License-Identifier: Apache-2.0

// Package datapath_test sends packets through the real programs.
package datapath_test

import (
	"net/netip"
	"testing"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/progtest"
)

var (
	a4, b4, c4 = netip.MustParseAddr("10.244.0.5"), netip.MustParseAddr("10.244.0.6"), netip.MustParseAddr("10.244.1.7")
)

func TestQuick(t *testing.T) {
	h := progtest.New(t)
	must(t, h.Endpoint("a", a4))
	must(t, h.Endpoint("b", b4))
	must(t, h.Load(&datapath.PolicyState{
		Addresses: map[netip.Addr][]datapath.AtomID{a4: {"app=a"}, c4: {"app=c"}},
		CIDRs:     map[datapath.AtomID]datapath.CIDR{"net": {Prefix: netip.MustParsePrefix("192.0.2.0/24"), Except: []netip.Prefix{netip.MustParsePrefix("192.0.2.128/25")}}},
		Sets: map[datapath.SetID]datapath.PolicySet{
			"open": {ID: "open", Default: datapath.Allow},
			"in":   {ID: "in", Default: datapath.Deny, DefaultRule: 9, Rules: []datapath.Rule{{ID: 1, Peers: []datapath.AtomID{"app=a"}, Ports: []datapath.PortRange{{Protocol: 6, First: 80, Last: 80}}}, {ID: 2, Peers: []datapath.AtomID{"net"}, AnyPort: true}}},
		},
		Endpoints: map[datapath.EndpointID]datapath.EndpointPolicy{"a": {Ingress: "open", Egress: "open"}, "b": {Ingress: "in", Egress: "open"}},
	}))
	for _, p := range []progtest.Packet{
		{Src: a4, Dst: b4, Protocol: progtest.TCP, SrcPort: 1000, DstPort: 80},
		{Src: a4, Dst: b4, Protocol: progtest.TCP, SrcPort: 1000, DstPort: 81},
	} {
		allow, rule, reason, err := h.Verdict("a", datapath.Egress, p)
		t.Log(allow, rule, reason, err)
	}
	for _, p := range []progtest.Packet{
		{Src: c4, Dst: b4, Protocol: progtest.TCP, SrcPort: 1000, DstPort: 80},
		{Src: netip.MustParseAddr("192.0.2.1"), Dst: b4, Protocol: progtest.TCP, SrcPort: 1000, DstPort: 81},
		{Src: netip.MustParseAddr("192.0.2.129"), Dst: b4, Protocol: progtest.TCP, SrcPort: 1000, DstPort: 81},
	} {
		allow, rule, reason, err := h.Verdict("b", datapath.Ingress, p)
		t.Log(allow, rule, reason, err)
	}
}

func BenchmarkVerdict(b *testing.B) {
	h := progtest.New(b)
	must(b, h.Endpoint("a", a4))
	must(b, h.Endpoint("b", b4))
	must(b, h.Load(&datapath.PolicyState{
		Sets:      map[datapath.SetID]datapath.PolicySet{"open": {ID: "open", Default: datapath.Allow}},
		Endpoints: map[datapath.EndpointID]datapath.EndpointPolicy{"a": {Ingress: "open", Egress: "open"}, "b": {Ingress: "open", Egress: "open"}},
	}))
	p := progtest.Packet{Src: a4, Dst: b4, Protocol: progtest.TCP, SrcPort: 1000, DstPort: 80}
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
