// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/bpfobj"
	"skep.dev/skep/datapath/conntrack"
	"skep.dev/skep/datapath/loader"
	"skep.dev/skep/datapath/progtest"
)

// send has a pod send a packet and checks why it was handed on or dropped.
func send(t *testing.T, h *progtest.Harness, from datapath.EndpointID, p progtest.Packet, want bpfobj.SkepReason) progtest.Result {
	t.Helper()
	r, err := h.Send(from, datapath.Egress, p)
	must(t, err)
	if r.Reason != want {
		t.Fatalf("%s, want %s", bpfmap.ReasonName(r.Reason), bpfmap.ReasonName(want))
	}
	return r
}

const (
	toLocal = bpfobj.SkepReasonSKEP_REASON_TO_LOCAL
	denied  = bpfobj.SkepReasonSKEP_REASON_ESTABLISHED_DENIED
)

// flow reads the entry of a packet's flow.
func flow(t *testing.T, h *progtest.Harness, p progtest.Packet) (bpfobj.SkepCtKey, bpfmap.FlowEntry) {
	t.Helper()
	key, _ := bpfmap.FlowKey(p.Tuple())
	entry, ok, err := h.Maps.Flow.Get(key)
	must(t, err)
	if !ok {
		t.Fatalf("no flow %+v", p.Tuple())
	}
	return key, entry
}

// TestAProgramsEntryReadsAsWritten crosses the boundary: the program writes an entry, Go reads it field by field, and a key that
// Go makes is the key that the program looks up.
func TestAProgramsEntryReadsAsWritten(t *testing.T) {
	for _, p := range []progtest.Packet{
		tcp4(), tcp6(),
		// The other order of the ends.
		{Src: podB4, Dst: podA4, Protocol: progtest.UDP, SrcPort: 0x1234, DstPort: 0x5678},
		{Src: podB6, Dst: podA6, Protocol: progtest.TCP, SrcPort: 1, DstPort: 65535},
	} {
		h := judged(t)
		from := datapath.EndpointID("a")
		if p.Src == podB4 || p.Src == podB6 {
			from = "b"
		}
		send(t, h, from, p, toLocal)
		key, entry := flow(t, h, p)
		if got := bpfmap.FlowTuple(key, entry); got != p.Tuple() {
			t.Errorf("the tuple reads %+v, want %+v", got, p.Tuple())
		}
		if entry.Packets != [2]uint64{1, 0} || entry.Bytes != [2]uint64{uint64(len(p.Bytes())), 0} {
			t.Errorf("counters %v %v", entry.Packets, entry.Bytes)
		}
		if from == "a" && (entry.Sides[datapath.Ingress].Rule != 1 || entry.Sides[datapath.Egress].Rule != 0) {
			t.Errorf("rules: egress %d, ingress %d", entry.Sides[datapath.Egress].Rule, entry.Sides[datapath.Ingress].Rule)
		}
		state, _, err := h.Maps.State.Get(0)
		must(t, err)
		if entry.Generation != state.Generation {
			t.Errorf("generation %d, want %d", entry.Generation, state.Generation)
		}
	}
}

func TestTheLifeOfAConnection(t *testing.T) {
	for name, syn := range map[string]progtest.Packet{"IPv4": tcp4(), "IPv6": tcp6()} {
		t.Run(name, func(t *testing.T) {
			h := judged(t)
			step := func(from datapath.EndpointID, p progtest.Packet, flags uint8, check func(bpfmap.FlowEntry) bool, state string) {
				t.Helper()
				p.Flags = flags
				send(t, h, from, p, toLocal)
				if _, entry := flow(t, h, syn); !check(entry) {
					t.Fatalf("not %s: %+v", state, entry)
				}
			}
			answer := syn.Turned()
			step("a", syn, progtest.SYN, func(e bpfmap.FlowEntry) bool { return !bpfmap.Answered(e) }, "opening")
			step("b", answer, progtest.SYN|progtest.ACK, bpfmap.Answered, "answered")
			step("a", syn, progtest.ACK, bpfmap.Established, "established")
			step("b", answer, progtest.ACK|progtest.FIN, func(e bpfmap.FlowEntry) bool { return !bpfmap.Closed(e) }, "half closed")
			step("a", syn, progtest.ACK|progtest.FIN, bpfmap.Closed, "closed")
			if _, e := flow(t, h, syn); e.Packets != [2]uint64{3, 2} {
				t.Errorf("packets %v", e.Packets)
			}
			step("a", syn, progtest.SYN, func(e bpfmap.FlowEntry) bool { return !bpfmap.Closed(e) && e.Packets[0] == 1 }, "a new connection")
		})
	}
}

func TestAPolicyChangeReachesKnownFlows(t *testing.T) {
	h := judged(t)
	syn, answer := tcp4(), tcp4().Turned()
	send(t, h, "a", syn, toLocal)
	send(t, h, "b", answer, toLocal)
	must(t, h.Load(isolated("b", "a")))
	// Whichever direction comes first, the initiator's tuple is what is judged.
	if r := send(t, h, "b", answer, denied); r.Rule != 7 {
		t.Errorf("denied by rule %d", r.Rule)
	}
	data := syn
	data.Flags = progtest.ACK
	send(t, h, "a", data, denied)
	send(t, h, "b", answer, denied)
	must(t, h.Load(open("a", "b")))
	send(t, h, "b", answer, toLocal)
	send(t, h, "a", data, toLocal)
}

func TestRepliesAreNotJudgedByTheirOwnTuple(t *testing.T) {
	h := judged(t)
	must(t, h.Load(isolated("a", "b")))
	syn, answer := tcp4(), tcp4().Turned()
	send(t, h, "b", answer, bpfobj.SkepReasonSKEP_REASON_MIDFLOW_DENIED)
	send(t, h, "a", syn, toLocal)
	send(t, h, "b", answer, toLocal)
	// A SYN from the answering side opens a connection of its own.
	back := answer
	back.Flags = progtest.SYN
	send(t, h, "b", back, bpfobj.SkepReasonSKEP_REASON_POLICY_INGRESS)
}

func TestEchoAndErrorsBelongToTheirFlow(t *testing.T) {
	h := judged(t)
	must(t, h.Load(isolated("a", "b")))
	ping := progtest.Packet{Src: podA4, Dst: podB4, Protocol: progtest.ICMP, Type: progtest.EchoRequest4, ID: 9}
	send(t, h, "a", ping, toLocal)
	send(t, h, "b", ping.Turned(), toLocal)
	other := ping.Turned()
	other.ID = 10
	send(t, h, "b", other, bpfobj.SkepReasonSKEP_REASON_ICMP_NO_FLOW)

	datagram := progtest.Packet{Src: podA4, Dst: podB4, Protocol: progtest.UDP, SrcPort: 1000, DstPort: 2000}
	send(t, h, "a", datagram, toLocal)
	unreachable := progtest.Packet{
		Src: podB4, Dst: podA4, Protocol: progtest.ICMP, Type: 3, Code: 3, Body: datagram.Bytes()[networkAt : networkAt+28],
	}
	r := send(t, h, "b", unreachable, bpfobj.SkepReasonSKEP_REASON_RELATED)
	if r.Mark == 0 {
		t.Error("the error goes through the stack without the mark that lets it into the pod")
	}
	unreachable.Dst = elsewhere4
	send(t, h, "b", unreachable, bpfobj.SkepReasonSKEP_REASON_ICMP_NO_FLOW)
}

func TestALaterFragmentSharesItsFirstOnesPorts(t *testing.T) {
	h := judged(t)
	firstOne := altered(progtest.Packet{Src: podA4, Dst: podB4, Protocol: progtest.UDP, SrcPort: 1000, DstPort: 7500, Body: make([]byte, 16)},
		func(b []byte) { b[flags4At] = 0x20 })
	later := altered(progtest.Packet{Src: podA4, Dst: podB4, Protocol: progtest.UDP, SrcPort: 9, DstPort: 9, Body: make([]byte, 16)},
		func(b []byte) { b[flags4At+1] = 3 })
	for i, frame := range [][]byte{firstOne, later} {
		r, err := h.SendBytes("a", datapath.Egress, frame)
		must(t, err)
		if r.Reason != toLocal {
			t.Errorf("fragment %d: %s", i, bpfmap.ReasonName(r.Reason))
		}
	}
}

func TestServicePacketsAreTranslatedBothWays(t *testing.T) {
	for _, c := range []struct {
		name             string
		to, backend, src netip.Addr
		protocol         uint8
		port, target     uint16
	}{
		{"TCP", service4, podB4, podA4, progtest.TCP, 80, 8080},
		{"UDP", service4, podB4, podA4, progtest.UDP, 53, 5353},
		{"TCP by IPv6", service6, podB6, podA6, progtest.TCP, 80, 8080},
		{"UDP by IPv6", service6, podB6, podA6, progtest.UDP, 53, 5353},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := judged(t)
			must(t, h.Load(open("a", "b")))
			must(t, h.Node.SetServices(services(podB4, podB6)))
			out := progtest.Packet{Src: c.src, Dst: c.to, Protocol: c.protocol, SrcPort: 1000, DstPort: c.port, Body: []byte("x")}
			arrives := out
			arrives.Dst, arrives.DstPort = c.backend, c.target
			if r := send(t, h, "a", out, toLocal); string(r.Packet[networkAt:]) != string(arrives.Bytes()[networkAt:]) {
				t.Errorf("the request arrives as\n%x, want\n%x", r.Packet[networkAt:], arrives.Bytes()[networkAt:])
			}
			back := out.Turned()
			if r := send(t, h, "b", arrives.Turned(), toLocal); string(r.Packet[networkAt:]) != string(back.Bytes()[networkAt:]) {
				t.Errorf("the answer arrives as\n%x, want\n%x", r.Packet[networkAt:], back.Bytes()[networkAt:])
			}
			if n := len(flows(t, h)); n != 2 {
				t.Errorf("%d entries, want the flow and its index", n)
			}
		})
	}
}

func flows(t *testing.T, h *progtest.Harness) map[bpfobj.SkepCtKey]bpfmap.FlowEntry {
	t.Helper()
	all, err := h.Maps.Flow.All()
	must(t, err)
	return all
}

func TestOldFlowsAreDeletedUnlessTheyCameToLife(t *testing.T) {
	h := judged(t)
	must(t, h.Load(open("a", "b")))
	old, alive := tcp4(), tcp6()
	send(t, h, "a", old, toLocal)
	send(t, h, "a", alive, toLocal)
	key, entry := flow(t, h, alive)
	later := time.Duration(entry.LastSeen) + 2*time.Minute
	sweeper := &conntrack.Sweeper{
		Maps: h.Maps, Expire: h.Programs[loader.ProgramExpire], Timeouts: conntrack.DefaultTimeouts,
		// Far in the future; one flow has been used even later.
		Now: func() (time.Duration, error) { return later, nil },
	}
	entry.LastSeen += uint64(3 * time.Minute)
	must(t, h.Maps.Flow.Put(key, entry))
	result, err := sweeper.Sweep()
	must(t, err)
	if left := flows(t, h); result.Deleted != 1 || len(left) != 1 || left[key].LastSeen != entry.LastSeen {
		t.Errorf("%+v, %d left", result, len(left))
	}
	// The program compares once more: a request that names another time deletes nothing.
	stale := entry
	stale.LastSeen--
	request, err := bpfmap.ExpireRequest(key, stale)
	must(t, err)
	r, err := h.Run(loader.ProgramExpire, append(make([]byte, networkAt), request...), progtest.Context{})
	must(t, err)
	if r.Action != 0 || len(flows(t, h)) != 1 {
		t.Errorf("a flow that came to life was deleted (%d)", r.Action)
	}
	var now unix.Timespec
	must(t, unix.ClockGettime(unix.CLOCK_MONOTONIC, &now))
	if age := now.Nano() - int64(entry.Created); age < 0 || age > int64(time.Minute) {
		t.Errorf("the flow was made %v ago by the programs' clock", time.Duration(age))
	}
}

func TestANewPodInheritsNoFlow(t *testing.T) {
	h := judged(t)
	must(t, h.Load(open("a", "b")))
	send(t, h, "a", tcp4(), toLocal)
	must(t, h.Endpoint("new", podB4))
	if n := len(flows(t, h)); n != 0 {
		t.Errorf("%d flows of the old pod are left", n)
	}
	must(t, h.RemoveEndpoint("b"))
	if entry, _, err := h.Maps.Address.Get(bpfmap.AddrOf(podB4)); entry.Ifindex == 0 || err != nil {
		t.Errorf("deleting the old pod took the new one's address (%v)", err)
	}
}

// A sender that does not stop when a pod goes opens a flow to an address that is nobody's, judged by its own egress alone. Whoever gets
// the address next must not be reached by that.
func TestANewPodInheritsNoFlowToAnAddressThatWasNobodys(t *testing.T) {
	h := judged(t)
	datagram := progtest.Packet{Src: podA4, Dst: podB4, Protocol: progtest.UDP, SrcPort: 1000, DstPort: 2000}
	must(t, h.RemoveEndpoint("b"))
	send(t, h, "a", datagram, bpfobj.SkepReasonSKEP_REASON_TO_STACK)
	must(t, h.Endpoint("b", podB4, podB6)) // the policy names it already, so no new generation comes with it
	send(t, h, "a", datagram, bpfobj.SkepReasonSKEP_REASON_POLICY_INGRESS)
}
