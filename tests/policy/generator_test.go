// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skep.dev/skep/datapath/progtest"
	"skep.dev/skep/nodeagent/policymodel"
)

// generator makes worlds from small pools of labels, ports and addresses, so that chance meets often.
type generator struct {
	*rand.Rand
	b *bench
	// next numbers pods and policies.
	pods, policies int
	freeIPs        int
	// addrs are all addresses that occurred, in or outside of the cluster.
	addrs []netip.Addr
	// fresh is the next port number that nothing has used before.
	fresh int
	// audits is how many policies of a hundred are in audit mode: it differs between worlds, or either answer would be dull everywhere.
	audits int
	// lists is how many rules of a hundred have a long list of blocks. The model reads it for each case, so most worlds have none.
	lists int
	// watched is the newest pod, which gets a share of the packets.
	watched policymodel.Pod
}

func newGenerator(rnd *rand.Rand, b *bench) *generator {
	g := &generator{Rand: rnd, b: b, fresh: 20000}
	g.audits = pick(g, []int{0, 30, 60})
	if g.chance(6) {
		g.lists = 8
	}
	return g
}

var (
	labelKeys   = []string{"app", "tier", "team"}
	labelValues = []string{"a", "b", "c"}
	portNames   = []string{"http", "dns", "admin"}
	portPool    = []int{53, 80, 81, 443, 8080, 30000, 65535}
	protocols   = []string{"TCP", "UDP", "SCTP"}
	numbers     = map[string]uint8{"TCP": progtest.TCP, "UDP": progtest.UDP, "SCTP": progtest.SCTP}
	outside     = []netip.Addr{
		netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.77"), netip.MustParseAddr("10.255.0.9"),
		netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("fd00:ffff::9"),
	}
)

func pick[T any](g *generator, from []T) T { return from[g.IntN(len(from))] }

func (g *generator) chance(percent int) bool { return g.IntN(100) < percent }

// fill makes a whole world.
func (g *generator) fill() {
	g.addrs = append(g.addrs, outside...)
	for i := range 1 + g.IntN(3) {
		g.b.setNamespace(policymodel.Namespace{Name: fmt.Sprint("ns", i), Labels: g.labels()})
	}
	for range 3 + g.IntN(8) {
		g.b.setPod(g.pod())
	}
	for range g.IntN(14) {
		g.b.setPolicy(g.policy())
	}
	g.fillCluster()
}

func (g *generator) namespace() string { return pick(g, g.b.world.Namespaces).Name }

func (g *generator) labels() map[string]string {
	out := map[string]string{}
	for _, k := range labelKeys {
		if g.chance(60) {
			out[k] = pick(g, labelValues)
		}
	}
	return out
}

// pod makes a pod with addresses of its own, except that one that is not of this node may claim those of another:
// of one that has ended, or until the API has caught up.
func (g *generator) pod() policymodel.Pod {
	g.pods++
	p := policymodel.Pod{
		UID: fmt.Sprint("uid-", g.pods), Namespace: g.namespace(), Name: fmt.Sprint("pod-", g.pods), Node: thisNode,
		Labels: g.labels(), Created: epoch.Add(time.Duration(g.IntN(5)) * time.Second),
	}
	if g.chance(35) {
		p.Node = "node-b"
	}
	p.HostNetwork, p.Terminal = g.chance(6), g.chance(6)
	if p.HostNetwork {
		p.IPs = []netip.Addr{netip.MustParseAddr("172.29.0.3")}
		g.addrs = append(g.addrs, p.IPs...)
	} else {
		p.IPs = g.podIPs(p.Node != thisNode)
	}
	if len(g.b.world.Pods) > 0 && g.chance(30) {
		like := pick(g, g.b.world.Pods) // as the replicas of a Deployment are
		p.Namespace, p.Labels, p.Ports = like.Namespace, like.Labels, like.Ports
		return p
	}
	for range g.IntN(4) {
		port := policymodel.NamedPort{Name: pick(g, portNames), Protocol: pick(g, protocols), Number: pick(g, portPool)}
		if g.chance(20) {
			g.fresh++
			port.Number = g.fresh
		}
		p.Ports = append(p.Ports, port)
	}
	return p
}

func (g *generator) podIPs(mayClaim bool) []netip.Addr {
	if mayClaim && g.chance(15) {
		var remote []policymodel.Pod
		for _, p := range g.b.world.Pods {
			if p.Node != thisNode && !p.HostNetwork {
				remote = append(remote, p)
			}
		}
		if len(remote) > 0 {
			return pick(g, remote).IPs
		}
	}
	g.freeIPs++
	n := byte(g.freeIPs)
	v4 := netip.AddrFrom4([4]byte{10, 244, byte(g.IntN(3)), n})
	v6 := netip.AddrFrom16([16]byte{0: 0xfd, 3: 0x10, 7: byte(g.IntN(3)), 15: n})
	ips := []netip.Addr{v4, v6}
	switch g.IntN(8) {
	case 0:
		ips = ips[:1]
	case 1:
		ips = ips[1:]
	}
	g.addrs = append(g.addrs, ips...)
	return ips
}

// mode is the annotation of a policy: none, audit mode, or something that means neither.
func (g *generator) mode() map[string]string {
	switch {
	case g.chance(g.audits):
		return map[string]string{"skep.dev/enforcement": "audit"}
	case g.chance(5):
		return map[string]string{"skep.dev/enforcement": pick(g, []string{"enforce", "Audit", ""})}
	}
	return nil
}

func (g *generator) policy() networkingv1.NetworkPolicy {
	g.policies++
	return g.policyNamed(g.namespace(), fmt.Sprint("policy-", g.policies), 1)
}

func (g *generator) policyNamed(namespace, name string, generation int64) networkingv1.NetworkPolicy {
	p := networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("uid-" + namespace + name), Generation: generation}}
	p.Annotations = g.mode()
	if g.chance(65) {
		p.Spec.PodSelector = g.selector()
	}
	switch g.IntN(5) {
	case 0, 1:
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	case 2:
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}
	case 3:
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
	}
	for range g.IntN(5) {
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: g.peers(), Ports: g.ports()})
	}
	for range g.IntN(5) {
		p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: g.peers(), Ports: g.ports()})
	}
	return p
}

func (g *generator) selector() metav1.LabelSelector {
	var s metav1.LabelSelector
	if g.chance(60) {
		s.MatchLabels = map[string]string{pick(g, labelKeys): pick(g, labelValues)}
	}
	if g.chance(40) {
		e := metav1.LabelSelectorRequirement{Key: pick(g, labelKeys)}
		switch g.IntN(4) {
		case 0:
			e.Operator = metav1.LabelSelectorOpIn
		case 1:
			e.Operator = metav1.LabelSelectorOpNotIn
		case 2:
			e.Operator = metav1.LabelSelectorOpExists
		case 3:
			e.Operator = metav1.LabelSelectorOpDoesNotExist
		}
		if e.Operator == metav1.LabelSelectorOpIn || e.Operator == metav1.LabelSelectorOpNotIn {
			for range 1 + g.IntN(2) {
				e.Values = append(e.Values, pick(g, labelValues))
			}
		}
		s.MatchExpressions = append(s.MatchExpressions, e)
	}
	return s
}

func (g *generator) peers() []networkingv1.NetworkPolicyPeer {
	if g.chance(30) {
		return nil
	}
	var out []networkingv1.NetworkPolicyPeer
	if g.chance(g.lists) {
		out = g.manyBlocks()
	}
	for range 1 + g.IntN(3) {
		var p networkingv1.NetworkPolicyPeer
		if g.chance(40) {
			p.IPBlock = g.block()
			out = append(out, p)
			continue
		}
		if g.chance(60) {
			s := g.selector()
			p.PodSelector = &s
		}
		if p.PodSelector == nil || g.chance(40) {
			s := g.selector()
			p.NamespaceSelector = &s
		}
		out = append(out, p)
	}
	return out
}

// manyBlocks are so many that they are not peers each by itself. Most contain one address that occurs, some hundreds.
func (g *generator) manyBlocks() []networkingv1.NetworkPolicyPeer {
	var out []networkingv1.NetworkPolicyPeer
	for range 50 + g.IntN(150) {
		base := g.neighbour(pick(g, g.addrs))
		if g.chance(10) {
			base = pick(g, g.addrs)
		}
		bits := base.BitLen() - g.IntN(10)*g.IntN(2)
		out = append(out, networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: netip.PrefixFrom(base, bits).String()}})
	}
	return out
}

// block takes its range around an address that occurs, and its exceptions around others inside.
func (g *generator) block() *networkingv1.IPBlock {
	base := pick(g, g.addrs)
	bits := g.length(base, 0)
	block := &networkingv1.IPBlock{CIDR: netip.PrefixFrom(base, bits).String()} // host bits stay set: they mean nothing
	prefix := netip.PrefixFrom(base, bits).Masked()
	for range g.IntN(3) {
		a := pick(g, g.addrs)
		if !prefix.Contains(a) {
			continue
		}
		block.Except = append(block.Except, netip.PrefixFrom(a, g.length(a, bits)).Masked().String())
	}
	return block
}

// length prefers the boundaries: everything, one address, and about the pods' ranges.
func (g *generator) length(a netip.Addr, atLeast int) int {
	choices := []int{0, a.BitLen(), a.BitLen() - 1, 16, 24, a.BitLen() / 2, g.IntN(a.BitLen() + 1)}
	return max(atLeast, pick(g, choices))
}

func (g *generator) ports() []networkingv1.NetworkPolicyPort {
	if g.chance(40) {
		return nil
	}
	var out []networkingv1.NetworkPolicyPort
	for range 1 + g.IntN(3) {
		var p networkingv1.NetworkPolicyPort
		if g.chance(70) {
			proto := corev1.Protocol(pick(g, protocols))
			p.Protocol = &proto
		}
		switch g.IntN(5) {
		case 0: // all ports of the protocol
		case 1:
			name := intstr.FromString(pick(g, portNames))
			p.Port = &name
		case 2:
			first := pick(g, portPool) - g.IntN(3)
			last := int32(min(65535, first+g.IntN(1<<g.IntN(16))))
			number := intstr.FromInt32(int32(first))
			p.Port, p.EndPort = &number, &last
		default:
			number := intstr.FromInt32(int32(pick(g, portPool)))
			p.Port = &number
		}
		out = append(out, p)
	}
	return out
}

// packet makes a packet that touches this node. Destination ports and addresses come from the pools that policies use too.
func (g *generator) packet() (probe, bool) {
	local := g.localAddrs()
	if len(local) == 0 {
		return probe{}, false
	}
	here, there := pick(g, local), netip.Addr{}
	if g.chance(40) && len(g.watched.IPs) > 0 {
		there = pick(g, g.watched.IPs)
	}
	watched := there != netip.Addr{} && there.Is4() == here.Is4() && there != here
	for there == (netip.Addr{}) || there.Is4() != here.Is4() || there == here {
		switch {
		case g.chance(45):
			there = pick(g, local)
		case g.chance(75):
			there = pick(g, g.addrs)
		default:
			there = g.neighbour(pick(g, g.addrs))
		}
		if len(local) == 1 && there == here {
			there = netip.Addr{}
		}
	}
	p := probe{Packet: progtest.Packet{Src: here, Dst: there, SrcPort: uint16(32768 + g.IntN(1000))}}
	if !watched && g.chance(50) && g.usableSource(there) {
		p.Src, p.Dst = there, here
	}
	g.transport(&p)
	p.fromNode = g.chance(3) && g.b.localPod(p.Src) == nil
	return p, true
}

func (g *generator) transport(p *probe) {
	if g.chance(4) {
		p.Protocol, p.Type, p.ID, p.SrcPort = progtest.ICMP, progtest.EchoRequest4, uint16(g.IntN(65536)), 0
		if p.Src.Is6() {
			p.Protocol, p.Type = progtest.ICMPv6, progtest.EchoRequest6
		}
		return
	}
	p.Protocol = numbers[pick(g, protocols)]
	p.DstPort = uint16(pick(g, portPool) + g.IntN(5) - 2)
	if g.chance(60) {
		p.DstPort = uint16(pick(g, portPool))
	}
	if named := g.namedPortAt(p.Dst); len(named) > 0 && g.chance(30) {
		port := pick(g, named)
		p.Protocol, p.DstPort = numbers[port.Protocol], uint16(port.Number)
	}
	if p.Protocol == progtest.TCP && g.chance(15) {
		p.Flags = progtest.ACK // no flow is known: judged as its own direction
	}
}

// namedPortAt lists the named ports of the pods that claim an address.
func (g *generator) namedPortAt(addr netip.Addr) (out []policymodel.NamedPort) {
	for _, p := range g.b.world.Pods {
		if slices.Contains(p.IPs, addr) {
			out = append(out, p.Ports...)
		}
	}
	return out
}

// localAddrs are the addresses whose packets meet this node's programs.
func (g *generator) localAddrs() []netip.Addr {
	var out []netip.Addr
	for _, p := range g.b.world.Pods {
		if g.b.endpoints[p.UID] {
			out = append(out, p.IPs...)
		}
	}
	return out
}

// usableSource excludes what can be no source.
func (g *generator) usableSource(a netip.Addr) bool {
	return !a.IsMulticast() && !a.IsUnspecified()
}

// neighbour is an address near another, to try the ends of blocks.
func (g *generator) neighbour(a netip.Addr) netip.Addr {
	b := a.AsSlice()
	bit := g.IntN(len(b)*8 - 9) // the first byte stays, so that it remains an ordinary unicast address
	b[(bit+8)/8] ^= 1 << (bit % 8)
	out, _ := netip.AddrFromSlice(b)
	return out
}
