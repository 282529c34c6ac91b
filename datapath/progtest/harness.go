// SPDX-License-Identifier: Apache-2.0

// Package progtest runs the real programs on single packets in a test, on maps of their own that nothing else sees. Nothing is
// attached or pinned.
package progtest

import (
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/bpfobj"
	"skep.dev/skep/datapath/check"
	"skep.dev/skep/datapath/loader"
	"skep.dev/skep/datapath/reconcile"
)

const (
	// loopback is the device that the kernel gives to packets of test runs; the harness makes it stand for one endpoint
	// after the other.
	loopback = 1
	// firstIfindex is the lowest of the made-up indexes that endpoints have otherwise.
	firstIfindex = 1000
	// elsewhere is the ingress device of packets that reach a pod from outside the node.
	elsewhere = 2
)

// Harness is one node's datapath with nothing attached.
type Harness struct {
	Maps     *bpfmap.Maps
	Node     *reconcile.Node
	Programs map[string]*ebpf.Program

	// takesOrigin says that a test run can say by which device a packet came in.
	takesOrigin bool

	indexes map[datapath.EndpointID]int
	// current is the endpoint that loopback stands for; empty when it must be written again.
	current datapath.EndpointID
	out     []byte
}

// Result is what a program did with a packet.
type Result struct {
	// Action is the TC_ACT_… value that the program returned.
	Action uint32
	Reason bpfobj.SkepReason
	Rule   datapath.RuleID
	// Packet is the frame afterwards.
	Packet []byte
	Mark   uint32
}

// Allowed says whether the packet was let through, whichever way.
func (r Result) Allowed() bool { return r.Reason < bpfobj.SkepReasonSKEP_REASON_FIRST_DROP }

// New loads the programs; the test is skipped without the rights to do so.
func New(t testing.TB, options ...func(*loader.Options)) *Harness {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("loading BPF programs needs root")
	}
	config := loader.Options{}
	for _, set := range options {
		set(&config)
	}
	takesOrigin := runsTakeOrigin(t)
	config.Bench = config.Bench || !takesOrigin
	objects, err := loader.Load(config)
	if err != nil {
		t.Fatalf("load: %+v", err)
	}
	t.Cleanup(func() { objects.Close() })
	h := &Harness{
		Maps: objects.Maps, Programs: objects.Programs, takesOrigin: takesOrigin,
		indexes: map[datapath.EndpointID]int{}, out: make([]byte, 4096),
	}
	h.Restart(t)
	return h
}

// Restart has another process take over the maps.
func (h *Harness) Restart(t testing.TB) {
	t.Helper()
	// A test's policies follow each other without rest: time stands where bumps need no waiting.
	now := time.Unix(0, 0)
	var err error
	h.Node, err = reconcile.New(h.Maps, reconcile.Clock{
		Now:   func() time.Time { now = now.Add(time.Second); return now },
		Sleep: func(time.Duration) {},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// NewPolicy is New for tests that only load policies and ask for verdicts.
func NewPolicy(t testing.TB) *Harness { return New(t) }

// Endpoint adds a local pod, or changes it. The addresses are at most one of each family.
func (h *Harness) Endpoint(id datapath.EndpointID, addrs ...netip.Addr) error {
	if h.indexes[id] == 0 {
		h.indexes[id] = firstIfindex + len(h.indexes)
	}
	h.current = ""
	return h.Node.SetEndpoint(datapath.Endpoint{
		ID: id, Namespace: "test", Name: string(id), Ifindex: h.indexes[id], IfName: "test", Addrs: addrs,
		MAC: MAC, HostMAC: HostMAC,
	})
}

// RemoveEndpoint forgets a pod.
func (h *Harness) RemoveEndpoint(id datapath.EndpointID) error {
	h.current = ""
	return h.Node.DeleteEndpoint(id)
}

// MAC and HostMAC are the hardware addresses of every endpoint.
var (
	MAC     = [6]byte{2, 0, 0, 0, 0, 2}
	HostMAC = [6]byte{2, 0, 0, 0, 0, 1}
)

// Load makes a policy the one in force.
func (h *Harness) Load(p *datapath.PolicyState) error {
	h.current = ""
	return h.Node.SetPolicy(p)
}

// Verdict says whether the packet is let through when nothing is known about its flow: sent by the endpoint (Egress), which
// judges the ingress policy of a local destination as well, or reaching it from outside the node (Ingress). An
// allowed packet's flow is forgotten again.
func (h *Harness) Verdict(id datapath.EndpointID, dir datapath.Direction, p Packet) (allow bool, rule datapath.RuleID, reason bpfobj.SkepReason, err error) {
	r, err := h.Send(id, dir, p)
	if err != nil {
		return false, 0, 0, err
	}
	if r.Allowed() {
		if err := h.Forget(p); err != nil {
			return false, 0, 0, err
		}
	}
	return r.Allowed(), r.Rule, r.Reason, nil
}

// Forget deletes the flow of a packet.
func (h *Harness) Forget(p Packet) error {
	key, _ := bpfmap.FlowKey(p.Tuple())
	return h.Maps.Flow.Remove(key)
}

// Tuple is the packet's tuple as flows have it.
func (p Packet) Tuple() bpfmap.Tuple {
	sport, dport := p.SrcPort, p.DstPort
	switch {
	case p.Protocol == ICMP && p.Type == EchoRequest4, p.Protocol == ICMPv6 && p.Type == EchoRequest6:
		sport, dport = p.ID, 0
	case p.Protocol == ICMP && p.Type == EchoReply4, p.Protocol == ICMPv6 && p.Type == EchoReply6:
		sport, dport = 0, p.ID
	case p.Protocol != TCP && p.Protocol != UDP && p.Protocol != SCTP:
		sport, dport = 0, 0
	}
	return bpfmap.Tuple{
		Protocol: p.Protocol,
		Src:      netip.AddrPortFrom(p.Src, sport),
		Dst:      netip.AddrPortFrom(p.Dst, dport),
	}
}

// Send has the endpoint send (Egress) or receive from outside the node (Ingress) a packet; flows are remembered.
func (h *Harness) Send(id datapath.EndpointID, dir datapath.Direction, p Packet) (Result, error) {
	return h.SendBytes(id, dir, p.Bytes())
}

// SendBytes is Send with any frame.
func (h *Harness) SendBytes(id datapath.EndpointID, dir datapath.Direction, frame []byte) (Result, error) {
	if err := h.become(id); err != nil {
		return Result{}, err
	}
	if dir == datapath.Egress {
		return h.Run(loader.ProgramFromPod, frame, Context{})
	}
	return h.fromElsewhere(frame)
}

// fromElsewhere has a packet reach the endpoint from outside the node.
func (h *Harness) fromElsewhere(frame []byte) (Result, error) {
	if !h.takesOrigin {
		return h.Run(toPodFromElsewhere, frame, Context{})
	}
	return h.Run(loader.ProgramToPod, frame, Context{IngressIfindex: elsewhere})
}

// toPodFromElsewhere is the program of a pod's device for packets from outside the node.
const toPodFromElsewhere = "skep_bench_to"

// runsTakeOrigin says whether a test run can say by which device the packet came in; 5.10 refuses that.
func runsTakeOrigin(t testing.TB) bool {
	t.Helper()
	empty, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		t.Fatalf("load an empty program: %v", err)
	}
	defer empty.Close()
	_, err = empty.Run(&ebpf.RunOptions{Data: make([]byte, 64), Context: &Context{IngressIfindex: elsewhere}})
	return err == nil
}

// FromNode delivers a packet of a process of this node to the endpoint.
func (h *Harness) FromNode(id datapath.EndpointID, p Packet) (Result, error) {
	if err := h.become(id); err != nil {
		return Result{}, err
	}
	return h.Run(loader.ProgramToPod, p.Bytes(), Context{})
}

// become makes the loopback device stand for an endpoint.
func (h *Harness) become(id datapath.EndpointID) error {
	if h.current == id && id != "" {
		return nil
	}
	index, ok := h.indexes[id]
	if !ok {
		return fmt.Errorf("endpoint %s was never added", id)
	}
	entry, ok, err := h.Maps.Endpoint.Get(uint32(index))
	if err != nil {
		return err
	}
	if !ok {
		return h.Maps.Endpoint.Remove(loopback)
	}
	if err := h.Maps.Endpoint.Put(loopback, entry); err != nil {
		return err
	}
	h.current = id
	return nil
}

// Run runs one program on one frame.
func (h *Harness) Run(program string, frame []byte, in Context) (Result, error) {
	p, ok := h.Programs[program]
	if !ok {
		return Result{}, fmt.Errorf("no program %s", program)
	}
	var out Context
	run := ebpf.RunOptions{Data: frame, DataOut: h.out[:cap(h.out)], Context: &in, ContextOut: &out}
	action, err := p.Run(&run)
	if err != nil {
		return Result{}, fmt.Errorf("run %s: %w", program, err)
	}
	return Result{
		Action: action, Reason: bpfobj.SkepReason(out.CB[0]), Rule: datapath.RuleID(out.CB[1]),
		Packet: append([]byte{}, run.DataOut...), Mark: out.Mark,
	}, nil
}

// Context is struct __sk_buff as test runs take and return it. Only Mark, Priority, IngressIfindex, Ifindex, CB and what follows
// Tstamp may be set.
type Context struct {
	Len, PktType, Mark, QueueMapping, Protocol     uint32
	VlanPresent, VlanTCI, VlanProto, Priority      uint32
	IngressIfindex, Ifindex, TcIndex               uint32
	CB                                             [5]uint32
	Hash, TcClassid, Data, DataEnd, NapiID, Family uint32
	RemoteIP4, LocalIP4                            uint32
	RemoteIP6, LocalIP6                            [4]uint32
	RemotePort, LocalPort, DataMeta                uint32
	FlowKeys, Tstamp                               uint64
	WireLen, GsoSegs                               uint32
	SK                                             uint64
	GsoSize, TstampType                            uint32
	HWTstamp                                       uint64
}

// As makes the loopback device stand for an endpoint, for programs that are run otherwise than by Send.
func (h *Harness) As(id datapath.EndpointID) error { return h.become(id) }

// Time runs a program many times on one frame, which it may change, and returns the mean time of a run.
func (h *Harness) Time(program string, frame []byte, repeat int) (time.Duration, error) {
	_, took, err := h.Programs[program].Benchmark(frame, repeat, nil)
	if err != nil {
		return 0, fmt.Errorf("run %s: %w", program, err)
	}
	return took, nil
}

// EndpointEntry is what the maps say of an endpoint.
func (h *Harness) EndpointEntry(id datapath.EndpointID) (bpfobj.SkepEndpoint, bool, error) {
	return h.Maps.Endpoint.Get(uint32(h.indexes[id]))
}

// Ask asks the check program.
func (h *Harness) Ask(q datapath.Question) (datapath.Answer, error) {
	answers, err := check.Ask(h.Programs[loader.ProgramCheck], []datapath.Question{q})
	if err != nil {
		return datapath.Answer{}, err
	}
	return answers[0], nil
}
