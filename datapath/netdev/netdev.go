// SPDX-License-Identifier: Apache-2.0

// Package netdev programs links, addresses, routes and neighbours of one network namespace.
//
// It is the only package that speaks rtnetlink. A Handle is bound to the namespace its sockets were opened in and may
// be used from any thread afterwards; only what the kernel ties to the calling thread (sysctls, creating a namespace)
// runs on a short-lived locked thread, see namespace.go.
package netdev

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrNotFound is returned when a link does not exist.
var ErrNotFound = errors.New("link not found")

// MAC is an Ethernet address.
type MAC [6]byte

// String renders the address in the usual colon form.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// Link is what callers need to know of a device.
type Link struct {
	Index int
	Name  string
	MTU   int
	MAC   MAC
	// Up is the administrative state.
	Up bool
	// Running says that the other end is up too and packets can be queued.
	Running bool
}

// Handle programs one network namespace. It is safe for concurrent use.
type Handle struct {
	nl *netlink.Handle
	// ns is the namespace, for sockets that are opened later.
	ns int
}

// Open returns a Handle for the network namespace of the calling thread. Callers that are not in their process's
// only namespace must have locked the thread.
func Open() (*Handle, error) {
	ns, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open own network namespace: %w", err)
	}
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		unix.Close(ns)
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	return &Handle{nl: nl, ns: ns}, nil
}

// Close releases the descriptors.
func (h *Handle) Close() {
	h.nl.Close()
	unix.Close(h.ns)
}

// Link looks a device up by name. It returns ErrNotFound when there is none.
func (h *Handle) Link(name string) (Link, error) {
	l, err := h.nl.LinkByName(name)
	if err != nil {
		if isLinkNotFound(err) {
			return Link{}, fmt.Errorf("link %s: %w", name, ErrNotFound)
		}
		return Link{}, fmt.Errorf("look up link %s: %w", name, err)
	}
	return fromNetlink(l), nil
}

// Links lists the devices whose name starts with prefix.
func (h *Handle) Links(prefix string) ([]Link, error) {
	all, err := h.nl.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var out []Link
	for _, l := range all {
		if name := l.Attrs().Name; len(name) >= len(prefix) && name[:len(prefix)] == prefix {
			out = append(out, fromNetlink(l))
		}
	}
	return out, nil
}

// Veth describes a device pair to make: one end here, the peer in another namespace.
type Veth struct {
	Name, PeerName string
	MAC, PeerMAC   MAC
	MTU            int
	// PeerNS is a descriptor of the namespace that the peer is born in.
	PeerNS int
}

// AddVeth makes the pair. Both ends have their final name, address and namespace from the first moment, so nothing
// ever sees a half-made device. The end in this namespace is brought up by SetUp.
func (h *Handle) AddVeth(v Veth) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = v.Name
	attrs.MTU = v.MTU
	attrs.HardwareAddr = v.MAC[:]
	veth := netlink.NewVeth(attrs)
	veth.PeerName = v.PeerName
	veth.PeerHardwareAddr = v.PeerMAC[:]
	veth.PeerMTU = uint32(v.MTU)
	veth.PeerNamespace = netlink.NsFd(v.PeerNS)
	if err := h.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("add veth %s: %w", v.Name, err)
	}
	return nil
}

// SetUp brings a device up.
func (h *Handle) SetUp(index int) error {
	if err := h.nl.LinkSetUp(byIndex(index)); err != nil {
		return fmt.Errorf("set link %d up: %w", index, err)
	}
	return nil
}

// AwaitRunning waits until a device that is up carries packets.
//
// Of the two ends of a veth, the one that came up first gets its queue only from the kernel's link watcher, a moment after the
// other end has come up, and until then drops what it is given. The first packet to a new pod, or its answer, would be
// lost and come again a second later.
func (h *Handle) AwaitRunning(ctx context.Context, index int) error {
	return await(ctx, fmt.Sprintf("link %d to run", index), func() (bool, error) {
		l, err := h.nl.LinkByIndex(index)
		if err != nil {
			return false, fmt.Errorf("look up link %d: %w", index, err)
		}
		return l.Attrs().OperState == netlink.OperUp, nil
	})
}

// AwaitAddr waits until packets to an address of this namespace are accepted. For IPv6 the kernel does that from a work queue,
// also without duplicate address detection.
func (h *Handle) AwaitAddr(ctx context.Context, a netip.Addr) error {
	return await(ctx, "address "+a.String(), func() (bool, error) {
		routes, err := h.nl.RouteGet(a.AsSlice())
		if err != nil {
			return false, nil // no route at all is how "not yet" may look too; the end of ctx is reported
		}
		return len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL, nil
	})
}

// await polls: the kernel announces these things, but a subscription costs more than the one or two looks they take.
func await(ctx context.Context, what string, done func() (bool, error)) error {
	for pause := 50 * time.Microsecond; ; pause = min(2*pause, 5*time.Millisecond) {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		}
	}
}

// SetDown takes a device down. A device that is gone is down.
func (h *Handle) SetDown(index int) error {
	if err := h.nl.LinkSetDown(byIndex(index)); err != nil && !isLinkNotFound(err) {
		return fmt.Errorf("set link %d down: %w", index, err)
	}
	return nil
}

// DeleteLink removes a device. Absence is not an error.
func (h *Handle) DeleteLink(index int) error {
	if err := h.nl.LinkDel(byIndex(index)); err != nil && !isLinkNotFound(err) {
		return fmt.Errorf("delete link %d: %w", index, err)
	}
	return nil
}

// AddAddr gives a device a single address that is used at once: IPv6 addresses skip duplicate address detection,
// which would leave them tentative for about a second. An address that is there already stays.
func (h *Handle) AddAddr(index int, a netip.Addr) error {
	addr := &netlink.Addr{IPNet: hostNet(a)}
	if a.Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := h.nl.AddrReplace(byIndex(index), addr); err != nil {
		return fmt.Errorf("add address %s to link %d: %w", a, index, err)
	}
	return nil
}

// Addrs lists the global unicast addresses of a device.
func (h *Handle) Addrs(index int) ([]netip.Addr, error) {
	list, err := h.nl.AddrList(byIndex(index), netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses of link %d: %w", index, err)
	}
	var out []netip.Addr
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.Unmap().IsGlobalUnicast() {
			out = append(out, ip.Unmap())
		}
	}
	return out, nil
}

// SetNeighbour makes a permanent neighbour entry, so that no ARP or neighbour discovery is ever needed for it.
func (h *Handle) SetNeighbour(index int, a netip.Addr, mac MAC) error {
	n := &netlink.Neigh{
		LinkIndex:    index,
		Family:       family(a),
		State:        netlink.NUD_PERMANENT,
		IP:           a.AsSlice(),
		HardwareAddr: mac[:],
	}
	if err := h.nl.NeighSet(n); err != nil {
		return fmt.Errorf("set neighbour %s on link %d: %w", a, index, err)
	}
	return nil
}

func byIndex(index int) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
}

func fromNetlink(l netlink.Link) Link {
	a := l.Attrs()
	out := Link{Index: a.Index, Name: a.Name, MTU: a.MTU, Up: a.Flags&net.FlagUp != 0, Running: a.OperState == netlink.OperUp}
	copy(out.MAC[:], a.HardwareAddr)
	return out
}

func isLinkNotFound(err error) bool {
	var nf netlink.LinkNotFoundError
	return errors.As(err, &nf) || errors.Is(err, unix.ENODEV)
}

func hostNet(a netip.Addr) *net.IPNet {
	return ipNet(netip.PrefixFrom(a, a.BitLen()))
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func family(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}
