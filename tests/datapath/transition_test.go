// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"skep.dev/skep/datapath"
)

// Ports of the standing traffic from pod a to pod b. What is sent to the denied ones is counted, and never answered.
const (
	allowedUDP, allowedTCP = 7000, 80
	deniedUDP, deniedTCP   = 7001, 81
	numberedUDP            = 6999 // allowed too
)

// standing is traffic whose verdicts no swap of policies may change: a goes on to reach b at the allowed ports by flows old and new, and
// at the denied ones by none. It runs on one processor, while policies are swapped on another.
type standing struct {
	a, b *pod
	// steps counts turns, each a packet or more of every kind; deniedNew and deniedKnown packets that must have been dropped.
	steps, deniedNew, deniedKnown atomic.Int64
	// leaked counts what arrived at denied ports; quiet says that nothing is sent there.
	leaked atomic.Int64
	quiet  atomic.Bool
	// again counts segments that TCP sent again. On a busy machine it does so without need: that nothing was dropped is seen from the
	// datapath's own counters.
	again atomic.Int64
	// streams are sent beside all that, by the address of pod b that they go to.
	streams map[netip.Addr]pair
	cpu     int
	stop    chan struct{}
	group   sync.WaitGroup
	mu      sync.Mutex
	faults  []error
}

func newStanding(a, b *pod, cpu int) *standing {
	return &standing{a: a, b: b, cpu: cpu, stop: make(chan struct{})}
}

// serve listens at all ports of b.
func (s *standing) serve() {
	t := s.b.world.t
	s.b.serve(allowedTCP, "b")
	for _, port := range []int{allowedUDP, deniedUDP} {
		s.b.world.in(s.b.ns, func() error {
			fd, err := udpSocket(unix.AF_INET6, 0)
			if err != nil {
				return err
			}
			if err := unix.Bind(fd, &unix.SockaddrInet6{Port: port}); err != nil {
				return err
			}
			t.Cleanup(func() { unix.Close(fd) })
			go s.answer(fd, port)
			return nil
		})
	}
}

// answer echoes at an allowed port and counts at a denied one, until the socket is shut down.
func (s *standing) answer(fd, port int) {
	buffer := make([]byte, 64)
	for {
		n, from, err := unix.Recvfrom(fd, buffer, 0)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return
		}
		if port == deniedUDP {
			s.leaked.Add(1)
			continue
		}
		_ = unix.Sendto(fd, buffer[:n], 0, from)
	}
}

// run sends over one family until stop. It returns when the known flows are there.
func (s *standing) run(to netip.Addr) {
	ready := make(chan struct{})
	s.group.Go(func() {
		// The thread is in another namespace and pinned: it ends with the goroutine.
		runtime.LockOSThread()
		signal := sync.OnceFunc(func() { close(ready) })
		defer signal()
		if err := s.loop(to, signal); err != nil {
			s.fault(fmt.Errorf("to %s: %w", to, err))
		}
	})
	<-ready
}

func (s *standing) fault(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, err)
}

func (s *standing) loop(to netip.Addr, ready func()) error {
	var on unix.CPUSet
	on.Set(s.cpu)
	if err := errors.Join(unix.SchedSetaffinity(0, &on), unix.Setns(int(s.a.ns), unix.CLONE_NEWNET)); err != nil {
		return err
	}
	known, err := dialFD(unix.SOCK_DGRAM, to, allowedUDP)
	if err != nil {
		return err
	}
	defer unix.Close(known)
	denied, err := dialFD(unix.SOCK_DGRAM, to, deniedUDP)
	if err != nil {
		return err
	}
	defer unix.Close(denied)
	stream, err := dialFD(unix.SOCK_STREAM, to, allowedTCP)
	if err != nil {
		return err
	}
	defer unix.Close(stream)
	if err := greeted(stream); err != nil {
		return err
	}
	// The flow to the denied port becomes known while everything is open.
	if _, err := unix.Write(denied, []byte("known")); err != nil {
		return err
	}
	ready()
	for turn := 0; ; turn++ {
		select {
		case <-s.stop:
			return errors.Join(s.streams[to].end(), s.retransmitted(stream))
		default:
		}
		line := strconv.Itoa(turn) + "\n"
		err := errors.Join(
			named("a known UDP flow", pingpong(known, line)),
			named("a known TCP connection", pingpong(stream, line)),
			named("a new UDP flow", s.fresh(unix.SOCK_DGRAM, to, allowedUDP, line)),
			named("a new TCP connection", s.fresh(unix.SOCK_STREAM, to, allowedTCP, line)),
			s.denied(denied, to),
			named("a numbered stream", s.streams[to].turn()),
		)
		if err != nil {
			return fmt.Errorf("turn %d: %w", turn, err)
		}
		s.steps.Add(1)
	}
}

func named(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// fresh opens a flow of its own for one exchange.
func (s *standing) fresh(kind int, to netip.Addr, port int, line string) error {
	fd, err := dialFD(kind, to, port)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if kind == unix.SOCK_STREAM {
		if err := greeted(fd); err != nil {
			return err
		}
		// A reset leaves nothing behind that waits.
		if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			return err
		}
	}
	return pingpong(fd, line)
}

// denied sends what must not arrive: on a known flow, on a new one, and a SYN.
func (s *standing) denied(known int, to netip.Addr) error {
	if s.quiet.Load() {
		return nil
	}
	if _, err := unix.Write(known, []byte("leak")); err != nil {
		return err
	}
	s.deniedKnown.Add(1)
	fresh, err := dialFD(unix.SOCK_DGRAM, to, deniedUDP)
	if err != nil {
		return err
	}
	_, err = unix.Write(fresh, []byte("leak"))
	unix.Close(fresh)
	if err != nil {
		return err
	}
	syn, err := unix.Socket(family(to), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(syn)
	if err := unix.Connect(syn, sockaddr(to, deniedTCP)); !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("a SYN to a denied port: %v", err)
	}
	s.deniedNew.Add(2)
	return nil
}

// patience is how long an answer may take on a machine that is busy with something else. A datagram that is lost is never answered.
const patience = 10 * time.Second

func family(to netip.Addr) int {
	if to.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func sockaddr(to netip.Addr, port int) unix.Sockaddr {
	if to.Is4() {
		return &unix.SockaddrInet4{Port: port, Addr: to.As4()}
	}
	return &unix.SockaddrInet6{Port: port, Addr: to.As16()}
}

func udpSocket(family, flags int) (int, error) {
	return unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|flags, 0)
}

// dialFD connects a blocking socket of the calling thread's namespace.
func dialFD(kind int, to netip.Addr, port int) (int, error) {
	fd, err := unix.Socket(family(to), kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit),
	)
	if err == nil {
		err = again(func() error { return unix.Connect(fd, sockaddr(to, port)) })
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// again repeats a call that a signal of the runtime interrupted.
func again(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// greeted reads what the server says first.
func greeted(fd int) error {
	buffer := make([]byte, 2)
	return again(func() error { _, err := unix.Read(fd, buffer); return err })
}

// pingpong sends a line and awaits it.
func pingpong(fd int, line string) error {
	if err := again(func() error { _, err := unix.Write(fd, []byte(line)); return err }); err != nil {
		return err
	}
	buffer := make([]byte, len(line))
	for got := 0; got < len(line); {
		err := again(func() error {
			n, err := unix.Read(fd, buffer[got:])
			if err == nil && n == 0 {
				return errors.New("closed")
			}
			got += max(n, 0)
			return err
		})
		if err != nil {
			return err
		}
	}
	if string(buffer) != line {
		return fmt.Errorf("%q came back for %q", buffer, line)
	}
	return nil
}

// retransmitted counts what TCP had to send again on a connection.
func (s *standing) retransmitted(fd int) error {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err == nil {
		s.again.Add(int64(info.Total_retrans))
	}
	return err
}

// swaps makes random policies under which the verdicts of the standing traffic are the same.
type swaps struct {
	*rand.Rand
	a, b *pod
}

var (
	goodPorts = []datapath.PortRange{{Protocol: datapath.UDP, First: 6999, Last: 7000}, {Protocol: datapath.TCP, First: 80, Last: 80}}
	badPorts  = []datapath.PortRange{{Protocol: datapath.UDP, First: 7001, Last: 7999}, {Protocol: datapath.TCP, First: 81, Last: 99}}
)

const labelsInUse = 5

// draft is a policy in the making.
type draft struct {
	*datapath.PolicyState
	atoms map[netip.Addr][]datapath.AtomID
	cidrs map[datapath.AtomID]datapath.CIDR
}

// next is one policy. A pod's peer has one of some labels or lies in one of some blocks; what has any other is let in at the denied ports alone,
// so that whoever meets an address's class of one policy with the set of another does the opposite of right.
func (s *swaps) next() *datapath.PolicyState {
	p := &draft{open(s.a.ep.ID, s.b.ep.ID), map[netip.Addr][]datapath.AtomID{}, map[datapath.AtomID]datapath.CIDR{}}
	out := s.side(p, datapath.Egress, s.b)
	in := s.side(p, datapath.Ingress, s.a)
	p.Endpoints[s.a.ep.ID] = datapath.EndpointPolicy{Ingress: "open", Egress: out}
	p.Endpoints[s.b.ep.ID] = datapath.EndpointPolicy{Ingress: in, Egress: "open"}
	for i := range s.IntN(30) {
		addr := netip.AddrFrom4([4]byte{10, 245, byte(s.IntN(3)), byte(i)})
		p.atoms[addr] = []datapath.AtomID{label(datapath.Direction(s.IntN(2)), s.IntN(labelsInUse))}
	}
	p.Addresses, p.Groups = datapath.Grouped(p.atoms)
	p.CIDRs = datapath.MapOf(p.cidrs)
	return p.PolicyState
}

func label(dir datapath.Direction, i int) datapath.AtomID {
	return datapath.AtomID(fmt.Sprintf("label-%d-%d", dir, i))
}

// side adds the set of one direction, whose peer is the given pod.
func (s *swaps) side(p *draft, dir datapath.Direction, peer *pod) datapath.SetID {
	is := s.IntN(labelsInUse)
	var mine, others []datapath.AtomID
	for i := range labelsInUse {
		if i != is {
			others = append(others, label(dir, i))
		}
	}
	if s.IntN(3) == 0 {
		var traps []datapath.AtomID
		mine, traps = s.blocks(p, dir, peer)
		others = append(others, traps...)
	} else {
		mine = append(mine, label(dir, is))
		for _, addr := range peer.ep.Addrs {
			p.atoms[addr] = append(p.atoms[addr], label(dir, is))
		}
	}
	set := datapath.PolicySet{Direction: dir, Default: datapath.Deny}
	rule := func(tier uint8, action datapath.Action, peers []datapath.AtomID, ports []datapath.PortRange) {
		set.Rules = append(set.Rules, datapath.Rule{
			ID: datapath.RuleID(len(set.Rules) + 1), Tier: tier, Action: action,
			Peers: peers, AnyPeer: peers == nil, Ports: ports, AnyPort: ports == nil,
		})
	}
	add := func(tier uint8, action datapath.Action, peers []datapath.AtomID, ports []datapath.PortRange) {
		if s.IntN(6) == 0 { // in audit mode, and the opposite of right
			rule(tier, datapath.Deny, mine, goodPorts)
			rule(tier, datapath.Allow, nil, nil)
			set.Rules[len(set.Rules)-1].View, set.Rules[len(set.Rules)-2].View = datapath.AuditOnly, datapath.AuditOnly
		}
		rule(tier, action, peers, ports)
		set.Rules[len(set.Rules)-1].View = datapath.View(s.IntN(2)) // in both answers, or enforced alone
	}
	switch s.IntN(4) {
	case 0: // NetworkPolicy alone
	case 1: // an Admin tier that accepts and denies
		add(0, datapath.Allow, mine, goodPorts)
		add(0, datapath.Deny, mine, nil)
		add(0, datapath.Deny, others, goodPorts)
		set.Default = datapath.Allow
	case 2: // an Admin tier that passes on to NetworkPolicy
		add(0, datapath.Pass, mine, nil)
		add(0, datapath.Allow, others, badPorts)
		add(0, datapath.Deny, nil, nil)
	case 3: // a Baseline tier behind a NetworkPolicy that isolates nothing
		add(2, datapath.Allow, mine, goodPorts)
		add(2, datapath.Allow, others, badPorts)
		add(2, datapath.Deny, nil, nil)
		set.Default = datapath.Allow
	}
	if slices.ContainsFunc(set.Rules, func(r datapath.Rule) bool { return r.Action == datapath.Pass }) || len(set.Rules) == 0 {
		for range s.IntN(2) * s.IntN(700) { // rules that say nothing, so that the others are in other blocks
			rule(1, datapath.Allow, []datapath.AtomID{"nobody"}, nil)
		}
		add(1, datapath.Allow, mine, goodPorts)
		add(1, datapath.Allow, others, badPorts)
	}
	if s.IntN(3) == 0 {
		set.Audit = &datapath.AuditDefault{Action: datapath.Action(s.IntN(2))}
	}
	return enter(p.PolicyState, set)
}

// blocks are two, one of each family, around the peer's addresses; traps would contain them but for an exception.
func (s *swaps) blocks(p *draft, dir datapath.Direction, peer *pod) (atoms, traps []datapath.AtomID) {
	for _, addr := range peer.ep.Addrs {
		around := netip.PrefixFrom(addr, 8+s.IntN(addr.BitLen()-8)).Masked()
		id := datapath.AtomID(fmt.Sprintf("block-%d-%s", dir, around))
		p.cidrs[id] = datapath.CIDR{Prefixes: []netip.Prefix{around}}
		atoms = append(atoms, id)
		// The exception may be narrower or wider than the block.
		except := netip.PrefixFrom(addr, 4+s.IntN(addr.BitLen()-4)).Masked()
		trap := datapath.AtomID(fmt.Sprintf("all-%d-but-%s", dir, except))
		p.cidrs[trap] = datapath.CIDR{Prefixes: []netip.Prefix{netip.PrefixFrom(addr, 0).Masked()}, Except: []netip.Prefix{except}}
		traps = append(traps, trap)
	}
	return atoms, traps
}

// enter names a set by its content, as the translator does.
func enter(p *datapath.PolicyState, set datapath.PolicySet) datapath.SetID {
	digest := sha256.Sum256(fmt.Appendf(nil, "%+v %+v", set, set.Audit != nil && set.Audit.Action == datapath.Deny))
	set.ID = datapath.SetID(hex.EncodeToString(digest[:8]))
	p.Sets[set.ID] = set
	return set.ID
}

// seedOf is a test's random seed, or the one of the environment that says which run to repeat.
func seedOf(t *testing.T) uint64 {
	seed := uint64(time.Now().UnixNano())
	if given := os.Getenv("SKEP_SEED"); given != "" {
		var err error
		seed, err = strconv.ParseUint(given, 10, 64)
		must(t, err)
	}
	t.Logf("SKEP_SEED=%d", seed)
	return seed
}

// timesOf is how often a test does something: usually, or by the environment.
func timesOf(t *testing.T, variable string, usual int) int {
	if given := os.Getenv(variable); given != "" {
		n, err := strconv.Atoi(given)
		must(t, err)
		return n
	}
	return usual
}

// underTraffic has the standing traffic run while change does its work, and demands that nothing was lost and nothing leaked.
func underTraffic(t *testing.T, w *world, a, b *pod, first *datapath.PolicyState, change func(*standing)) {
	t.Helper()
	ctx := context.Background()
	traffic := newStanding(a, b, runtime.NumCPU()-1)
	traffic.serve()
	traffic.number()
	must(t, w.dp.SetPolicy(ctx, open(a.ep.ID, b.ep.ID)))
	traffic.quiet.Store(true)
	traffic.run(podB4)
	traffic.run(podB6)
	traffic.await(10)
	// The flows to the denied port are known when their first packets have arrived.
	for end := time.Now().Add(10 * time.Second); traffic.leaked.Load() < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the flows to the denied port are not known")
		}
	}
	must(t, w.dp.SetPolicy(ctx, first))
	before, err := w.dp.Status(ctx)
	must(t, err)
	traffic.quiet.Store(false)

	change(traffic)

	if err := traffic.finish(); err != nil {
		t.Error(err)
	}
	traffic.compareStreams(t)
	after, err := w.dp.Status(ctx)
	must(t, err)
	t.Logf("%d turns of all traffic, %d TCP segments of the known connections sent again", traffic.steps.Load(), traffic.again.Load())
	if leaked := traffic.leaked.Load() - 2; leaked > 0 {
		t.Errorf("%d packets arrived at denied ports", leaked)
	}
	want := map[string]int64{"policy": traffic.deniedNew.Load(), "established_denied": traffic.deniedKnown.Load()}
	if got := dropped(before, after); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("dropped %v, sent to denied ports %v", got, want)
	}
}

// await waits for so many more turns of the traffic.
func (s *standing) await(turns int64) {
	t := s.a.world.t
	t.Helper()
	want := s.steps.Load() + turns
	for end := time.Now().Add(30 * time.Second); s.steps.Load() < want && !s.failed(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(end) {
			t.Fatalf("the traffic has stopped: %v", s.finish())
		}
	}
}

// TestPoliciesSwappedUnderTrafficDropAndLeakNothing swaps policies that agree about some traffic while it runs.
func TestPoliciesSwappedUnderTrafficDropAndLeakNothing(t *testing.T) {
	w := newWorld(t, nil)
	random := &swaps{rand.New(rand.NewPCG(seedOf(t), 0)), w.addPod("a", podA4, podA6), w.addPod("b", podB4, podB6)}
	underTraffic(t, w, random.a, random.b, random.next(), func(traffic *standing) {
		swaps, during, met := timesOf(t, "SKEP_SWAPS", 1000), int64(0), 0
		var took time.Duration
		for range swaps {
			traffic.await(2)
			next := random.next()
			began, seen := time.Now(), traffic.steps.Load()
			must(t, w.dp.SetPolicy(context.Background(), next))
			took += time.Since(began)
			if sent := traffic.steps.Load() - seen; sent > 0 {
				during += sent
				met++
			}
			if traffic.failed() {
				return
			}
		}
		t.Logf("%d swaps in %v, %d turns of the traffic during %d of them", swaps, took, during, met)
		if during < int64(swaps) || met < swaps/2 {
			t.Error("there was too little traffic during the swaps to prove anything")
		}
	})
}

func (s *standing) failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.faults) > 0
}

// finish ends the traffic and returns what went wrong.
func (s *standing) finish() error {
	close(s.stop)
	s.group.Wait()
	return errors.Join(s.faults...)
}

// dropped is what has been dropped between two looks, both directions of policy as one.
func dropped(before, after datapath.Status) map[string]int64 {
	out := map[string]int64{}
	for _, c := range after.Drops {
		n := int64(c.Packets - count(before.Drops, c.Name))
		switch {
		case n == 0:
		case c.Name == "policy_ingress" || c.Name == "policy_egress":
			out["policy"] += n
		default:
			out[c.Name] += n
		}
	}
	return out
}
