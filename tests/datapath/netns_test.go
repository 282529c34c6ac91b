// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/kernel"
	"skep.dev/skep/datapath/netdev"
)

const (
	cgroupMount = "/sys/fs/cgroup/unified"
	testPrefix  = "skep-dptest-"
	bpffs       = "/sys/fs/bpf"
)

var (
	gateway4 = netip.MustParseAddr("169.254.1.1")
	gateway6 = netip.MustParseAddr("fe80::1")
	hostMAC  = net.HardwareAddr{0x02, 0, 0, 0, 0, 0x01}

	serviceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")}
)

// world is a node in a network namespace of its own, with pods in theirs. Nothing of it reaches the host's network.
type world struct {
	t    *testing.T
	node netns.NsHandle
	pods map[string]*pod
	dp   *kernel.Datapath
	cfg  kernel.Config
}

type pod struct {
	world *world
	ep    datapath.Endpoint
	ns    netns.NsHandle
}

func newWorld(t *testing.T, change func(*kernel.Config)) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces and BPF need root")
	}
	w := &world{t: t, pods: map[string]*pod{}}
	removeLeftovers(t)
	w.node = newNS(t)
	name := fmt.Sprintf("%s%d-%d", testPrefix, os.Getpid(), time.Now().UnixNano()%1e6)
	w.cfg = kernel.Config{
		Node: "test", PinDir: filepath.Join(bpffs, name), ServiceCIDRs: serviceCIDRs,
		NodeAddrs: []netip.Addr{netip.MustParseAddr("172.29.0.2"), netip.MustParseAddr("fd00:172:29::2")},
	}
	if _, err := os.Stat(filepath.Join(cgroupMount, "cgroup.procs")); err == nil {
		w.cfg.CgroupPath = filepath.Join(cgroupMount, name)
		must(t, os.Mkdir(w.cfg.CgroupPath, 0o755))
		t.Cleanup(func() { os.Remove(w.cfg.CgroupPath) })
	}
	if change != nil {
		change(&w.cfg)
	}
	w.in(w.node, func() error {
		return errors.Join(setUp("lo"), sysctl("ipv4/ip_forward", "1"), sysctl("ipv6/conf/all/forwarding", "1"))
	})
	t.Cleanup(func() { os.RemoveAll(w.cfg.PinDir) })
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

func (w *world) start() {
	w.t.Helper()
	w.in(w.node, func() (err error) {
		w.dp, err = kernel.New(context.Background(), w.cfg)
		return err
	})
}

func (w *world) stop() {
	if w.dp != nil {
		must(w.t, w.dp.Close())
		w.dp = nil
	}
}

// removeLeftovers removes what runs that died left: pins and cgroups whose process is gone.
func removeLeftovers(t *testing.T) {
	for _, dir := range []string{bpffs, cgroupMount} {
		entries, _ := os.ReadDir(dir)
		for _, entry := range entries {
			var pid, rest int
			if n, _ := fmt.Sscanf(entry.Name(), testPrefix+"%d-%d", &pid, &rest); n != 2 || pid == os.Getpid() {
				continue
			}
			if unix.Kill(pid, 0) == nil {
				continue
			}
			path := filepath.Join(dir, entry.Name())
			if dir == cgroupMount {
				os.Remove(path)
			} else {
				os.RemoveAll(path)
			}
		}
	}
}

func newNS(t *testing.T) netns.NsHandle {
	t.Helper()
	var ns netns.NsHandle
	onThread(t, func() (err error) { ns, err = netns.New(); return err })
	t.Cleanup(func() { ns.Close() })
	return ns
}

// onThread runs f on a thread that is not used again if its namespace cannot be put back.
func onThread(t testing.TB, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		back, err := netns.Get()
		if err != nil {
			done <- err
			return
		}
		defer back.Close()
		err = f()
		if netns.Set(back) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func (w *world) in(ns netns.NsHandle, f func() error) {
	w.t.Helper()
	onThread(w.t, func() error {
		if err := netns.Set(ns); err != nil {
			return err
		}
		return f()
	})
}

func setUp(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

func sysctl(name, value string) error {
	return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0o644)
}

// addPod plugs a pod in and hands it to the datapath.
func (w *world) addPod(name string, addrs ...netip.Addr) *pod {
	w.t.Helper()
	p := &pod{world: w, ns: newNS(w.t)}
	mac := net.HardwareAddr{0x02, 0, 0, 0, 1, byte(len(w.pods) + 1)}
	host := "h-" + name
	w.in(w.node, func() error {
		veth := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: host, HardwareAddr: hostMAC, MTU: 1500}, PeerName: "eth0",
			PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(p.ns),
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		l, err := netlink.LinkByName(host)
		if err != nil {
			return err
		}
		p.ep = datapath.Endpoint{
			ID: datapath.EndpointID("uid-" + name), Namespace: "default", Name: name, IfName: host, Ifindex: l.Attrs().Index,
			Addrs: addrs, MAC: [6]byte(mac), HostMAC: [6]byte(hostMAC),
		}
		if err := errors.Join(netlink.LinkSetUp(l), sysctl("ipv4/conf/"+host+"/rp_filter", "0")); err != nil {
			return err
		}
		for _, a := range addrs {
			route := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: host32(a)}
			neigh := &netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac}
			if err := errors.Join(netlink.RouteAdd(route), netlink.NeighSet(neigh)); err != nil {
				return err
			}
		}
		return nil
	})
	w.in(p.ns, func() error { return p.configure(addrs) })
	w.in(w.node, func() error {
		return errors.Join(awaitRunning(p.ep.Ifindex), w.dp.SetEndpoint(context.Background(), p.ep))
	})
	w.pods[name] = p
	return p
}

func (p *pod) configure(addrs []netip.Addr) error {
	if err := errors.Join(sysctl("ipv6/conf/all/accept_dad", "0"), sysctl("ipv6/conf/eth0/accept_dad", "0"), setUp("lo"), setUp("eth0")); err != nil {
		return err
	}
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	for _, a := range addrs {
		gw := gateway4
		if a.Is6() {
			gw = gateway6
		}
		errs := []error{
			netlink.AddrAdd(l, &netlink.Addr{IPNet: host32(a), Flags: unix.IFA_F_NODAD}),
			netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: gw.AsSlice(), HardwareAddr: hostMAC}),
			netlink.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: host32(gw), Scope: netlink.SCOPE_LINK}),
			netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: gw.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}),
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	return awaitAddrs(addrs...)
}

func host32(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// dial opens a TCP connection from inside the pod, by a socket outside the node's cgroup: it is not balanced before its packets are.
func (p *pod) dial(to netip.AddrPort, timeout time.Duration) (conn net.Conn, err error) {
	p.world.in(p.ns, func() error {
		d := net.Dialer{Timeout: timeout}
		conn, err = d.Dial("tcp", to.String())
		return nil
	})
	return conn, err
}

// serve answers every TCP connection with name and then echoes.
func (p *pod) serve(port uint16, name string) {
	p.world.t.Helper()
	var l net.Listener
	p.world.in(p.ns, func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	})
	p.world.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintln(c, name)
				io.Copy(c, c)
			}()
		}
	}()
}

// says returns the first line that a server sends.
func says(c net.Conn, err error) string {
	if err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) {
			return "refused"
		}
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			return "timeout"
		}
		return err.Error()
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Second))
	buf := make([]byte, 64)
	n, err := c.Read(buf)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(buf[:n]))
}

const short = 300 * time.Millisecond

func open(names ...datapath.EndpointID) *datapath.PolicyState {
	p := &datapath.PolicyState{
		Sets:      map[datapath.SetID]datapath.PolicySet{"open": {ID: "open", Default: datapath.Allow}},
		Endpoints: map[datapath.EndpointID]datapath.EndpointPolicy{},
	}
	for _, id := range names {
		p.Endpoints[id] = datapath.EndpointPolicy{Ingress: "open", Egress: "open"}
	}
	return p
}

var (
	podA4, podA6 = netip.MustParseAddr("10.244.0.5"), netip.MustParseAddr("fd00:10:244::5")
	podB4, podB6 = netip.MustParseAddr("10.244.0.6"), netip.MustParseAddr("fd00:10:244::6")
)

func TestTwoPodsTalkThroughTheRealPrograms(t *testing.T) {
	for _, attach := range []struct {
		name  string
		noTCX bool
		want  string
	}{
		{"tcx", false, "tcx/egress skep_tc_pod_to, tcx/ingress skep_tc_pod_from"},
		{"clsact", true, "clsact/egress skep_tc_pod_to, clsact/ingress skep_tc_pod_from"},
	} {
		t.Run(attach.name, func(t *testing.T) {
			w := newWorld(t, func(c *kernel.Config) { c.NoTCX = attach.noTCX })
			a, b := w.addPod("a", podA4, podA6), w.addPod("b", podB4, podB6)
			b.serve(80, "b")
			ctx := context.Background()

			if got := says(a.dial(netip.AddrPortFrom(podB4, 80), short)); got != "timeout" {
				t.Errorf("without a policy: %s", got)
			}
			must(t, w.dp.SetPolicy(ctx, open(a.ep.ID, b.ep.ID)))
			for _, addr := range []netip.Addr{podB4, podB6} {
				if got := says(a.dial(netip.AddrPortFrom(addr, 80), time.Second)); got != "b" {
					t.Errorf("allowed, %s: %s", addr, got)
				}
			}
			status, err := w.dp.Status(ctx)
			must(t, err)
			for _, device := range []string{a.ep.IfName, b.ep.IfName} {
				if got := attachedTo(status, device); got != attach.want {
					t.Errorf("attached to %s: %s, want %s", device, got, attach.want)
				}
			}
			if n := count(status.Drops, "no_policy"); n == 0 {
				t.Error("the packet of a pod without a policy was not counted")
			}
		})
	}
}

// attachedTo lists the programs at a device.
func attachedTo(s datapath.Status, device string) string {
	var out []string
	for _, p := range s.Programs {
		if p.Target == device {
			out = append(out, p.Hook+" "+p.Name)
		}
	}
	return strings.Join(out, ", ")
}

// count is the number of packets counted under a name.
func count(counters []datapath.Counter, name string) uint64 {
	for _, c := range counters {
		if c.Name == name {
			return c.Packets
		}
	}
	return 0
}

// addLoopback gives the calling thread's namespace addresses.
func addLoopback(addrs ...netip.Addr) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: host32(a), Flags: unix.IFA_F_NODAD}); err != nil {
			return err
		}
	}
	return awaitAddrs(addrs...)
}

// awaitAddrs waits until the calling thread's namespace accepts packets to its addresses. The kernel makes the local route of an IPv6
// address from a work queue: before it has, an answer is lost, and comes again only when the client has given up.
func awaitAddrs(addrs ...netip.Addr) error {
	return await(func(ctx context.Context, h *netdev.Handle) error {
		for _, a := range addrs {
			if err := h.AwaitAddr(ctx, a); err != nil {
				return err
			}
		}
		return nil
	})
}

// awaitRunning waits until a device of the calling thread's namespace has its queue: that of the end that came up first is given from
// a work queue too.
func awaitRunning(index int) error {
	return await(func(ctx context.Context, h *netdev.Handle) error { return h.AwaitRunning(ctx, index) })
}

// await waits for something of the calling thread's namespace.
func await(until func(context.Context, *netdev.Handle) error) error {
	h, err := netdev.Open()
	if err != nil {
		return err
	}
	defer h.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return until(ctx, h)
}
