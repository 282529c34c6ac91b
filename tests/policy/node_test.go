// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/kernel"
	"skep.dev/skep/datapath/netdev"
	"skep.dev/skep/nodeagent/podnet"
	"skep.dev/skep/nodeagent/policymodel"
)

const insideEnv = "SKEP_POLICY_TEST_NODE"

// TestMain runs the tests as a process with network and mount namespaces of its own, which end with it.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv(insideEnv) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		os.Exit(1)
	}
}

// makeUplink gives the node a device to nowhere, with the node's addresses.
func makeUplink(t *testing.T) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "up0"
	link := netlink.NewVeth(attrs)
	link.PeerName = "up1"
	err := errors.Join(unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""), netlink.LinkAdd(link))
	for _, a := range []string{"172.29.0.2/24", "fd00:172:29::2/64"} {
		addr, _ := netlink.ParseAddr(a)
		addr.Flags = unix.IFA_F_NODAD
		err = errors.Join(err, netlink.AddrAdd(link, addr))
	}
	peer, peerErr := netlink.LinkByName("up1")
	if err = errors.Join(err, peerErr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { netlink.LinkDel(link) })
	if err := errors.Join(netlink.LinkSetUp(peer), netlink.LinkSetUp(link)); err != nil {
		t.Fatal(err)
	}
}

// TestRealPodsObeyPolicies puts the parts of one node together, without API and containers: namespaces by podnet, policy by
// intent, programs attached by the real datapath, sockets as clients and servers.
func TestRealPodsObeyPolicies(t *testing.T) {
	if os.Getenv(insideEnv) == "" {
		t.Skip("needs root, to make network namespaces")
	}
	makeUplink(t)
	own := []netip.Addr{netip.MustParseAddr("172.29.0.2"), netip.MustParseAddr("fd00:172:29::2")}
	cidrs := []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:10:244:1::/64")}
	dp, err := kernel.New(t.Context(), kernel.Config{Node: thisNode, Uplink: "up0", NodeAddrs: own, PodCIDRs: cidrs})
	if err != nil {
		t.Fatal(err)
	}
	defer dp.Close()
	if err := dp.SetNodes(t.Context(), []datapath.Node{{Name: thisNode, Self: true, Addrs: own, PodCIDRs: cidrs}}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	network, err := podnet.New(podnet.Config{NodeName: thisNode, RunDir: filepath.Join(dir, "run"), DataDir: filepath.Join(dir, "data"), Uplink: "up0"}, dp)
	if err != nil {
		t.Fatal(err)
	}
	defer network.Close()
	if err := network.SetPodCIDRs(cidrs); err != nil {
		t.Fatal(err)
	}
	b := newBench(t, nil)
	b.setNamespace(policymodel.Namespace{Name: "shop"})
	netns, addrs := map[string]string{}, map[string][]netip.Addr{}
	for _, name := range []string{"client", "stranger", "server"} {
		at, err := network.Attach(t.Context(), podnet.Pod{UID: "uid-" + name, Namespace: "shop", Name: name})
		if err != nil {
			t.Fatal(err)
		}
		defer network.Detach(t.Context(), "uid-"+name)
		netns[name], addrs[name] = at.NetNS, at.Addrs
		b.cluster.SetPod(apiPod(policymodel.Pod{UID: "uid-" + name, Namespace: "shop", Name: name, Node: thisNode, Labels: map[string]string{"app": name}, IPs: at.Addrs}))
	}
	accept(t, netns["server"])
	step := func(what string, want map[string]bool) {
		t.Helper()
		if err := dp.SetPolicy(t.Context(), b.cluster.Policy()); err != nil {
			t.Fatal(err)
		}
		for from, reached := range want {
			for _, to := range addrs["server"] {
				if err := dial(netns[from], to); (err == nil) != reached {
					t.Errorf("%s: %s reaches the server at %s: %v, want %v (%v)", what, from, to, err == nil, reached, err)
				}
			}
		}
	}
	step("without policy", map[string]bool{"client": true, "stranger": true, "": true})
	b.setPolicy(policyFrom(t, "shop/deny", denyAll))
	step("denied", map[string]bool{"client": false, "stranger": false, "": true})
	b.setPolicy(policyFrom(t, "shop/in", `{podSelector: {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 80}]}]}`))
	b.setPolicy(policyFrom(t, "shop/out", `{podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: server}}}]}]}`))
	step("one client allowed", map[string]bool{"client": true, "stranger": false, "": true})
}

// accept takes connections to port 80 of a pod until the test ends.
func accept(t *testing.T, netns string) {
	t.Helper()
	var l net.Listener
	if err := netdev.InNamespace(netns, func() (err error) { l, err = net.Listen("tcp", ":80"); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
}

// dial connects from a pod, or from the node when netns is empty.
func dial(netns string, to netip.Addr) error {
	connect := func() error {
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(to, 80).String(), 500*time.Millisecond)
		if err != nil {
			return fmt.Errorf("dial: %w", err)
		}
		return c.Close()
	}
	if netns == "" {
		return connect()
	}
	return netdev.InNamespace(netns, connect)
}
