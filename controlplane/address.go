// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"skep.dev/skep/controlplane/ipam"
)

// advertised guesses where others reach a server that binds to bind: there, or at the address of the interface
// that has the default route. Without one, only this machine can reach it.
func advertised(bind netip.Addr) netip.Addr {
	if !bind.IsUnspecified() {
		return bind
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			continue
		}
		for _, r := range routes {
			if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
				continue
			}
			if addr, ok := globalAddress(r.LinkIndex, family); ok {
				return addr
			}
		}
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

func globalAddress(index, family int) (netip.Addr, bool) {
	link, err := netlink.LinkByIndex(index)
	if err != nil {
		return netip.Addr{}, false
	}
	addrs, err := netlink.AddrList(link, family)
	if err != nil {
		return netip.Addr{}, false
	}
	for _, a := range addrs {
		if addr, ok := netip.AddrFromSlice(a.IP); ok && addr.Unmap().IsGlobalUnicast() {
			return addr.Unmap(), true
		}
	}
	return netip.Addr{}, false
}

// listen opens the API's port.
func listen(addr netip.Addr, port uint16) (net.Listener, error) {
	at := netip.AddrPortFrom(addr, port)
	l, err := net.Listen("tcp", at.String())
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return nil, fmt.Errorf("port %d is already taken: stop the process that listens on %s, or choose another port: %w", port, at, err)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s is not an address of this machine: choose another bind address: %w", addr, err)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w", at, err)
	}
	return l, nil
}

// servingNames are the names and addresses by which clients may call the API.
func servingNames(c Config) (names []string, addrs []netip.Addr, err error) {
	names = []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + c.ClusterDomain}
	addrs = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback(), c.AdvertiseAddress}
	if !c.BindAddress.IsUnspecified() {
		addrs = append(addrs, c.BindAddress)
	}
	for _, p := range c.ServiceCIDRs {
		addr, err := ipam.Nth(p, ipam.KubernetesOffset)
		if err != nil {
			return nil, nil, err
		}
		addrs = append(addrs, addr)
	}
	for _, extra := range c.ExtraSANs {
		if addr, err := netip.ParseAddr(extra); err == nil {
			addrs = append(addrs, addr)
		} else {
			names = append(names, extra)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return names, slices.Compact(addrs), nil
}
