// SPDX-License-Identifier: Apache-2.0

package local

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	bridgeName = "fabric"
	// Uplink is the node's device on the fabric.
	Uplink = "eth0"
)

// nodeSysctls are what the kernel of a real node is expected to have. IPv6 addresses of a private fabric cannot be
// duplicates, and detection would hold every one of them back for a second.
var nodeSysctls = [][2]string{
	{"net/ipv4/ip_forward", "1"},
	{"net/ipv6/conf/all/disable_ipv6", "0"},
	{"net/ipv6/conf/all/forwarding", "1"},
	{"net/ipv6/conf/default/forwarding", "1"},
	{"net/ipv6/conf/all/accept_dad", "0"},
	{"net/ipv6/conf/default/accept_dad", "0"},
	{"net/ipv6/conf/all/accept_ra", "0"},
	{"net/ipv6/conf/default/accept_ra", "0"},
}

// ensureFabric makes the bridge that nodes are connected to.
func (c Cluster) ensureFabric() error {
	if err := ensureNetns(c.fabricNetns()); err != nil {
		return err
	}
	return inNetns(c.fabricNetns(), func() error {
		// The bridge only switches frames; it needs no addresses, and none of its namespace's.
		if err := setSysctls([][2]string{{"net/ipv6/conf/default/disable_ipv6", "1"}}); err != nil {
			return err
		}
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName}}
		if err := netlink.LinkAdd(bridge); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("make fabric bridge: %w", err)
		}
		return setUp(bridgeName)
	})
}

// ensureNode makes the node's network namespace and connects it to the fabric.
func (c Cluster) ensureNode(n Node) error {
	if err := ensureNetns(n.Netns()); err != nil {
		return err
	}
	if err := c.ensureCable(n); err != nil {
		return fmt.Errorf("connect node %s to the fabric: %w", n.Name(), err)
	}
	err := inNetns(c.fabricNetns(), func() error { return enslave(portName(n)) })
	if err != nil {
		return fmt.Errorf("connect node %s to the fabric: %w", n.Name(), err)
	}
	return inNetns(n.Netns(), func() error { return configureNode(n) })
}

// portName is the fabric's end of the node's cable.
func portName(n Node) string { return "node" + strconv.Itoa(n.Index) }

// ensureCable makes the veth pair between the node and the fabric. Both ends are born in their namespaces, so
// nothing ever appears in the host's.
func (c Cluster) ensureCable(n Node) error {
	fabric, err := netns.GetFromPath(filepath.Join(netnsDir, c.fabricNetns()))
	if err != nil {
		return err
	}
	defer fabric.Close()
	return inNetns(n.Netns(), func() error {
		if _, err := netlink.LinkByName(Uplink); err == nil {
			return nil
		}
		err := netlink.LinkAdd(&netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: Uplink, HardwareAddr: fabricMAC(n)},
			PeerName:      portName(n),
			PeerNamespace: netlink.NsFd(fabric),
		})
		if err != nil {
			return fmt.Errorf("make veth pair: %w", err)
		}
		return nil
	})
}

// fabricMAC is stable, so that neighbours of a node that is repaired stay right.
func fabricMAC(n Node) net.HardwareAddr {
	return net.HardwareAddr{0x02, 's', 'k', 'p', 0, byte(n.Index)}
}

func enslave(port string) error {
	bridge, err := netlink.LinkByName(bridgeName)
	if err != nil {
		return err
	}
	link, err := netlink.LinkByName(port)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetMaster(link, bridge); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

func configureNode(n Node) error {
	if err := setSysctls(nodeSysctls); err != nil {
		return err
	}
	if err := setUp("lo"); err != nil {
		return err
	}
	link, err := netlink.LinkByName(Uplink)
	if err != nil {
		return err
	}
	for i, addr := range n.Addrs() {
		bits := []int{fabricIPv4.Bits(), fabricIPv6.Bits()}[i]
		if err := addAddr(link, netip.PrefixFrom(addr, bits)); err != nil {
			return fmt.Errorf("address %s of node %s: %w", addr, n.Name(), err)
		}
	}
	return netlink.LinkSetUp(link)
}

func addAddr(link netlink.Link, p netip.Prefix) error {
	a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return netlink.AddrReplace(link, a)
}

func setUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// setSysctls writes settings of the calling thread's network namespace.
func setSysctls(settings [][2]string) error {
	for _, s := range settings {
		err := os.WriteFile(filepath.Join("/proc/sys", s[0]), []byte(s[1]), 0o644)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without IPv6 lacks some
			return fmt.Errorf("set %s: %w", s[0], err)
		}
	}
	return nil
}
