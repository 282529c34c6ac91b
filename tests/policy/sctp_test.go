// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/kernel"
	"skep.dev/skep/datapath/netdev"
	"skep.dev/skep/nodeagent/intent"
	"skep.dev/skep/nodeagent/podnet"
	"skep.dev/skep/tests/truth"
)

// sctpWorld is the world of the truth tables on two nodes of this machine, without API and containers: namespaces by podnet, policy by
// intent, programs attached by the real datapath, sockets of SCTP as clients and servers.
type sctpWorld struct {
	truth.World
	nodes []*sctpNode
	// netns are the namespaces' paths.
	netns map[*truth.End]string
}

// sctpNode is a node in a namespace of its own.
type sctpNode struct {
	name, netns string
	addrs       []netip.Addr
	blocks      []netip.Prefix
	dp          *kernel.Datapath
	network     *podnet.Network
	cluster     *intent.Cluster
}

// TestSCTPTruthTables tries every cell between pods by an association, and those of nodes where policies speak of nodes. The policies are in
// force on both nodes before any is tried.
func TestSCTPTruthTables(t *testing.T) {
	if os.Getenv(insideEnv) == "" {
		t.Skip("needs root, to make network namespaces")
	}
	probe, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		t.Skipf("this kernel has no SCTP (%v): tests/kernel runs it on one that does", err)
	}
	unix.Close(probe)
	w := newSCTPWorld(t)
	all := w.Cells("SCTP")
	pods := slices.DeleteFunc(slices.Clone(all), func(c truth.Cell) bool { return !c.From.IsPod() || !c.To.IsPod() })
	tables, probed := 0, 0
	for _, c := range slices.Concat(truth.Cases, truth.SCTPCases) {
		if !aboutSCTP(c) || !strings.Contains(c.Name, os.Getenv("SKEP_CASE")) {
			continue
		}
		tables++
		cells := pods
		if strings.Contains(policiesOf(c), "node") {
			cells = all
		}
		probed += len(cells)
		t.Run(c.Name, func(t *testing.T) {
			w.enforce(t, c)
			if different := truth.Compare(cells, c.Opens(cells), w.look(t, cells, c.Opens(cells))); different != "" {
				t.Error(different)
			}
		})
	}
	t.Logf("%d cells in %d tables", probed, tables)
}

// aboutSCTP says that a case's policies name SCTP or, where there is time for it, no port at all: such rules match every protocol.
func aboutSCTP(c truth.Case) bool {
	text := strings.ToLower(policiesOf(c))
	names := strings.Contains(text, "sctp") || strings.Contains(text, "signal")
	return names || c.Policies == nil || !strings.Contains(text, "port") && os.Getenv("SKEP_SCTP_CASES") == "all"
}

func policiesOf(c truth.Case) string {
	return strings.Join(slices.Collect(maps.Values(c.Policies)), "\n")
}

func newSCTPWorld(t *testing.T) *sctpWorld {
	t.Helper()
	w := &sctpWorld{netns: map[*truth.End]string{}}
	dir := t.TempDir()
	for n := 1; n <= 2; n++ {
		w.nodes = append(w.nodes, &sctpNode{
			name: fmt.Sprint("node-", n), netns: filepath.Join(dir, fmt.Sprint("node-", n), "netns"),
			addrs:  []netip.Addr{netip.MustParseAddr(fmt.Sprintf("172.29.0.%d", n+1)), netip.MustParseAddr(fmt.Sprintf("fd00:172:29::%d", n+1))},
			blocks: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", n)), netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:%d::/64", n))},
		})
	}
	w.connectNodes(t)
	// Verification is what takes long.
	var loading sync.WaitGroup
	faults := make([]error, len(w.nodes))
	for i, n := range w.nodes {
		loading.Go(func() { faults[i] = netdev.InNamespace(n.netns, func() error { return n.load(t) }) })
	}
	loading.Wait()
	if err := errors.Join(faults...); err != nil {
		t.Fatal(err)
	}
	for _, n := range w.nodes {
		t.Cleanup(func() { n.network.Close(); n.dp.Close() })
		w.Hosts, w.Blocks = append(w.Hosts, n.name), append(w.Blocks, n.blocks)
		if err := netdev.InNamespace(n.netns, func() error { return n.dp.SetNodes(t.Context(), w.peers(n)) }); err != nil {
			t.Fatal(err)
		}
	}
	w.Ends = truth.NewEnds(len(w.nodes))
	for _, e := range w.Ends {
		w.attach(t, e)
	}
	w.Know()
	for _, n := range w.nodes {
		w.learn(n)
	}
	return w
}

// connectNodes makes the nodes' namespaces and a wire between them.
func (w *sctpWorld) connectNodes(t *testing.T) {
	t.Helper()
	for _, n := range w.nodes {
		if err := netdev.CreateNamespace(n.netns, func() error { return device("lo", nil) }); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { netdev.DeleteNamespace(n.netns) })
	}
	other, err := os.Open(w.nodes[1].netns)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "up0"
	wire := netlink.NewVeth(attrs)
	wire.PeerName, wire.PeerNamespace = "up0", netlink.NsFd(other.Fd())
	err = netdev.InNamespace(w.nodes[0].netns, func() error { return netlink.LinkAdd(wire) })
	for _, n := range w.nodes {
		err = errors.Join(err, netdev.InNamespace(n.netns, func() error { return device("up0", n.addrs) }))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// device gives a device of the calling thread's namespace addresses and brings it up.
func device(name string, addrs []netip.Addr) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		length := map[bool]int{true: 24, false: 64}[a.Is4()]
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(length, a.BitLen())}, Flags: unix.IFA_F_NODAD}
		err = errors.Join(err, netlink.AddrAdd(link, addr))
	}
	return errors.Join(err, netlink.LinkSetUp(link))
}

// load starts the node's parts. It runs inside the node's namespace.
func (n *sctpNode) load(t *testing.T) (err error) {
	n.dp, err = kernel.New(t.Context(), kernel.Config{Node: n.name, Uplink: "up0", NodeAddrs: n.addrs, PodCIDRs: n.blocks})
	if err != nil {
		return err
	}
	dir := filepath.Dir(n.netns)
	n.network, err = podnet.New(podnet.Config{NodeName: n.name, RunDir: filepath.Join(dir, "run"), DataDir: filepath.Join(dir, "data"), Uplink: "up0"}, n.dp)
	if err != nil {
		return err
	}
	rules, err := intent.NewRuleTable("")
	n.cluster = intent.NewCluster(n.name, rules)
	return errors.Join(err, n.network.SetPodCIDRs(n.blocks))
}

// peers are all nodes as one of them sees them.
func (w *sctpWorld) peers(self *sctpNode) []datapath.Node {
	var out []datapath.Node
	for _, n := range w.nodes {
		out = append(out, datapath.Node{Name: n.name, Self: n == self, Addrs: n.addrs, PodCIDRs: n.blocks})
	}
	return out
}

// attach plugs an end in and has it answer.
func (w *sctpWorld) attach(t *testing.T, e *truth.End) {
	t.Helper()
	n := w.nodes[e.Node-1]
	w.netns[e] = n.netns
	addrs := n.addrs
	if e.IsPod() {
		ns, name := e.Object()
		err := netdev.InNamespace(n.netns, func() error {
			at, err := n.network.Attach(t.Context(), podnet.Pod{UID: e.UID(), Namespace: ns, Name: name})
			w.netns[e], addrs = at.NetNS, at.Addrs
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { netdev.InNamespace(n.netns, func() error { return n.network.Detach(t.Context(), e.UID()) }) })
	}
	for _, addr := range addrs {
		e.SetAddr(addr)
		for _, port := range e.Ports {
			if err := netdev.InNamespace(w.netns[e], func() error { return answer(t, addr, port, e.Name) }); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// answer says a name to everybody who opens an association with the calling thread's namespace. To package net a stream is a stream: it serves
// sockets of SCTP, which it cannot make.
func answer(t *testing.T, addr netip.Addr, port int, name string) error {
	fd, err := sctpSocket(addr)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	if err := errors.Join(unix.Bind(fd, sockaddrOf(addr, port)), unix.Listen(fd, 128)); err != nil {
		return err
	}
	l, err := net.FileListener(file)
	if err != nil {
		return err
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.WriteString(c, name)
				_, _ = io.Copy(io.Discard, c)
			}()
		}
	}()
	return nil
}

func sctpSocket(addr netip.Addr) (int, error) {
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	return unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
}

func sockaddrOf(addr netip.Addr, port int) unix.Sockaddr {
	if addr.Is4() {
		return &unix.SockaddrInet4{Port: port, Addr: addr.As4()}
	}
	return &unix.SockaddrInet6{Port: port, Addr: addr.As16()}
}

// learn tells a node's translator about the cluster.
func (w *sctpWorld) learn(n *sctpNode) {
	for _, ns := range w.Model.Namespaces {
		n.cluster.SetNamespace(ns.Name, ns.Labels)
	}
	for _, node := range w.Model.Nodes {
		n.cluster.SetNodePeer(apiNode(node))
	}
	for _, p := range w.Model.Pods {
		n.cluster.SetPod(apiPod(p))
	}
}

// enforce puts a case's policies into force on both nodes until the test ends.
func (w *sctpWorld) enforce(t *testing.T, c truth.Case) {
	t.Helper()
	network, cluster, err := w.Parse(c.Policies)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range w.nodes {
		for _, p := range network {
			p.UID = types.UID(c.Name + p.Namespace + p.Name)
			_, fault := n.cluster.SetNetworkPolicy(&p)
			err = errors.Join(err, fault)
			t.Cleanup(func() { n.cluster.DeleteNetworkPolicy(p.Namespace, p.Name) })
		}
		for _, p := range cluster {
			p.UID = types.UID(c.Name + p.Name)
			_, fault := n.cluster.SetClusterPolicy(&p)
			err = errors.Join(err, fault)
			t.Cleanup(func() { n.cluster.DeleteClusterPolicy(p.Name) })
		}
		err = errors.Join(err, n.dp.SetPolicy(t.Context(), n.cluster.Policy()))
	}
	if err != nil {
		t.Fatal(err)
	}
}

const (
	// sctpPatience is how long an answer may take: the first packet of an association is sent again after 3 seconds.
	sctpPatience = 20 * time.Second
	// sctpSilence is how long closed cells are listened to after the open ones have answered. All are asked at once.
	sctpSilence = 150 * time.Millisecond
)

// look opens an association for every cell at once, and says which are answered.
func (w *sctpWorld) look(t *testing.T, cells []truth.Cell, want string) string {
	t.Helper()
	events, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(events)
	asked := make([]int, len(cells))
	for _, from := range w.Ends {
		err := netdev.InNamespace(w.netns[from], func() (err error) {
			for i, c := range cells {
				if c.From == from && err == nil {
					asked[i], err = ask(c)
				}
			}
			return err
		})
		if err != nil {
			t.Fatalf("from %s: %v", from.Name, err)
		}
	}
	for i, fd := range asked {
		defer unix.Close(fd)
		// Once each: what has been heard is not listened to any more.
		if err := unix.EpollCtl(events, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(i)}); err != nil {
			t.Fatal(err)
		}
	}
	got := []byte(strings.Repeat("0", len(cells)))
	all, end, ready := false, time.Now().Add(sctpPatience), make([]unix.EpollEvent, 64)
	for time.Now().Before(end) {
		n, err := unix.EpollWait(events, ready, 10)
		if err != nil && !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
		for _, event := range ready[:max(n, 0)] {
			i := event.Fd
			got[i] = hear(t, cells[i], asked[i])
		}
		if !all && answered(want, got) {
			all, end = true, time.Now().Add(sctpSilence)
		}
	}
	return string(got)
}

// ask opens an association without waiting. Both ends are bound to one address: others they would tell each other, and use.
func ask(c truth.Cell) (int, error) {
	from, to := c.Addrs()
	fd, err := sctpSocket(from)
	if err != nil {
		return -1, err
	}
	// To be aborted leaves nothing behind that waits.
	err = errors.Join(unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}), unix.Bind(fd, sockaddrOf(from, 0)))
	if err == nil {
		if err = unix.Connect(fd, sockaddrOf(to, c.Port)); errors.Is(err, unix.EINPROGRESS) {
			err = nil
		}
	}
	return fd, err
}

// hear reads a name, or that there is none.
func hear(t *testing.T, c truth.Cell, fd int) byte {
	t.Helper()
	buffer := make([]byte, 64)
	n, err := unix.Read(fd, buffer)
	if err != nil || n == 0 {
		return '0'
	}
	if string(buffer[:n]) != c.To.Name {
		t.Errorf("%v is answered by %q", c, buffer[:n])
	}
	return '1'
}

// answered says that every cell that is open has been.
func answered(want string, got []byte) bool {
	for i := range got {
		if want[i] == '1' && got[i] == '0' {
			return false
		}
	}
	return true
}
