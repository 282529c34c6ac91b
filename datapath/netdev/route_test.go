// SPDX-License-Identifier: Apache-2.0

package netdev

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"skep.dev/skep/datapath"
)

const insideEnv = "SKEP_NETDEV_TEST_NODE"

// TestMain runs the tests again in a network namespace of their own, which ends with the process.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv(insideEnv) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func node(name string, self bool, v4, v6, cidr4, cidr6 string) datapath.Node {
	return datapath.Node{
		Name: name, Self: self,
		Addrs:    []netip.Addr{netip.MustParseAddr(v4), netip.MustParseAddr(v6)},
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix(cidr4), netip.MustParsePrefix(cidr6)},
	}
}

func own(t *testing.T, h *Handle) []string {
	t.Helper()
	routes, err := h.OwnRoutes()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, r := range routes {
		if r.Unreachable {
			out = append(out, r.Dst.String()+" unreachable")
		} else {
			out = append(out, r.Dst.String()+" via "+r.Via.String())
		}
	}
	slices.Sort(out)
	return out
}

func TestRoutesFollowTheNodes(t *testing.T) {
	if os.Getenv(insideEnv) == "" {
		t.Skip("needs root, to make a network namespace")
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "up0"
	veth := netlink.NewVeth(attrs)
	veth.PeerName = "up1"
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	h, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for _, name := range []string{"lo", "up1", "up0"} {
		l, err := h.Link(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.SetUp(l.Index); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range []string{"172.29.0.2/24", "fd00:29::2/64"} {
		addr, _ := netlink.ParseAddr(a)
		if err := netlink.AddrAdd(veth, addr); err != nil {
			t.Fatal(err)
		}
	}
	// A route that somebody else made must stay, also inside a node's range.
	foreign, _ := netlink.ParseIPNet("10.244.7.0/25")
	if err := netlink.RouteAdd(&netlink.Route{Dst: foreign, LinkIndex: veth.Attrs().Index, Protocol: 4}); err != nil {
		t.Fatal(err)
	}
	a := node("a", true, "172.29.0.2", "fd00:29::2", "10.244.1.0/24", "fd00:1::/64")
	b := node("b", false, "172.29.0.3", "fd00:29::3", "10.244.2.0/24", "fd00:2::/64")
	moved := node("b", false, "172.29.0.4", "fd00:29::4", "10.244.2.0/24", "fd00:2::/64")
	late := datapath.Node{Name: "c", Addrs: b.Addrs[:1], PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.3.0/24"), netip.MustParsePrefix("fd00:3::/64")}}
	mine := []string{"10.244.1.0/24 unreachable", "fd00:1::/64 unreachable"}
	for _, step := range []struct {
		name  string
		nodes []datapath.Node
		want  []string
	}{
		{"alone", []datapath.Node{a}, mine},
		{"a second node", []datapath.Node{a, b}, append([]string{"10.244.2.0/24 via 172.29.0.3", "fd00:2::/64 via fd00:29::3"}, mine...)},
		{"the same again", []datapath.Node{a, b}, append([]string{"10.244.2.0/24 via 172.29.0.3", "fd00:2::/64 via fd00:29::3"}, mine...)},
		{"the node moves", []datapath.Node{a, moved}, append([]string{"10.244.2.0/24 via 172.29.0.4", "fd00:2::/64 via fd00:29::4"}, mine...)},
		{"a node without an address of a family has no route of it", []datapath.Node{a, late}, append([]string{"10.244.3.0/24 via 172.29.0.3"}, mine...)},
		{"what was another's becomes ours", []datapath.Node{{Name: "a", Self: true, PodCIDRs: late.PodCIDRs}}, []string{"10.244.3.0/24 unreachable", "fd00:3::/64 unreachable"}},
		{"none", nil, nil},
	} {
		if err := h.SyncRoutes(step.nodes, "up0"); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		slices.Sort(step.want)
		if diff := cmp.Diff(step.want, own(t, h)); diff != "" {
			t.Errorf("%s: %s", step.name, diff)
		}
	}
	list, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: foreign}, netlink.RT_FILTER_DST)
	if err != nil || len(list) != 1 {
		t.Errorf("the foreign route is gone: %v %v", list, err)
	}
	if err := h.SyncRoutes([]datapath.Node{node("x", false, "192.168.77.1", "fd00:77::1", "10.244.9.0/24", "fd00:9::/64"), b}, "up0"); err == nil || !strings.Contains(err.Error(), "10.244.9.0/24") {
		t.Errorf("a next hop out of reach gives %v, want an error that names the destination", err)
	}
	if got := own(t, h); !slices.Contains(got, "10.244.2.0/24 via 172.29.0.3") {
		t.Errorf("one bad node keeps the others from their routes: %v", got)
	}
}
