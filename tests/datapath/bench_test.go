// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/loader"
	"skep.dev/skep/datapath/progtest"
)

// Size of the world in which programs are measured.
const (
	benchRules   = 1000
	benchClasses = 10000
	benchRepeat  = 20000
)

// benchPolicy has 1,000 rules in one set, each with a peer selector and a port of its own, and 10,000 classes of addresses. The
// rule that lets a's packets to b in is the last one; it selects them, or with byPrefix all addresses around them.
func benchPolicy(rules, classes int, byPrefix bool) *datapath.PolicyState {
	set := datapath.PolicySet{ID: "bench", Default: datapath.Deny, DefaultRule: 1}
	for i := range rules {
		set.Rules = append(set.Rules, datapath.Rule{
			ID: datapath.RuleID(i + 2), Peers: []datapath.AtomID{datapath.AtomID(fmt.Sprintf("atom-%d", i))},
			Ports: []datapath.PortRange{{Protocol: datapath.TCP, First: uint16(1000 + i), Last: uint16(1000 + i)}},
		})
	}
	p := &datapath.PolicyState{
		Sets: map[datapath.SetID]datapath.PolicySet{"bench": set},
		Endpoints: map[datapath.EndpointID]datapath.EndpointPolicy{
			"a": {Ingress: "bench", Egress: "bench"}, "b": {Ingress: "bench", Egress: "bench"},
		},
	}
	addresses := map[netip.Addr][]datapath.AtomID{}
	for i := range classes {
		addr := netip.AddrFrom4([4]byte{10, 245, byte(i >> 8), byte(i)})
		addresses[addr] = []datapath.AtomID{
			datapath.AtomID(fmt.Sprintf("atom-%d", i%rules)), datapath.AtomID(fmt.Sprintf("atom-%d", (i/rules*7+i*13+1)%rules)),
			datapath.AtomID(fmt.Sprintf("unused-%d", i)),
		}
	}
	last := datapath.AtomID(fmt.Sprintf("atom-%d", rules-1))
	if byPrefix {
		p.CIDRs = datapath.MapOf(map[datapath.AtomID]datapath.CIDR{last: {Prefixes: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}}})
	} else {
		addresses[podA4] = []datapath.AtomID{last}
		addresses[podB4] = []datapath.AtomID{last}
	}
	p.Addresses, p.Groups = datapath.Grouped(addresses)
	return p
}

// benchCase is a world in which programs are measured.
type benchCase struct {
	name     string
	rules    int
	services int
	// policies are for other pods, each with a set of its own.
	policies int
	// byPrefix has a and b match by CIDR peers, and every destination looked up among the Services.
	byPrefix bool
	// outside has a send to an address of that prefix which is no pod's of this node: only a's egress is judged, but the class is
	// looked for by prefix. Those of this node's own pods are known exactly.
	outside bool
}

func (c benchCase) world(b testing.TB) (*progtest.Harness, progtest.Packet) {
	h := progtest.New(b, func(o *loader.Options) {
		o.Bench = true
		if !c.byPrefix {
			o.ServiceCIDRs = serviceCIDRs
		}
	})
	must(b, h.Endpoint("a", podA4))
	must(b, h.Endpoint("b", podB4))
	policy := benchPolicy(c.rules, benchClasses, c.byPrefix)
	for i := range c.policies {
		set := datapath.PolicySet{ID: datapath.SetID(fmt.Sprintf("other-%d", i)), Default: datapath.Deny, DefaultRule: 1}
		set.Rules = []datapath.Rule{{ID: 2, Peers: []datapath.AtomID{datapath.AtomID(fmt.Sprintf("unused-%d", i))}, Ports: tcpPorts(80, 443)}}
		policy.Sets[set.ID] = set
	}
	must(b, h.Load(policy))
	var services []datapath.Service
	for i := range c.services {
		addr := netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})
		services = append(services, service(addr, 80, datapath.TCP, backend(podB4, 8080)))
	}
	must(b, h.Node.SetServices(services))
	must(b, h.As("a"))
	dst := podB4
	if c.outside {
		dst = netip.MustParseAddr("10.244.200.9")
	}
	return h, progtest.Packet{
		Src: podA4, Dst: dst, Protocol: progtest.TCP, SrcPort: 40000, DstPort: uint16(1000 + c.rules - 1), Body: make([]byte, 64),
	}
}

// program is the time of one run, the least of several measurements: what disturbs only ever adds.
func program(t testing.TB, h *progtest.Harness, name string, frame []byte, before func()) time.Duration {
	best := time.Hour
	for range 9 {
		if before != nil {
			before()
		}
		took, err := h.Time(name, frame, benchRepeat)
		must(t, err)
		best = min(best, took)
	}
	return best
}

// BenchmarkPrograms prints program times beside the one-LRU reference of the same run. The bars are 2.5 for an established packet,
// 5 for the first of a flow and 8 for the first with everything; the other cases show what does not depend on their size.
func BenchmarkPrograms(b *testing.B) {
	for _, c := range []benchCase{
		{name: "rules=1000/services=10", rules: benchRules, services: 10},
		{name: "rules=1000/services=10000", rules: benchRules, services: 10000},
		{name: "rules=1/services=10", rules: 1, services: 10},
		{name: "policies=1", rules: 1, policies: 1},
		{name: "policies=100", rules: 100, policies: 100},
		{name: "policies=1000", rules: 1000, policies: 1000},
		{name: "everything", rules: benchRules, services: 10000, byPrefix: true},
		{name: "everything/outside", rules: benchRules, services: 10000, byPrefix: true, outside: true},
	} {
		b.Run(c.name, func(b *testing.B) { benchPrograms(b, c) })
	}
}

func benchPrograms(b *testing.B, c benchCase) {
	h, p := c.world(b)
	established := p
	established.Flags = progtest.ACK
	clear := func() {
		flows, err := h.Maps.Flow.Keys()
		must(b, err)
		for _, flow := range flows {
			must(b, h.Maps.Flow.Remove(flow))
		}
	}
	var reference, first, known time.Duration
	for b.Loop() {
		reference = program(b, h, "skep_bench_reference", established.Bytes(), nil)
		first = program(b, h, "skep_bench_first", p.Bytes(), clear)
		r, err := h.Send("a", datapath.Egress, p)
		must(b, err)
		if !r.Allowed() || int(r.Rule) != c.rules+1 {
			b.Fatalf("the first packet: %+v", r)
		}
		known = program(b, h, loader.ProgramFromPod, established.Bytes(), nil)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(reference.Nanoseconds()), "reference-ns")
	b.ReportMetric(float64(known.Nanoseconds()), "established-ns")
	b.ReportMetric(float64(first.Nanoseconds()), "first-ns")
	b.ReportMetric(float64(known)/float64(reference), "established/reference")
	b.ReportMetric(float64(first)/float64(reference), "first/reference")
}
