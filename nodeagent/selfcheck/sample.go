// SPDX-License-Identifier: Apache-2.0

package selfcheck

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"skep.dev/skep/datapath"
)

// Faults of policy sit at edges: the first and last port of a range and those beside them, the ends of a block of addresses. So that is
// where samples are taken, besides some at random.

// edges are what a policy's rules name.
type edges struct {
	ports  []edgePort
	blocks []netip.Prefix
}

type edgePort struct {
	protocol datapath.Protocol
	number   int
}

// sample makes a question about a local pod; false when there is none, or the dice fell on nothing that can be asked.
func (v *view) sample(r *rand.Rand) (datapath.Question, bool) {
	if len(v.local) == 0 {
		return datapath.Question{}, false
	}
	subject := v.local[r.IntN(len(v.local))]
	addrs := podAddrs(subject)
	if len(addrs) == 0 {
		return datapath.Question{}, false
	}
	own := addrs[r.IntN(len(addrs))]
	peer := v.peer(r, own, v.edges(r, subject.Namespace))
	q := datapath.Question{Src: own, Dst: peer}
	if r.IntN(2) == 0 {
		q.Src, q.Dst = peer, own
	}
	q.Protocol, q.Port = v.port(r, q.Dst, v.edges(r, subject.Namespace))
	return q, peer.IsValid() && peer != own
}

// peer is an address of the family of own: of some pod, at the end of a block, of a node, or anywhere.
func (v *view) peer(r *rand.Rand, own netip.Addr, e edges) netip.Addr {
	anywhere := func() netip.Addr {
		if own.Is4() {
			return netip.AddrFrom4([4]byte{byte(1 + r.IntN(223)), byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())})
		}
		var b [16]byte
		binary.BigEndian.PutUint64(b[:], r.Uint64()>>3|0x2000<<48) // of 2000::/3, the unicast addresses in use
		binary.BigEndian.PutUint64(b[8:], r.Uint64())
		return netip.AddrFrom16(b)
	}
	pick := func(from []netip.Addr) netip.Addr {
		for range 4 { // families are mixed
			if len(from) == 0 {
				break
			}
			if a := from[r.IntN(len(from))]; a.Is4() == own.Is4() {
				return a
			}
		}
		return anywhere()
	}
	switch n := r.IntN(10); {
	case n < 5:
		return pick(v.addrs)
	case n < 8:
		var ends []netip.Addr
		for _, block := range e.blocks {
			first, last := block.Masked().Addr(), lastOf(block)
			ends = append(ends, first, last)
			for _, beside := range []netip.Addr{first.Prev(), last.Next()} {
				if beside.IsValid() {
					ends = append(ends, beside)
				}
			}
		}
		return pick(ends)
	case n < 9:
		return pick(v.nodeAddrs)
	}
	return anywhere()
}

// lastOf is the last address of a block.
func lastOf(block netip.Prefix) netip.Addr {
	b := block.Addr().AsSlice()
	for bit := block.Bits(); bit < 8*len(b); bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}

// port is one at the end of a range, the number of a port name at the destination, or any.
func (v *view) port(r *rand.Rand, dst netip.Addr, e edges) (datapath.Protocol, uint16) {
	candidates := e.ports
	for _, p := range v.claims(dst) {
		for _, named := range modelPod(p).Ports {
			candidates = append(candidates, edgePort{protocolNumber(named.Protocol), named.Number})
		}
	}
	if len(candidates) > 0 && r.IntN(4) > 0 {
		c := candidates[r.IntN(len(candidates))]
		beside := []int{0, 0, -1, 1}
		if n := c.number + beside[r.IntN(len(beside))]; n >= 0 && n <= 65535 {
			return c.protocol, uint16(n)
		}
	}
	switch r.IntN(8) {
	case 0:
		return icmpOf(dst), 0
	case 1:
		return datapath.SCTP, uint16(r.Uint32())
	case 2, 3:
		return datapath.UDP, uint16(r.Uint32())
	}
	return datapath.TCP, uint16(r.Uint32())
}

func icmpOf(dst netip.Addr) datapath.Protocol {
	if dst.Is4() {
		return 1
	}
	return 58
}

// edges are those of one of the policies that may concern pods of a namespace.
func (v *view) edges(r *rand.Rand, namespace string) edges {
	own := v.policies[namespace]
	if len(own)+len(v.cluster) == 0 {
		return edges{}
	}
	if n := r.IntN(len(own) + len(v.cluster)); n < len(own) {
		return policyEdges(own[n])
	} else {
		return clusterEdges(v.cluster[n-len(own)])
	}
}

func policyEdges(p *networkingv1.NetworkPolicy) edges {
	var e edges
	for _, rule := range p.Spec.Ingress {
		e.addRule(rule.From, rule.Ports)
	}
	for _, rule := range p.Spec.Egress {
		e.addRule(rule.To, rule.Ports)
	}
	return e
}

func (e *edges) addRule(peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) {
	for _, peer := range peers {
		if peer.IPBlock == nil {
			continue
		}
		e.addBlock(peer.IPBlock.CIDR)
		for _, except := range peer.IPBlock.Except {
			e.addBlock(except)
		}
	}
	for _, port := range ports {
		protocol := datapath.TCP
		if port.Protocol != nil {
			protocol = protocolNumber(string(*port.Protocol))
		}
		if port.Port == nil || port.Port.StrVal != "" {
			continue
		}
		e.ports = append(e.ports, edgePort{protocol, int(port.Port.IntVal)})
		if port.EndPort != nil {
			e.ports = append(e.ports, edgePort{protocol, int(*port.EndPort)})
		}
	}
}

func clusterEdges(p *policyv1alpha2.ClusterNetworkPolicy) edges {
	var e edges
	for _, rule := range p.Spec.Ingress {
		e.addProtocols(rule.Protocols)
	}
	for _, rule := range p.Spec.Egress {
		e.addProtocols(rule.Protocols)
		for _, peer := range rule.To {
			for _, network := range peer.Networks {
				e.addBlock(string(network))
			}
		}
	}
	return e
}

func (e *edges) addProtocols(protocols []policyv1alpha2.ClusterNetworkPolicyProtocol) {
	add := func(protocol datapath.Protocol, port *policyv1alpha2.Port) {
		switch {
		case port == nil:
		case port.Range != nil:
			e.ports = append(e.ports, edgePort{protocol, int(port.Range.Start)}, edgePort{protocol, int(port.Range.End)})
		default:
			e.ports = append(e.ports, edgePort{protocol, int(port.Number)})
		}
	}
	for _, p := range protocols {
		switch {
		case p.TCP != nil:
			add(datapath.TCP, p.TCP.DestinationPort)
		case p.UDP != nil:
			add(datapath.UDP, p.UDP.DestinationPort)
		case p.SCTP != nil:
			add(datapath.SCTP, p.SCTP.DestinationPort)
		}
	}
}

func (e *edges) addBlock(text string) {
	if block, err := netip.ParsePrefix(text); err == nil && !block.Addr().Is4In6() {
		e.blocks = append(e.blocks, block)
	}
}

func protocolNumber(name string) datapath.Protocol {
	switch name {
	case string(corev1.ProtocolUDP):
		return datapath.UDP
	case string(corev1.ProtocolSCTP):
		return datapath.SCTP
	}
	return datapath.TCP
}
