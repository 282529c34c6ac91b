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
// rule that lets a's packets to b in is the last one.
func benchPolicy(rules, classes int) *datapath.PolicyState {
	set := datapath.PolicySet{ID: "bench", Default: datapath.Deny, DefaultRule: 1}
	for i := range rules {
		set.Rules = append(set.Rules, datapath.Rule{
			ID: datapath.RuleID(i + 2), Peers: []datapath.AtomID{datapath.AtomID(fmt.Sprintf("atom-%d", i))},
			Ports: []datapath.PortRange{{Protocol: datapath.TCP, First: uint16(1000 + i), Last: uint16(1000 + i)}},
		})
	}
	p := &datapath.PolicyState{
		Addresses: map[netip.Addr][]datapath.AtomID{},
		Sets:      map[datapath.SetID]datapath.PolicySet{"bench": set},
		Endpoints: map[datapath.EndpointID]datapath.EndpointPolicy{
			"a": {Ingress: "bench", Egress: "bench"}, "b": {Ingress: "bench", Egress: "bench"},
		},
	}
	for i := range classes {
		addr := netip.AddrFrom4([4]byte{10, 245, byte(i >> 8), byte(i)})
		p.Addresses[addr] = []datapath.AtomID{
			datapath.AtomID(fmt.Sprintf("atom-%d", i%rules)), datapath.AtomID(fmt.Sprintf("atom-%d", (i/rules*7+i*13+1)%rules)),
			datapath.AtomID(fmt.Sprintf("unused-%d", i)),
		}
	}
	last := datapath.AtomID(fmt.Sprintf("atom-%d", rules-1))
	p.Addresses[podA4] = []datapath.AtomID{last}
	p.Addresses[podB4] = []datapath.AtomID{last}
	return p
}

func benchWorld(b testing.TB) (*progtest.Harness, progtest.Packet) {
	h := progtest.New(b, func(o *loader.Options) { o.Bench, o.ServiceCIDRs = true, serviceCIDRs })
	must(b, h.Endpoint("a", podA4))
	must(b, h.Endpoint("b", podB4))
	must(b, h.Load(benchPolicy(benchRules, benchClasses)))
	p := progtest.Packet{
		Src: podA4, Dst: podB4, Protocol: progtest.TCP, SrcPort: 40000, DstPort: 1000 + benchRules - 1, Body: make([]byte, 64),
	}
	return h, p
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

// BenchmarkPrograms prints program times beside the one-LRU reference of the same run. The bars are 2.5 for an established packet
// and 5 for the first of a flow.
func BenchmarkPrograms(b *testing.B) {
	h, p := benchWorld(b)
	must(b, h.As("a"))
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
		if !r.Allowed() || r.Rule != benchRules+1 {
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
