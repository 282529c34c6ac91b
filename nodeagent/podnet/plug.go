// SPDX-License-Identifier: Apache-2.0

package podnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"skep.dev/skep/datapath/netdev"
)

// ifPrefix starts the name of every host-side device.
const ifPrefix = "skep"

// podIfName is the device inside the pod.
const podIfName = "eth0"

// awaitTimeout bounds what normally takes less than a millisecond.
const awaitTimeout = 5 * time.Second

// The next hops that every pod sees. They exist only as permanent neighbour entries of the host-side device.
var (
	gateway4 = netip.MustParseAddr("169.254.1.1")
	gateway6 = netip.MustParseAddr("fe80::1")
)

// nodeSysctls make the node a router. The uplink's own settings are dealt with in prepareNode.
var nodeSysctls = []sysctl{
	{"ipv4/ip_forward", "1"},
	{"ipv6/conf/all/forwarding", "1"},
}

// hostSysctls are those of a pod's host-side device, below conf/DEVICE.
var hostSysctls = []sysctl{
	{"ipv4/conf/%s/rp_filter", "0"}, // replies to packets that BPF redirected past the stack are not "reverse"
	{"ipv4/conf/%s/proxy_arp", "0"},
	{"ipv4/conf/%s/send_redirects", "0"},
	{"ipv4/conf/%s/accept_redirects", "0"},
	{"ipv6/conf/%s/accept_ra", "0"},
	{"ipv6/conf/%s/accept_redirects", "0"},
	{"ipv6/conf/%s/proxy_ndp", "0"},
	{"ipv6/conf/%s/addr_gen_mode", "1"}, // no link-local address: nothing on this link needs neighbour discovery
}

// podSysctls are set in a new pod namespace before its device exists, which then takes them over from "default".
var podSysctls = []sysctl{
	{"ipv6/conf/default/accept_ra", "0"},
	{"ipv6/conf/default/accept_redirects", "0"},
	{"ipv6/conf/default/accept_dad", "0"},
	{"ipv6/conf/default/dad_transmits", "0"},
	{"ipv6/conf/default/addr_gen_mode", "1"},
	{"ipv4/conf/default/accept_redirects", "0"},
}

type sysctl struct{ name, value string }

// plug makes the pod's namespace and devices or finds them, and makes them complete.
func (n *Network) plug(ctx context.Context, rec record) (netdev.Link, error) {
	path := n.netnsPath(rec.UID)
	link, err := n.nl.Link(rec.IfName)
	if err == nil && netdev.IsNamespace(path) && link.Up {
		// The host end is brought up last, so a device that is up is complete.
		return link, nil
	}
	if err == nil {
		// Half made, or the namespace was lost: begin anew.
		if err := n.nl.DeleteLink(link.Index); err != nil {
			return netdev.Link{}, err
		}
	} else if !errors.Is(err, netdev.ErrNotFound) {
		return netdev.Link{}, err
	}
	var pod *netdev.Handle
	if pod, err = n.namespace(path); err != nil {
		return netdev.Link{}, err
	}
	defer pod.Close()
	if link, err = n.addVeth(rec, path); err != nil {
		return netdev.Link{}, err
	}
	if err := setUpPod(pod, rec); err != nil {
		return netdev.Link{}, err
	}
	if err := n.setUpHost(rec, link.Index); err != nil {
		return netdev.Link{}, err
	}
	return link, awaitPod(ctx, pod, rec)
}

// awaitPod returns when the first packet to the pod will be answered.
func awaitPod(ctx context.Context, pod *netdev.Handle, rec record) error {
	ctx, cancel := context.WithTimeout(ctx, awaitTimeout)
	defer cancel()
	eth, err := pod.Link(podIfName)
	if err != nil {
		return err
	}
	if err := pod.AwaitRunning(ctx, eth.Index); err != nil {
		return err
	}
	for _, a := range rec.Addrs {
		if err := pod.AwaitAddr(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

// namespace makes or finds the pod's namespace and returns a handle into it.
func (n *Network) namespace(path string) (*netdev.Handle, error) {
	var pod *netdev.Handle
	open := func() (err error) {
		if err = writeSysctls(podSysctls); err != nil {
			return err
		}
		pod, err = netdev.Open()
		return err
	}
	if netdev.IsNamespace(path) {
		err := netdev.InNamespace(path, open)
		return pod, err
	}
	// A file without a namespace is what a reboot or a crash in between leaves.
	if err := netdev.DeleteNamespace(path); err != nil {
		return nil, err
	}
	err := netdev.CreateNamespace(path, open)
	return pod, err
}

func (n *Network) addVeth(rec record, netns string) (netdev.Link, error) {
	fd, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return netdev.Link{}, fmt.Errorf("open network namespace %s: %w", netns, err)
	}
	defer unix.Close(fd)
	err = n.nl.AddVeth(netdev.Veth{
		Name: rec.IfName, MAC: hostMAC(rec.UID),
		PeerName: podIfName, PeerMAC: podMAC(rec.UID), PeerNS: fd,
		MTU: n.mtu,
	})
	if err != nil {
		return netdev.Link{}, err
	}
	return n.nl.Link(rec.IfName)
}

// setUpPod configures the pod's side: loopback, addresses, gateways.
func setUpPod(pod *netdev.Handle, rec record) error {
	lo, err := pod.Link("lo")
	if err != nil {
		return err
	}
	eth, err := pod.Link(podIfName)
	if err != nil {
		return err
	}
	if err := errors.Join(pod.SetUp(lo.Index), pod.SetUp(eth.Index)); err != nil {
		return err
	}
	for _, a := range rec.Addrs {
		gw := gatewayOf(a)
		// Protocol boot is what an administrator's "ip route add" would leave too.
		err := errors.Join(
			pod.AddAddr(eth.Index, a),
			pod.SetNeighbour(eth.Index, gw, hostMAC(rec.UID)),
			pod.ReplaceRoute(netdev.Route{Dst: netip.PrefixFrom(gw, gw.BitLen()), Index: eth.Index, Protocol: unix.RTPROT_BOOT}),
			pod.ReplaceRoute(netdev.Route{Dst: defaultRoute(a), Via: gw, Src: a, Index: eth.Index, OnLink: true, Protocol: unix.RTPROT_BOOT}),
		)
		if err != nil {
			return err
		}
	}
	return nil
}

// setUpHost configures the node's side. The device comes up last but for the routes, which need it up.
func (n *Network) setUpHost(rec record, index int) error {
	set := make([]sysctl, len(hostSysctls))
	for i, s := range hostSysctls {
		set[i] = sysctl{fmt.Sprintf(s.name, rec.IfName), s.value}
	}
	if err := writeSysctls(set); err != nil {
		return err
	}
	for _, a := range rec.Addrs {
		if err := n.nl.SetNeighbour(index, a, podMAC(rec.UID)); err != nil {
			return err
		}
	}
	if err := n.nl.SetUp(index); err != nil {
		return err
	}
	return n.addPodRoutes(rec, index)
}

func (n *Network) addPodRoutes(rec record, index int) error {
	for _, a := range rec.Addrs {
		route := netdev.Route{Dst: netip.PrefixFrom(a, a.BitLen()), Index: index, Protocol: netdev.PodProtocol}
		for _, own := range n.nodeAddrs {
			if own.Is4() == a.Is4() {
				route.Src = own
				break
			}
		}
		if err := n.nl.ReplaceRoute(route); err != nil {
			return err
		}
	}
	return nil
}

// unplug removes everything plug and SetEndpoint made.
func (n *Network) unplug(ctx context.Context, uid string) error {
	link, err := n.nl.Link(hostIfName(uid))
	if err != nil && !errors.Is(err, netdev.ErrNotFound) {
		return err
	}
	if err == nil {
		// Down before the programs go: no packet passes an attached pod that is no longer judged.
		if err := n.nl.SetDown(link.Index); err != nil {
			return err
		}
	}
	if err := n.dp.DeleteEndpoint(ctx, endpointID(uid)); err != nil {
		return err
	}
	if link.Index != 0 {
		if err := n.nl.DeleteLink(link.Index); err != nil {
			return err
		}
	}
	return netdev.DeleteNamespace(n.netnsPath(uid))
}

// prepareNode turns forwarding on. An uplink that lives on router advertisements must go on accepting them, which
// the kernel stops doing for routers unless told.
func prepareNode(uplink string) error {
	ra := "ipv6/conf/" + uplink + "/accept_ra"
	if v, err := netdev.ReadSysctl(ra); err == nil && v == "1" {
		if err := netdev.WriteSysctl(ra, "2"); err != nil {
			return err
		}
	}
	return writeSysctls(nodeSysctls)
}

// writeSysctls sets them in the calling thread's namespace. One that the kernel does not have, as when it is built or
// booted without IPv6, is passed over: the address of that family is what would fail, and says so.
func writeSysctls(list []sysctl) error {
	for _, s := range list {
		if err := netdev.WriteSysctl(s.name, s.value); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func gatewayOf(a netip.Addr) netip.Addr {
	if a.Is4() {
		return gateway4
	}
	return gateway6
}

func defaultRoute(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}
