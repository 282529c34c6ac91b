// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/bpfobj"
	"skep.dev/skep/datapath/conntrack"
	"skep.dev/skep/datapath/loader"
	"skep.dev/skep/datapath/progtest"
)

// receive has a packet reach a pod from another node and checks why it was handed on or dropped.
func receive(t *testing.T, h *progtest.Harness, to datapath.EndpointID, p progtest.Packet, want bpfobj.SkepReason) progtest.Result {
	t.Helper()
	r, err := h.Send(to, datapath.Ingress, p)
	must(t, err)
	if r.Reason != want {
		t.Fatalf("%s, want %s", bpfmap.ReasonName(r.Reason), bpfmap.ReasonName(want))
	}
	return r
}

const (
	toStack = bpfobj.SkepReasonSKEP_REASON_TO_STACK
	toPod   = bpfobj.SkepReasonSKEP_REASON_TO_POD
	related = bpfobj.SkepReasonSKEP_REASON_RELATED
)

// sameFrame compares frames behind their Ethernet header.
func sameFrame(t *testing.T, what string, r progtest.Result, want progtest.Packet) {
	t.Helper()
	if got, want := r.Packet[networkAt:], want.Bytes()[networkAt:]; !bytes.Equal(got, want) {
		t.Errorf("%s is\n%x, want\n%x", what, got, want)
	}
}

// remote is a backend on another node.
func remote(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 244, 1, byte(10 + i)}) }

// toRemotes are Services on eleven backends of other nodes.
func toRemotes(protocol datapath.Protocol) []datapath.Service {
	var backends []datapath.Backend
	for i := range 11 {
		backends = append(backends, backend(remote(i), 8080))
	}
	return []datapath.Service{service(service4, 80, protocol, backends...)}
}

// The checksum of SCTP covers its ports and cannot be made anew: where the ports differ, policy would judge another port than the one
// that the packet arrives at.
func TestSCTPIsBalancedOnlyWhereThePortStays(t *testing.T) {
	for _, c := range []struct {
		name         string
		to, src, pod netip.Addr
	}{
		{"IPv4", service4, podA4, podB4},
		{"IPv6", service6, podA6, podB6},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := judged(t)
			must(t, h.Load(open("a", "b")))
			must(t, h.Node.SetServices([]datapath.Service{
				service(c.to, 22, datapath.SCTP, backend(c.pod, 8080)), service(c.to, 9899, datapath.SCTP, backend(c.pod, 9899)),
			}))
			out := progtest.Packet{Src: c.src, Dst: c.to, Protocol: progtest.SCTP, SrcPort: 1000, DstPort: 22, Body: []byte("init")}
			send(t, h, "a", out, bpfobj.SkepReasonSKEP_REASON_SCTP_PORT)
			if n := len(flows(t, h)); n != 0 {
				t.Errorf("%d entries of a refused packet", n)
			}
			out.DstPort = 9899
			arrives := out
			arrives.Dst = c.pod
			sameFrame(t, "the request", send(t, h, "a", out, toLocal), arrives)
			sameFrame(t, "the answer", send(t, h, "b", arrives.Turned(), toLocal), out.Turned())
		})
	}
}

func TestAPodsAddressComesFromThePodsDeviceOnly(t *testing.T) {
	h := judged(t)
	must(t, h.Load(open("a", "b")))
	known := tcp4()
	send(t, h, "a", known, toLocal)
	spoofed4, spoofed6 := bpfobj.SkepReasonSKEP_REASON_SPOOFED_IPV4, bpfobj.SkepReasonSKEP_REASON_SPOOFED_IPV6
	unreachable := progtest.Packet{Src: podA4, Dst: podB4, Protocol: progtest.ICMP, Type: 3, Code: 3, Body: known.Turned().Bytes()[networkAt:]}
	for _, c := range []struct {
		name string
		p    progtest.Packet
		want bpfobj.SkepReason
	}{
		{"a new connection", progtest.Packet{Src: podA4, Dst: podB4, Protocol: progtest.TCP, SrcPort: 9, DstPort: 80}, spoofed4},
		{"a new connection, IPv6", tcp6(), spoofed6},
		{"a known one", known, spoofed4},
		{"an error about a known one", unreachable, spoofed4},
		{"somebody else", progtest.Packet{Src: elsewhere4, Dst: podB4, Protocol: progtest.TCP, SrcPort: 9, DstPort: 80}, toPod},
	} {
		t.Run(c.name, func(t *testing.T) { receive(t, h, "b", c.p, c.want) })
	}
	if _, entry := flow(t, h, known); entry.Packets != [2]uint64{1, 0} {
		t.Errorf("the flow counts %v", entry.Packets)
	}
	// What a foreign rule sent back into the node, as a host port does, is judged like everything else.
	a, ok, err := h.Maps.Address.Get(bpfmap.AddrOf(podA4))
	if must(t, err); !ok {
		t.Fatal("a has no address")
	}
	must(t, h.As("b"))
	r, err := h.Run(loader.ProgramToPod, progtest.Packet{Src: podA4, Dst: podB4, Protocol: progtest.TCP, SrcPort: 8, DstPort: 80}.Bytes(),
		progtest.Context{IngressIfindex: a.Ifindex})
	must(t, err)
	if r.Reason != toPod {
		t.Errorf("from its own device: %s", bpfmap.ReasonName(r.Reason))
	}
}

// connect opens a connection of a's to a Service and returns its packet in the middle and the backend chosen.
func connect(t *testing.T, h *progtest.Harness, port uint16) (progtest.Packet, netip.Addr) {
	t.Helper()
	syn := progtest.Packet{Src: podA4, Dst: service4, Protocol: progtest.TCP, SrcPort: port, DstPort: 80}
	to := destination(send(t, h, "a", syn, toStack))
	arrived := syn
	arrived.Dst, arrived.DstPort = to, 8080
	answer := syn.Turned()
	sameFrame(t, "the answer", receive(t, h, "a", arrived.Turned(), toPod), answer)
	data := syn
	data.Flags = progtest.ACK
	if got := destination(send(t, h, "a", data, toStack)); got != to {
		t.Fatalf("a connection to %s goes on to %s", to, got)
	}
	return data, to
}

func destination(r progtest.Result) netip.Addr {
	to, _ := netip.AddrFromSlice(r.Packet[source4At+4 : source4At+8])
	return to
}

func forgetIndex(t *testing.T, h *progtest.Harness, p progtest.Packet) {
	t.Helper()
	if _, entry := flow(t, h, p); !bpfmap.Index(entry) {
		t.Fatalf("%+v is no index", entry)
	}
	must(t, h.Forget(p))
}

func TestAConnectionKeepsItsBackendWithoutItsIndex(t *testing.T) {
	h := judged(t)
	must(t, h.Load(open("a", "b")))
	must(t, h.Node.SetServices(toRemotes(datapath.TCP)))
	for i := range 20 {
		data, to := connect(t, h, uint16(2000+i))
		forgetIndex(t, h, data)
		if got := destination(send(t, h, "a", data, toStack)); got != to {
			t.Errorf("a connection to %s went on to %s", to, got)
		}
		flow(t, h, data) // the index is there again
	}
}

func TestAReplyKeepsTheIndexAlive(t *testing.T) {
	h := judged(t)
	must(t, h.Load(open("a", "b")))
	must(t, h.Node.SetServices(append(toRemotes(datapath.UDP), service(service6, 80, datapath.UDP, backend(podB6, 8080)))))
	question := progtest.Packet{Src: podA4, Dst: service4, Protocol: progtest.UDP, SrcPort: 1000, DstPort: 80}
	to := destination(send(t, h, "a", question, toStack))
	reply := progtest.Packet{Src: to, Dst: podA4, Protocol: progtest.UDP, SrcPort: 8080, DstPort: 1000}
	for range 5 {
		forgetIndex(t, h, question)
		receive(t, h, "a", reply, toPod)
		if _, index := flow(t, h, question); !bpfmap.Index(index) || bpfmap.Addr(index.Nat) != to {
			t.Fatalf("the index became %+v", index)
		}
		if got := destination(send(t, h, "a", question, toStack)); got != to {
			t.Fatalf("after the reply, %s is asked instead of %s", got, to)
		}
	}
	// By the other program, when the backend is a pod of this node.
	question6 := progtest.Packet{Src: podA6, Dst: service6, Protocol: progtest.UDP, SrcPort: 1000, DstPort: 80}
	send(t, h, "a", question6, toLocal)
	forgetIndex(t, h, question6)
	send(t, h, "b", progtest.Packet{Src: podB6, Dst: podA6, Protocol: progtest.UDP, SrcPort: 8080, DstPort: 1000}, toLocal)
	key, index := flow(t, h, question6)
	index.LastSeen = 1
	must(t, h.Maps.Flow.Put(key, index))
	send(t, h, "b", progtest.Packet{Src: podB6, Dst: podA6, Protocol: progtest.UDP, SrcPort: 8080, DstPort: 1000}, toLocal)
	if _, index := flow(t, h, question6); index.LastSeen == 1 {
		t.Error("a reply did not touch the index")
	}
}

func TestAPacketInMidFlowChoosesNoBackend(t *testing.T) {
	h := judged(t)
	must(t, h.Load(open("a", "b")))
	must(t, h.Node.SetServices(toRemotes(datapath.TCP)))
	data := progtest.Packet{Src: podA4, Dst: service4, Protocol: progtest.TCP, SrcPort: 1000, DstPort: 80, Flags: progtest.ACK}
	send(t, h, "a", data, bpfobj.SkepReasonSKEP_REASON_SERVICE_MIDFLOW)
	if n := len(flows(t, h)); n != 0 {
		t.Errorf("%d entries", n)
	}
}

func TestADeniedConnectionLeavesNothing(t *testing.T) {
	h := judged(t)
	must(t, h.Load(isolated("b", "a")))
	must(t, h.Node.SetServices(services(podB4, podB6)))
	send(t, h, "a", progtest.Packet{Src: podA4, Dst: service4, Protocol: progtest.TCP, SrcPort: 1, DstPort: 80}, bpfobj.SkepReasonSKEP_REASON_POLICY_INGRESS)
	if n := len(flows(t, h)); n != 0 {
		t.Errorf("%d entries", n)
	}
}

// sweepAt has the sweeper look at the table at a time after the newest use of any flow.
func sweepAt(t *testing.T, h *progtest.Harness, after time.Duration) int {
	t.Helper()
	var newest uint64
	for _, entry := range flows(t, h) {
		newest = max(newest, entry.LastSeen)
	}
	sweeper := &conntrack.Sweeper{
		Maps: h.Maps, Expire: h.Programs[loader.ProgramExpire], Timeouts: conntrack.DefaultTimeouts,
		Now: func() (time.Duration, error) { return time.Duration(newest) + after, nil },
	}
	_, err := sweeper.Sweep()
	must(t, err)
	return len(flows(t, h))
}

func TestAnIndexLivesAsLongAsItsFlow(t *testing.T) {
	h := judged(t)
	must(t, h.Load(open("a", "b")))
	must(t, h.Node.SetServices(append(toRemotes(datapath.TCP), services(podB4, podB6)[1])))
	_, to := connect(t, h, 2000)
	if n := sweepAt(t, h, time.Hour); n != 2 {
		t.Fatalf("%d entries of an idle connection, want the flow and its index", n)
	}
	reset := progtest.Packet{Src: to, Dst: podA4, Protocol: progtest.TCP, SrcPort: 8080, DstPort: 2000, Flags: progtest.RST}
	receive(t, h, "a", reset, toPod)
	if n := sweepAt(t, h, time.Minute); n != 0 {
		t.Errorf("%d entries of a connection that was reset", n)
	}

	// An index that nobody has used for long, of a flow that lives.
	question := progtest.Packet{Src: podA4, Dst: service4, Protocol: progtest.UDP, SrcPort: 1000, DstPort: 53}
	send(t, h, "a", question, toLocal)
	key, index := flow(t, h, question)
	index.LastSeen -= uint64(10 * time.Minute)
	must(t, h.Maps.Flow.Put(key, index))
	if n := sweepAt(t, h, 30*time.Second); n != 2 {
		t.Errorf("%d entries of a flow that lives", n)
	}
	if n := sweepAt(t, h, 2*time.Minute); n != 0 {
		t.Errorf("%d entries of a flow that ended", n)
	}
}

// quoting is an ICMP error by src about a packet, to its sender.
func quoting(src netip.Addr, about progtest.Packet, kind, code uint8) progtest.Packet {
	p := progtest.Packet{Src: src, Dst: about.Src, Protocol: progtest.ICMP, Type: kind, Code: code, Body: about.Bytes()[networkAt:]}
	if src.Is6() {
		p.Protocol = progtest.ICMPv6
	}
	return p
}

func TestErrorsAboutServicesAreTranslatedWhole(t *testing.T) {
	far4, far6 := remote(0), netip.MustParseAddr("fd00:10:244:1::10")
	router4, router6 := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")
	for _, c := range []struct {
		name                      string
		client, to, near, far, by netip.Addr
		unreachable, port, tooBig uint8
	}{
		{"IPv4", podA4, service4, podB4, far4, router4, 3, 3, 3},
		{"IPv6", podA6, service6, podB6, far6, router6, 1, 4, 2},
	} {
		for protocol, name := range map[uint8]string{progtest.UDP: "UDP", progtest.TCP: "TCP"} {
			t.Run(c.name+" "+name, func(t *testing.T) {
				h := judged(t)
				must(t, h.Load(open("a", "b")))
				must(t, h.Node.SetServices([]datapath.Service{
					service(c.to, 80, datapath.Protocol(protocol), backend(c.near, 8080)),
					service(c.to, 81, datapath.Protocol(protocol), backend(c.far, 8081)),
				}))
				asks := progtest.Packet{Src: c.client, Dst: c.to, Protocol: protocol, SrcPort: 1000, DstPort: 80, Body: []byte("ask")}
				arrives, farAsks := asks, asks
				arrives.Dst, arrives.DstPort = c.near, 8080
				farAsks.DstPort = 81
				farArrives := asks
				farArrives.Dst, farArrives.DstPort = c.far, 8081
				send(t, h, "a", asks, toLocal)
				send(t, h, "a", farAsks, toStack)

				r := send(t, h, "b", quoting(c.near, arrives, c.unreachable, c.port), related)
				sameFrame(t, "a near backend's error", r, quoting(c.to, asks, c.unreachable, c.port))
				r = receive(t, h, "a", quoting(c.far, farArrives, c.unreachable, c.port), related)
				sameFrame(t, "a far backend's error", r, quoting(c.to, farAsks, c.unreachable, c.port))
				r = receive(t, h, "a", quoting(c.by, farArrives, c.tooBig, 4), related)
				sameFrame(t, "a router's error", r, quoting(c.by, farAsks, c.tooBig, 4))
				must(t, h.As("a"))
				r, err := h.Run(loader.ProgramToPod, quoting(c.by, farArrives, c.tooBig, 4).Bytes(), progtest.Context{})
				must(t, err)
				sameFrame(t, "the node's error", r, quoting(c.by, farAsks, c.tooBig, 4))

				r = send(t, h, "a", quoting(c.client, asks.Turned(), c.unreachable, c.port), related)
				sameFrame(t, "the client's error", r, quoting(c.client, arrives.Turned(), c.unreachable, c.port))
				r = send(t, h, "a", quoting(c.client, farAsks.Turned(), c.unreachable, c.port), related)
				sameFrame(t, "the client's error to a far one", r, quoting(c.client, farArrives.Turned(), c.unreachable, c.port))
			})
		}
	}
}

// Eight bytes of what is reported on are all that a router must quote: TCP's checksum is not among them.
func TestAnErrorThatQuotesLittleIsTranslated(t *testing.T) {
	h := judged(t)
	must(t, h.Load(open("a", "b")))
	must(t, h.Node.SetServices(services(podB4, podB6)))
	asks := progtest.Packet{Src: podA4, Dst: service4, Protocol: progtest.TCP, SrcPort: 1000, DstPort: 80}
	arrives := asks
	arrives.Dst, arrives.DstPort = podB4, 8080
	send(t, h, "a", asks, toLocal)
	little := func(p progtest.Packet) progtest.Packet {
		p.Body = p.Body[:28]
		return p
	}
	sameFrame(t, "the error", send(t, h, "b", little(quoting(podB4, arrives, 3, 3)), related), little(quoting(service4, asks, 3, 3)))
}

func TestAPortThatNobodyListensOnIsRefusedBehindAService(t *testing.T) {
	w := newWorld(t, nil)
	a, b := w.addPod("a", podA4, podA6), w.addPod("b", podB4, podB6)
	must(t, w.dp.SetPolicy(t.Context(), open(a.ep.ID, b.ep.ID)))
	must(t, w.dp.SetServices(t.Context(), services(podB4, podB6)))
	for _, addr := range []netip.Addr{service4, service6} {
		var conn *net.UDPConn
		w.in(a.ns, func() (err error) {
			conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 53)))
			return err
		})
		defer conn.Close()
		if got := ask(conn, nil); got != "refused" {
			t.Errorf("%s: %s", addr, got)
		}
	}
}

// previousSlot is CT_SLOT_PREVIOUS in bpf/skep/maps.h.
const previousSlot = uint32(1)

// A table that is being replaced gives its entries up one by one, as they are used.
func TestEntriesMoveOverFromThePreviousTable(t *testing.T) {
	h := judged(t)
	must(t, h.Load(open("a", "b")))
	must(t, h.Node.SetServices(services(podB4, podB6)))
	asks := progtest.Packet{Src: podA4, Dst: service4, Protocol: progtest.UDP, SrcPort: 1000, DstPort: 53}
	arrives := asks
	arrives.Dst, arrives.DstPort = podB4, 5353
	send(t, h, "a", asks, toLocal)
	send(t, h, "a", tcp6(), toLocal)

	info, err := h.Maps.Flow.Info()
	must(t, err)
	made, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "previous", Type: info.Type, KeySize: info.KeySize, ValueSize: info.ValueSize, MaxEntries: info.MaxEntries, Flags: info.Flags,
	})
	must(t, err)
	defer made.Close()
	previous := bpfmap.Table[bpfobj.SkepCtKey, bpfobj.SkepCtEntry]{Map: made, Name: "previous"}
	for key, entry := range flows(t, h) {
		must(t, previous.Put(key, entry))
		must(t, h.Maps.Flow.Remove(key))
	}
	must(t, h.Maps.FlowTables.Put(previousSlot, made))

	// Were the flow not known, isolation would deny a's packet, and the answer too.
	must(t, h.Load(isolated("a", "b")))
	sameFrame(t, "the answer", send(t, h, "b", arrives.Turned(), toLocal), asks.Turned())
	sameFrame(t, "the next packet", send(t, h, "a", asks, toLocal), arrives)
	if _, entry := flow(t, h, arrives); entry.Packets != [2]uint64{2, 1} {
		t.Errorf("the flow counts %v", entry.Packets)
	}
	left, err := previous.All()
	must(t, err)
	key, _ := bpfmap.FlowKey(tcp6().Tuple())
	if _, untouched := left[key]; len(left) != 1 || !untouched {
		t.Errorf("left behind: %+v, want the flow that nobody used", left)
	}
	if n := len(flows(t, h)); n != 2 {
		t.Errorf("%d entries moved over, want the flow and its index", n)
	}
}
