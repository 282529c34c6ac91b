// SPDX-License-Identifier: Apache-2.0

package podnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/fake"
	"skep.dev/skep/datapath/netdev"
)

// insideEnv marks the copy of the test program that is a node of its own.
const insideEnv = "SKEP_PODNET_TEST_NODE"

const uplink = "up0"

// TestMain runs the tests again as a process with network and mount namespaces of its own, as a node has: whatever happens,
// nothing is left on the machine once it has ended.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Println("only the tests that need no root run")
		os.Exit(m.Run())
	}
	if os.Getenv(insideEnv) == "" {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), insideEnv+"=1")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Run(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if err := makeNode(); err != nil {
		fmt.Println("make node:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// makeNode gives this process's namespace an uplink to nowhere.
func makeNode() error {
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = uplink, 1480
	link := netlink.NewVeth(attrs) // not every kernel has the dummy device
	link.PeerName = "up1"
	if err := netlink.LinkAdd(link); err != nil {
		return err
	}
	for _, a := range []string{"172.29.0.2/24", "fd00:172:29::2/64"} {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
	}
	peer, err := netlink.LinkByName(link.PeerName)
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetUp(peer), netlink.LinkSetUp(link))
}

func needNode(t *testing.T) {
	if os.Getenv(insideEnv) == "" {
		t.Skip("needs root, to make network namespaces")
	}
}

type node struct {
	cfg Config
	dp  *fake.Datapath
	*Network
}

func startNode(t *testing.T) *node {
	t.Helper()
	needNode(t)
	dir := t.TempDir()
	n := &node{cfg: Config{NodeName: "node-a", RunDir: filepath.Join(dir, "run"), DataDir: filepath.Join(dir, "data"), Uplink: uplink}, dp: fake.New()}
	n.restart(t)
	t.Cleanup(func() {
		for _, p := range n.Pods() {
			if err := n.Detach(context.Background(), p.UID); err != nil {
				t.Error(err)
			}
		}
		n.Close()
	})
	return n
}

// restart is what the end and the start of an agent look like from here.
func (n *node) restart(t *testing.T) {
	t.Helper()
	if n.Network != nil {
		n.Close()
	}
	var err error
	if n.Network, err = New(n.cfg, n.dp); err != nil {
		t.Fatal(err)
	}
	if err := n.SetPodCIDRs([]netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:10:244:1::/64")}); err != nil {
		t.Fatal(err)
	}
}

// endpoints is what the datapath knows.
func (n *node) endpoints(t *testing.T) map[datapath.EndpointID]datapath.Endpoint {
	t.Helper()
	list, err := n.dp.Endpoints(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := map[datapath.EndpointID]datapath.Endpoint{}
	for _, ep := range list {
		out[ep.ID] = ep
	}
	return out
}

func (n *node) attach(t *testing.T, uid string) Attachment {
	t.Helper()
	a, err := n.Attach(t.Context(), Pod{UID: uid, Namespace: "shop", Name: uid})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// serve answers every connection to port 80 of a pod with the address it came from.
func serve(t *testing.T, a Attachment) {
	t.Helper()
	var l net.Listener
	err := netdev.InNamespace(a.NetNS, func() (err error) {
		l, err = net.Listen("tcp", ":80")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			_, _ = io.WriteString(c, host)
			c.Close()
		}
	}()
}

// ask connects from a namespace ("" is the node's) and returns what the server says.
func ask(t *testing.T, netns string, to netip.Addr) string {
	t.Helper()
	var answer []byte
	dial := func() error {
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(to, 80).String(), 5*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		answer, err = io.ReadAll(c)
		return err
	}
	err := dial
	if netns != "" {
		err = func() error { return netdev.InNamespace(netns, dial) }
	}
	if err := err(); err != nil {
		t.Errorf("from %q to %s: %v", netns, to, err)
	}
	return string(answer)
}

func TestPodsReachEachOtherAndTheNodeReachesThem(t *testing.T) {
	n := startNode(t)
	a, b := n.attach(t, "uid-a"), n.attach(t, "uid-b")
	if len(a.Addrs) != 2 || a.MTU != 1480 {
		t.Fatalf("attachment is %+v", a)
	}
	serve(t, b)
	own := []string{"172.29.0.2", "fd00:172:29::2"}
	for i := range b.Addrs {
		if got := ask(t, a.NetNS, b.Addrs[i]); got != a.Addrs[i].String() {
			t.Errorf("pod b sees %q, want pod a's %s", got, a.Addrs[i])
		}
		if got := ask(t, "", b.Addrs[i]); got != own[i] {
			t.Errorf("pod b sees %q, want the node's %s", got, own[i])
		}
	}
}

func TestTheFirstPacketToAndFromANewPodIsNotLost(t *testing.T) {
	n := startNode(t)
	old := n.attach(t, "uid-old")
	for i := range 20 {
		fresh := n.attach(t, fmt.Sprint("uid-", i))
		for family := range fresh.Addrs {
			served := serveOnce(t, fresh)
			if lost := retransmits(t, old.NetNS, fresh.Addrs[family]); lost != 0 {
				t.Errorf("%d packets to the new pod's %s were lost", lost, fresh.Addrs[family])
			}
			served()
			served = serveOnce(t, old)
			if lost := retransmits(t, fresh.NetNS, old.Addrs[family]); lost != 0 {
				t.Errorf("%d packets from the new pod's %s were lost", lost, fresh.Addrs[family])
			}
			served()
		}
	}
}

// retransmits connects once and returns how many packets the kernel had to send again.
func retransmits(t *testing.T, netns string, to netip.Addr) (lost int) {
	t.Helper()
	err := netdev.InNamespace(netns, func() error {
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(to, 80).String(), 10*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			return err
		}
		var info *unix.TCPInfo
		ctlErr := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
		if err = errors.Join(err, ctlErr); err != nil {
			return err
		}
		lost = int(info.Total_retrans)
		return nil
	})
	if err != nil {
		t.Errorf("from %q to %s: %v", netns, to, err)
	}
	return lost
}

func TestAttachIsIdempotentAndTellsTheDatapath(t *testing.T) {
	n := startNode(t)
	first := n.attach(t, "uid-a")
	second := n.attach(t, "uid-a")
	if fmt.Sprint(first) != fmt.Sprint(second) {
		t.Errorf("the second call gives %+v, the first %+v", second, first)
	}
	ep := n.endpoints(t)["uid-a"]
	if ep.IfName != first.IfName || ep.Ifindex == 0 || !slices.Equal(ep.Addrs, first.Addrs) || ep.MAC == ep.HostMAC {
		t.Errorf("the datapath knows %+v", ep)
	}
	link, err := netlink.LinkByName(ep.IfName)
	if err != nil {
		t.Fatal(err)
	}
	if got := netdev.MAC(link.Attrs().HardwareAddr); got != ep.HostMAC {
		t.Errorf("the host end has %s, the datapath knows %s", got, netdev.MAC(ep.HostMAC))
	}
	err = netdev.InNamespace(first.NetNS, func() error {
		eth, err := netlink.LinkByName(podIfName)
		if err == nil && netdev.MAC(eth.Attrs().HardwareAddr) != ep.MAC {
			t.Errorf("the pod's end has %s, the datapath knows %s", eth.Attrs().HardwareAddr, netdev.MAC(ep.MAC))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestDetachLeavesNothing(t *testing.T) {
	n := startNode(t)
	a := n.attach(t, "uid-a")
	for range 2 { // absence is not an error
		if err := n.Detach(t.Context(), "uid-a"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := netlink.LinkByName(a.IfName); err == nil {
		t.Error("the device is left")
	}
	if _, err := os.Stat(a.NetNS); !errors.Is(err, os.ErrNotExist) {
		t.Error("the namespace is left")
	}
	if mounts, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(mounts), a.NetNS) {
		t.Error("the mount is left")
	}
	if len(n.endpoints(t)) != 0 || len(n.Pods()) != 0 {
		t.Error("the endpoint is left")
	}
	if b := n.attach(t, "uid-b"); b.Addrs[0] == a.Addrs[0] {
		t.Errorf("%s goes to the next pod at once", b.Addrs[0])
	}
}

func TestARestartAdoptsPods(t *testing.T) {
	n := startNode(t)
	a, b := n.attach(t, "uid-a"), n.attach(t, "uid-b")
	serve(t, b)
	n.dp = fake.New()
	n.restart(t)
	if handed := len(n.endpoints(t)); handed != 2 {
		t.Errorf("%d endpoints are handed over again, want 2", handed)
	}
	if got, ok := n.Lookup("uid-a"); !ok || fmt.Sprint(got) != fmt.Sprint(a) {
		t.Errorf("pod a is attached as %+v, was %+v", got, a)
	}
	if c := n.attach(t, "uid-c"); c.Addrs[0] == a.Addrs[0] || c.Addrs[0] == b.Addrs[0] {
		t.Errorf("%s is handed out again", c.Addrs[0])
	}
	ask(t, a.NetNS, b.Addrs[0])
}

func TestALostCheckpointIsRebuiltFromWhatIsAttached(t *testing.T) {
	for _, c := range []struct {
		name         string
		known, there bool
	}{
		{"damaged, endpoints known to the datapath", true, true},
		{"damaged, endpoints unknown", false, true},
		{"missing, endpoints known to the datapath", true, false},
		{"missing, endpoints unknown", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := startNode(t)
			a := n.attach(t, "uid-a")
			err := os.Remove(n.checkpointPath())
			if c.there {
				err = os.WriteFile(n.checkpointPath(), []byte("{"), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			if !c.known {
				n.dp = fake.New()
			}
			n.restart(t)
			if got := n.attach(t, "uid-a"); fmt.Sprint(got) != fmt.Sprint(a) {
				t.Errorf("pod a is attached as %+v, was %+v", got, a)
			}
			if b := n.attach(t, "uid-b"); b.Addrs[0] == a.Addrs[0] {
				t.Errorf("%s is handed out again", b.Addrs[0])
			}
		})
	}
}

func TestAttachRepairsWhatIsMissing(t *testing.T) {
	n := startNode(t)
	a := n.attach(t, "uid-a")
	breakages := map[string]func() error{
		"device": func() error {
			l, err := netlink.LinkByName(a.IfName)
			if err != nil {
				return err
			}
			return netlink.LinkDel(l)
		},
		"namespace": func() error { return netdev.DeleteNamespace(a.NetNS) },
		"mount":     func() error { return unix.Unmount(a.NetNS, unix.MNT_DETACH) }, // the file stays, as after a reboot
	}
	b := n.attach(t, "uid-b")
	for name, breakIt := range breakages {
		if err := breakIt(); err != nil {
			t.Fatal(err)
		}
		got := n.attach(t, "uid-a")
		if fmt.Sprint(got) != fmt.Sprint(a) {
			t.Errorf("without %s the pod is attached as %+v, was %+v", name, got, a)
		}
		serveOnce(t, got)
		ask(t, b.NetNS, got.Addrs[1])
	}
}

// serveOnce is serve for a namespace that is about to be taken away. The result waits until the port is free again.
func serveOnce(t *testing.T, a Attachment) (served func()) {
	t.Helper()
	var l net.Listener
	if err := netdev.InNamespace(a.NetNS, func() (err error) { l, err = net.Listen("tcp", ":80"); return err }); err != nil {
		t.Fatal(err)
	}
	free := make(chan struct{})
	go func() {
		defer close(free)
		defer l.Close()
		if c, err := l.Accept(); err == nil {
			c.Close()
		}
	}()
	return func() { <-free }
}

func TestStraysAreRemovedAtStart(t *testing.T) {
	n := startNode(t)
	a := n.attach(t, "uid-a")
	n.mu.Lock()
	n.state.forget("uid-a")
	err := n.state.save(n.checkpointPath())
	n.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	n.restart(t)
	if _, err := netlink.LinkByName(a.IfName); err == nil {
		t.Error("the device of an unknown pod is left")
	}
	if netdev.IsNamespace(a.NetNS) {
		t.Error("the namespace of an unknown pod is left")
	}
}

func TestErrorsOfAttachAreClear(t *testing.T) {
	n := startNode(t)
	if _, err := n.Attach(t.Context(), Pod{UID: "../etc"}); err == nil {
		t.Error("a UID that is a path is accepted")
	}
	n.dp.Fail(errors.New("no more room"))
	if _, err := n.Attach(t.Context(), Pod{UID: "uid-a", Namespace: "shop", Name: "web"}); err == nil || !strings.Contains(err.Error(), "shop/web") {
		t.Errorf("error is %v, want it to name the pod", err)
	}
	n.dp.Fail(nil)
	n.attach(t, "uid-a")
	fresh, err := New(Config{NodeName: "node-a", RunDir: t.TempDir(), DataDir: t.TempDir(), Uplink: uplink}, fake.New())
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	if _, err := fresh.Attach(t.Context(), Pod{UID: "uid-z"}); !errors.Is(err, ErrNoPodCIDR) {
		t.Errorf("before a pod CIDR is known: %v, want ErrNoPodCIDR", err)
	}
	if _, err := New(Config{NodeName: "n", RunDir: "/x", DataDir: "/x", Uplink: "nope0"}, fake.New()); err == nil || !strings.Contains(err.Error(), "nope0") {
		t.Errorf("error is %v, want it to name the missing uplink", err)
	}
}

func TestManyPodsAttachAtOnce(t *testing.T) {
	n := startNode(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	owner := map[netip.Addr]string{}
	began := time.Now()
	const pods = 50
	for i := range pods {
		uid := fmt.Sprint("uid-", i)
		for range 2 { // each twice, as a confused caller would
			wg.Go(func() {
				a, err := n.Attach(t.Context(), Pod{UID: uid, Namespace: "shop", Name: uid})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				for _, addr := range a.Addrs {
					if other, taken := owner[addr]; taken && other != uid {
						t.Errorf("%s belongs to %s and %s", addr, other, uid)
					}
					owner[addr] = uid
				}
			})
		}
	}
	wg.Wait()
	t.Logf("%d pods attached in %v", pods, time.Since(began))
	if len(owner) != 2*pods {
		t.Errorf("%d addresses, want %d", len(owner), 2*pods)
	}
}

func BenchmarkAttach(b *testing.B) {
	if os.Getenv(insideEnv) == "" {
		b.Skip("needs root, to make network namespaces")
	}
	n, err := New(Config{NodeName: "node-a", RunDir: b.TempDir(), DataDir: b.TempDir(), Uplink: uplink}, fake.New())
	if err != nil {
		b.Fatal(err)
	}
	defer n.Close()
	_ = n.SetPodCIDRs([]netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244:1::/64")})
	for i := 0; b.Loop(); i++ {
		uid := fmt.Sprint("uid-", i)
		if _, err := n.Attach(b.Context(), Pod{UID: uid}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		_ = n.Detach(b.Context(), uid)
		b.StartTimer()
	}
}
