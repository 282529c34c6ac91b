// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/bpfobj"
	"skep.dev/skep/datapath/loader"
	"skep.dev/skep/datapath/progtest"
)

// Offsets in a frame.
const (
	ethertypeAt = 12
	networkAt   = 14
	flags4At    = networkAt + 6
	source4At   = networkAt + 12
	length4At   = networkAt + 2
	source6At   = networkAt + 8
	next6At     = networkAt + 6
	transport6  = networkAt + 40
)

// tcp4 and tcp6 are the valid packets that the cases below change in one way.
func tcp4() progtest.Packet {
	return progtest.Packet{Src: podA4, Dst: podB4, Protocol: progtest.TCP, SrcPort: 1000, DstPort: 80}
}

func tcp6() progtest.Packet {
	return progtest.Packet{Src: podA6, Dst: podB6, Protocol: progtest.TCP, SrcPort: 1000, DstPort: 80}
}

func with(p progtest.Packet, change func(*progtest.Packet)) []byte {
	change(&p)
	return p.Bytes()
}

func altered(p progtest.Packet, change func([]byte)) []byte {
	frame := p.Bytes()
	change(frame)
	return frame
}

func icmp6(kind uint8, src netip.Addr, body []byte) []byte {
	p := progtest.Packet{Src: src, Dst: netip.MustParseAddr("fe80::1"), Protocol: progtest.ICMPv6, Type: kind, Body: body}
	return p.Bytes()
}

// routed6 is a message of neighbour discovery to an address that is not on the link.
func routed6(kind uint8) []byte {
	body := podB6.As16()
	return progtest.Packet{Src: podA6, Dst: netip.MustParseAddr("2001:db8::9"), Protocol: progtest.ICMPv6, Type: kind, Body: body[:]}.Bytes()
}

// arp is a request by sender for the gateway.
func arp(mac [6]byte, sender netip.Addr) []byte {
	frame := make([]byte, networkAt, 60)
	binary.BigEndian.PutUint16(frame[ethertypeAt:], 0x0806)
	frame = append(frame, 0, 1, 8, 0, 6, 4, 0, 1)
	frame = append(append(frame, mac[:]...), sender.AsSlice()...)
	return append(append(frame, make([]byte, 6)...), gateway4.AsSlice()...)
}

// extensions puts n destination option headers before the transport.
func extensions(p progtest.Packet, n int) []byte {
	frame := p.Bytes()
	head, transport := frame[:transport6], frame[transport6:]
	out := append([]byte{}, head...)
	for i := range n {
		next := byte(60)
		if i == n-1 {
			next = p.Protocol
		}
		out = append(out, next, 0, 1, 4, 0, 0, 0, 0)
	}
	out[next6At] = 60
	binary.BigEndian.PutUint16(out[networkAt+4:], uint16(8*n+len(transport)))
	return append(out, transport...)
}

func TestEveryDropFromAPodHasItsReason(t *testing.T) {
	gateway := gateway6.As16()
	other := netip.MustParseAddr("10.244.0.99")
	dhcp := func(p *progtest.Packet, from, to uint16) { p.Protocol, p.SrcPort, p.DstPort = progtest.UDP, from, to }
	for _, c := range []struct {
		name  string
		frame []byte
		want  bpfobj.SkepReason
	}{
		{"a valid packet", tcp4().Bytes(), bpfobj.SkepReasonSKEP_REASON_TO_LOCAL},
		{"a valid packet, IPv6", tcp6().Bytes(), bpfobj.SkepReasonSKEP_REASON_TO_LOCAL},
		{"to another node", with(tcp4(), func(p *progtest.Packet) { p.Dst = elsewhere4 }), bpfobj.SkepReasonSKEP_REASON_TO_STACK},
		{"two extension headers", extensions(tcp6(), 2), bpfobj.SkepReasonSKEP_REASON_TO_LOCAL},
		{"ARP by the pod", arp(progtest.MAC, podA4), bpfobj.SkepReasonSKEP_REASON_NEIGHBOUR},
		{"an ARP probe", arp(progtest.MAC, netip.IPv4Unspecified()), bpfobj.SkepReasonSKEP_REASON_NEIGHBOUR},
		{"a neighbour solicitation", icmp6(135, podA6, gateway[:]), bpfobj.SkepReasonSKEP_REASON_NEIGHBOUR},
		{"duplicate address detection", icmp6(135, netip.IPv6Unspecified(), gateway[:]), bpfobj.SkepReasonSKEP_REASON_NEIGHBOUR},
		{"a multicast listener report", icmp6(143, netip.MustParseAddr("fe80::5"), nil), bpfobj.SkepReasonSKEP_REASON_NEIGHBOUR},

		{"another source", with(tcp4(), func(p *progtest.Packet) { p.Src = other }), bpfobj.SkepReasonSKEP_REASON_SPOOFED_IPV4},
		{"no source", with(tcp4(), func(p *progtest.Packet) { p.Src = netip.IPv4Unspecified() }), bpfobj.SkepReasonSKEP_REASON_SPOOFED_IPV4},
		{"another pod's source", with(tcp6(), func(p *progtest.Packet) { p.Src = podB6 }), bpfobj.SkepReasonSKEP_REASON_SPOOFED_IPV6},
		{"a link-local source", with(tcp6(), func(p *progtest.Packet) { p.Src = netip.MustParseAddr("fe80::5") }), bpfobj.SkepReasonSKEP_REASON_SPOOFED_IPV6},
		{"ARP for another address", arp(progtest.MAC, other), bpfobj.SkepReasonSKEP_REASON_SPOOFED_ARP},
		{"ARP with another's hardware address", arp(progtest.HostMAC, podA4), bpfobj.SkepReasonSKEP_REASON_SPOOFED_ARP},
		{"a solicitation by the gateway", icmp6(135, gateway6, gateway[:]), bpfobj.SkepReasonSKEP_REASON_SPOOFED_ND},
		{"an advertisement of the gateway", icmp6(136, podA6, gateway[:]), bpfobj.SkepReasonSKEP_REASON_SPOOFED_ND},
		{"a router advertisement", icmp6(134, podA6, make([]byte, 8)), bpfobj.SkepReasonSKEP_REASON_ROUTER_MESSAGE},
		{"a redirect", icmp6(137, podA6, make([]byte, 32)), bpfobj.SkepReasonSKEP_REASON_ROUTER_MESSAGE},
		{"a DHCP server's reply", with(tcp4(), func(p *progtest.Packet) { dhcp(p, 67, 68) }), bpfobj.SkepReasonSKEP_REASON_DHCP_SERVER},
		{"a DHCPv6 server's reply", with(tcp6(), func(p *progtest.Packet) { dhcp(p, 547, 546) }), bpfobj.SkepReasonSKEP_REASON_DHCP_SERVER},
		{"a total length beyond the frame", altered(tcp4(), func(b []byte) { binary.BigEndian.PutUint16(b[length4At:], 2000) }), bpfobj.SkepReasonSKEP_REASON_MALFORMED},
		{"a payload length beyond the frame", altered(tcp6(), func(b []byte) { binary.BigEndian.PutUint16(b[networkAt+4:], 2000) }), bpfobj.SkepReasonSKEP_REASON_MALFORMED},
		{"version 5", altered(tcp4(), func(b []byte) { b[networkAt] = 0x55 }), bpfobj.SkepReasonSKEP_REASON_MALFORMED},
		{"half a TCP header", tcp4().Bytes()[:networkAt+20+8], bpfobj.SkepReasonSKEP_REASON_MALFORMED},
		{"another ethertype", altered(tcp4(), func(b []byte) { binary.BigEndian.PutUint16(b[ethertypeAt:], 0x88cc) }), bpfobj.SkepReasonSKEP_REASON_L2PROTOCOL},
		{"a v4-mapped destination", with(tcp6(), func(p *progtest.Packet) { p.Dst = netip.AddrFrom16(podB4.As16()) }), bpfobj.SkepReasonSKEP_REASON_V4MAPPED},
		{"too many extension headers", extensions(tcp6(), 9), bpfobj.SkepReasonSKEP_REASON_EXTENSION_HEADERS},
		{"a later fragment without its first", altered(tcp4(), func(b []byte) { binary.BigEndian.PutUint16(b[flags4At:], 100) }), bpfobj.SkepReasonSKEP_REASON_FRAGMENT_UNKNOWN},
		{"an echo reply nobody asked for", with(tcp4(), func(p *progtest.Packet) { p.Protocol, p.Type, p.ID = progtest.ICMP, progtest.EchoReply4, 5 }), bpfobj.SkepReasonSKEP_REASON_ICMP_NO_FLOW},
		{"an error about no flow", with(tcp4(), func(p *progtest.Packet) {
			p.Protocol, p.Type, p.Body = progtest.ICMP, 3, progtest.Packet{Src: podB4, Dst: podA4, Protocol: progtest.UDP, SrcPort: 5, DstPort: 6}.Bytes()[networkAt:]
		}), bpfobj.SkepReasonSKEP_REASON_ICMP_NO_FLOW},
		{"an error to somebody whom it does not concern", with(tcp4(), func(p *progtest.Packet) {
			p.Protocol, p.Type, p.Body = progtest.ICMP, 3, progtest.Packet{Src: elsewhere4, Dst: podA4, Protocol: progtest.UDP, SrcPort: 5, DstPort: 6}.Bytes()[networkAt:]
		}), bpfobj.SkepReasonSKEP_REASON_ICMP_NO_FLOW},
		{"a solicitation that could be routed", routed6(135), bpfobj.SkepReasonSKEP_REASON_SPOOFED_ND},
		{"a listener report that could be routed", routed6(143), bpfobj.SkepReasonSKEP_REASON_SPOOFED_ND},
		{"a Service without backends", with(tcp4(), func(p *progtest.Packet) { p.Dst, p.DstPort = service4, 81 }), bpfobj.SkepReasonSKEP_REASON_NO_BACKEND},
		{"a Service without backends, IPv6", with(tcp6(), func(p *progtest.Packet) { p.Dst, p.DstPort = service6, 81 }), bpfobj.SkepReasonSKEP_REASON_NO_BACKEND},
		{"to a closed port", with(tcp4(), func(p *progtest.Packet) { p.DstPort = 81 }), bpfobj.SkepReasonSKEP_REASON_POLICY_INGRESS},
		{"to a closed port in mid-flow", with(tcp4(), func(p *progtest.Packet) { p.DstPort, p.Flags = 81, progtest.ACK }), bpfobj.SkepReasonSKEP_REASON_MIDFLOW_DENIED},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := judged(t)
			must(t, h.Node.SetServices(services(podB4, podB6)))
			result, err := h.SendBytes("a", datapath.Egress, c.frame)
			must(t, err)
			if result.Reason != c.want {
				t.Errorf("%s, want %s", bpfmap.ReasonName(result.Reason), bpfmap.ReasonName(c.want))
			}
			if result.Allowed() == (result.Action == 2) {
				t.Errorf("action %d with %s", result.Action, bpfmap.ReasonName(result.Reason))
			}
			if got := counted(t, h); len(got) != 1 || got[bpfmap.ReasonName(c.want)] != 1 {
				t.Errorf("counted %v", got)
			}
		})
	}
}

// counted are the packet counters that are not zero.
func counted(t *testing.T, h *progtest.Harness) map[string]uint64 {
	t.Helper()
	verdicts, drops, err := bpfmap.Metrics(h.Maps.Metric)
	must(t, err)
	out := map[string]uint64{}
	for _, c := range append(verdicts, drops...) {
		if c.Packets > 0 {
			out[c.Name] = c.Packets
		}
	}
	return out
}

func TestInternalErrorsAreDropsOfTheirOwn(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(h *progtest.Harness, b bpfobj.SkepEndpoint) error
		want  bpfobj.SkepReason
	}{
		{"an incomplete set", func(h *progtest.Harness, b bpfobj.SkepEndpoint) error {
			set, _, err := h.Maps.Set.Get(b.IngressSet)
			set.Flags = 0
			return join(err, h.Maps.Set.Put(b.IngressSet, set))
		}, bpfobj.SkepReasonSKEP_REASON_ERROR_SET},
		{"a class that the set does not know", func(h *progtest.Harness, b bpfobj.SkepEndpoint) error {
			return join(flipping(h), h.Maps.Address.Put(bpfmap.AddrOf(podA4), bpfmap.WithClass(bpfobj.SkepAddress{}, 1<<20)))
		}, bpfobj.SkepReasonSKEP_REASON_ERROR_CLASS},
		{"no row for addresses without atoms", func(h *progtest.Harness, b bpfobj.SkepEndpoint) error {
			return join(flipping(h), h.Maps.Address.Remove(bpfmap.AddrOf(podA4)), h.Maps.Peer.Remove(bpfobj.SkepPeerKey{Set: b.IngressSet}))
		}, bpfobj.SkepReasonSKEP_REASON_ERROR_ROW},
		{"a port span that is not there", func(h *progtest.Harness, b bpfobj.SkepEndpoint) error {
			set, _, err := h.Maps.Set.Get(b.IngressSet)
			for i := range set.Ports {
				err = join(err, h.Maps.Port.Put(set.FirstPort+i, bpfobj.SkepPortSpan{}))
			}
			return err
		}, bpfobj.SkepReasonSKEP_REASON_ERROR_ROW},
		{"a node of the port index that is not there", func(h *progtest.Harness, b bpfobj.SkepEndpoint) error {
			set, _, err := h.Maps.Set.Get(b.IngressSet)
			return join(err, h.Maps.PortIndex.Put(set.FirstNode, bpfobj.SkepPortNode{}))
		}, bpfobj.SkepReasonSKEP_REASON_ERROR_ROW},
		{"a rule that is not there", func(h *progtest.Harness, b bpfobj.SkepEndpoint) error {
			set, _, err := h.Maps.Set.Get(b.IngressSet)
			return join(err, h.Maps.Rule.Put(set.FirstRule, bpfobj.SkepRule{}))
		}, bpfobj.SkepReasonSKEP_REASON_ERROR_RULE},
		{"no endpoint", func(h *progtest.Harness, b bpfobj.SkepEndpoint) error { return h.RemoveEndpoint("a") }, bpfobj.SkepReasonSKEP_REASON_NO_ENDPOINT},
		{"no policy", func(h *progtest.Harness, b bpfobj.SkepEndpoint) error {
			return h.Load(&datapath.PolicyState{})
		}, bpfobj.SkepReasonSKEP_REASON_NO_POLICY},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := judged(t)
			b, ok, err := h.EndpointEntry("b")
			if must(t, err); !ok {
				t.Fatal("b has no entry")
			}
			must(t, c.spoil(h, b))
			r, err := h.Send("a", datapath.Egress, tcp4())
			must(t, err)
			if r.Reason != c.want {
				t.Errorf("%s, want %s", bpfmap.ReasonName(r.Reason), bpfmap.ReasonName(c.want))
			}
		})
	}
}

// flipping makes programs believe that a policy is taking over: they look at the sender's address again.
func flipping(h *progtest.Harness) error {
	state, _, err := h.Maps.State.Get(0)
	state.Flips |= 1
	return join(err, h.Maps.State.Put(0, state))
}

func join(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestTheUplinkRefusesOurOwnSources(t *testing.T) {
	h := judged(t)
	self4, self6, peer := netip.MustParseAddr("172.29.0.2"), netip.MustParseAddr("fd00:172:29::2"), netip.MustParseAddr("172.29.0.3")
	must(t, h.Node.SetNodes([]datapath.Node{{Name: "me", Self: true, Addrs: []netip.Addr{self4, self6}}, {Name: "peer", Addrs: []netip.Addr{peer}}}))
	for _, c := range []struct {
		name string
		src  netip.Addr
		want bpfobj.SkepReason
	}{
		{"a pod of this node", podA4, bpfobj.SkepReasonSKEP_REASON_SPOOFED_UPLINK},
		{"a pod of this node, IPv6", podA6, bpfobj.SkepReasonSKEP_REASON_SPOOFED_UPLINK},
		{"this node", self4, bpfobj.SkepReasonSKEP_REASON_SPOOFED_UPLINK},
		{"this node, IPv6", self6, bpfobj.SkepReasonSKEP_REASON_SPOOFED_UPLINK},
		{"another node", peer, bpfobj.SkepReasonSKEP_REASON_UPLINK},
		{"a pod of another node", elsewhere4, bpfobj.SkepReasonSKEP_REASON_UPLINK},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := progtest.Packet{Src: c.src, Dst: podB4, Protocol: progtest.TCP}
			if c.src.Is6() {
				p.Dst = podB6
			}
			r, err := h.Run(loader.ProgramUplink, p.Bytes(), progtest.Context{})
			must(t, err)
			if r.Reason != c.want {
				t.Errorf("%s, want %s", bpfmap.ReasonName(r.Reason), bpfmap.ReasonName(c.want))
			}
		})
	}
}
