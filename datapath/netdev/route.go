// SPDX-License-Identifier: Apache-2.0

package netdev

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"skep.dev/skep/datapath"
)

// Protocol marks the routes to other nodes' pods as ours, so that stale ones can be told from the operator's.
// It is free in iproute2's rt_protos.
const Protocol = 174

// PodProtocol marks the host routes to this node's own pods. They live and die with the pod's device.
const PodProtocol = 175

// Route is one route of the main table.
type Route struct {
	Dst netip.Prefix
	// Via is the next hop; invalid for a destination on the link.
	Via netip.Addr
	// Src is the source that local sockets use by default; invalid leaves the choice to the kernel.
	Src netip.Addr
	// Index is the device; zero for an unreachable route.
	Index int
	// Unreachable answers with an ICMP error instead of forwarding.
	Unreachable bool
	// OnLink accepts a next hop that no route of the device covers.
	OnLink bool
	// Protocol says who made the route; zero means Protocol.
	Protocol int
}

// ReplaceRoute adds a route or replaces the one to the same destination.
func (h *Handle) ReplaceRoute(r Route) error {
	if err := h.nl.RouteReplace(r.netlink()); err != nil {
		return fmt.Errorf("set route to %s: %w", r.Dst, err)
	}
	return nil
}

// DeleteRoute removes a route. Absence is not an error.
func (h *Handle) DeleteRoute(r Route) error {
	if err := h.nl.RouteDel(r.netlink()); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("delete route to %s: %w", r.Dst, err)
	}
	return nil
}

// OwnRoutes lists the routes of the main table that carry Protocol.
func (h *Handle) OwnRoutes() ([]Route, error) {
	filter := &netlink.Route{Protocol: Protocol, Table: unix.RT_TABLE_MAIN}
	var out []Route
	for _, fam := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := h.nl.RouteListFiltered(fam, filter, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range list {
			if own, ok := fromNetlinkRoute(r); ok {
				out = append(out, own)
			}
		}
	}
	return out, nil
}

// NodeRoutes decides the routes to the pods of every node: other nodes' pods by their node's address, and this node's
// own range unreachable, so that a packet to an address no pod owns is refused here and not sent in circles. The host
// routes of existing pods are more specific and win.
func NodeRoutes(nodes []datapath.Node, uplink int) []Route {
	var out []Route
	for _, n := range nodes {
		for _, cidr := range n.PodCIDRs {
			cidr = cidr.Masked()
			if n.Self {
				out = append(out, Route{Dst: cidr, Unreachable: true})
				continue
			}
			if via, ok := addrOfFamily(n.Addrs, cidr.Addr().Is4()); ok {
				out = append(out, Route{Dst: cidr, Via: via, Index: uplink})
			}
		}
	}
	slices.SortFunc(out, func(a, b Route) int { return cmp.Compare(a.Dst.String(), b.Dst.String()) })
	return out
}

// SyncRoutes makes the routes to all nodes' pods agree with nodes: adds before deletes. Routes made by anybody else
// are left alone. It tries every route and joins the errors.
func (h *Handle) SyncRoutes(nodes []datapath.Node, uplink string) error {
	link, err := h.Link(uplink)
	if err != nil {
		return fmt.Errorf("uplink: %w", err)
	}
	have, err := h.OwnRoutes()
	if err != nil {
		return err
	}
	want := NodeRoutes(nodes, link.Index)
	add, drop := diffRoutes(have, want)
	var errs []error
	for _, r := range add {
		errs = append(errs, h.ReplaceRoute(r))
	}
	for _, r := range drop {
		errs = append(errs, h.DeleteRoute(r))
	}
	return errors.Join(errs...)
}

// SyncRoutes is Handle.SyncRoutes in the calling thread's namespace.
func SyncRoutes(nodes []datapath.Node, uplink string) error {
	h, err := Open()
	if err != nil {
		return err
	}
	defer h.Close()
	return h.SyncRoutes(nodes, uplink)
}

// diffRoutes returns what to add or replace and what to remove. A destination that changes its next hop is replaced
// in one step and therefore not in drop.
func diffRoutes(have, want []Route) (add, drop []Route) {
	wanted := make(map[netip.Prefix]Route, len(want))
	for _, r := range want {
		wanted[r.Dst] = r
	}
	present := make(map[netip.Prefix]bool, len(have))
	for _, r := range have {
		w, ok := wanted[r.Dst]
		switch {
		case !ok:
			drop = append(drop, r)
		case w.Via == r.Via && w.Index == r.Index && w.Unreachable == r.Unreachable:
			present[r.Dst] = true
		case w.Unreachable != r.Unreachable:
			// IPv6 keeps routes of different type side by side, so a replace would not remove the old one.
			drop = append(drop, r)
		}
	}
	for _, r := range want {
		if !present[r.Dst] {
			add = append(add, r)
		}
	}
	return add, drop
}

func addrOfFamily(addrs []netip.Addr, v4 bool) (netip.Addr, bool) {
	for _, a := range addrs {
		if a.Is4() == v4 {
			return a, true
		}
	}
	return netip.Addr{}, false
}

func (r Route) netlink() *netlink.Route {
	out := &netlink.Route{
		Dst:       ipNet(r.Dst),
		LinkIndex: r.Index,
		Protocol:  netlink.RouteProtocol(cmp.Or(r.Protocol, Protocol)),
		Table:     unix.RT_TABLE_MAIN,
		Family:    family(r.Dst.Addr()),
	}
	if r.Via.IsValid() {
		out.Gw = r.Via.AsSlice()
	} else if !r.Unreachable && r.Dst.Addr().Is4() {
		out.Scope = netlink.SCOPE_LINK
	}
	if r.Src.IsValid() {
		out.Src = r.Src.AsSlice()
	}
	if r.Unreachable {
		out.Type = unix.RTN_UNREACHABLE
	}
	if r.OnLink {
		out.Flags = int(netlink.FLAG_ONLINK)
	}
	return out
}

func fromNetlinkRoute(r netlink.Route) (Route, bool) {
	if r.Dst == nil {
		return Route{}, false
	}
	ip, ok := netip.AddrFromSlice(r.Dst.IP)
	if !ok {
		return Route{}, false
	}
	ones, bits := r.Dst.Mask.Size()
	if bits == 32 {
		ip = ip.Unmap()
	}
	out := Route{
		Dst:         netip.PrefixFrom(ip, ones),
		Index:       r.LinkIndex,
		Unreachable: r.Type == unix.RTN_UNREACHABLE,
		Protocol:    int(r.Protocol),
	}
	if out.Unreachable {
		// IPv6 reports the loopback device for unreachable routes.
		out.Index = 0
	}
	if via, ok := netip.AddrFromSlice(r.Gw); ok {
		out.Via = via.Unmap()
	}
	return out, true
}
