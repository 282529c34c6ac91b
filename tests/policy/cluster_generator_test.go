// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"skep.dev/skep/nodeagent/policymodel"
)

// fillCluster adds nodes, and cluster policies to most worlds: NetworkPolicy must be seen without them too.
func (g *generator) fillCluster() {
	for i, ips := range [][]string{{"172.29.0.2", "fd00:172:29::2"}, {"172.29.0.3", "fd00:172:29::3"}} {
		node := policymodel.Node{Name: []string{thisNode, "node-b"}[i], Labels: g.labels()}
		for _, ip := range ips {
			node.IPs = append(node.IPs, netip.MustParseAddr(ip))
		}
		g.b.setNode(node)
		g.addrs = append(g.addrs, node.IPs...)
	}
	if g.chance(20) {
		return
	}
	for i := range 1 + g.IntN(8) {
		g.b.setClusterPolicy(g.clusterPolicy(fmt.Sprint("cluster-", i), 1))
	}
}

func (g *generator) clusterPolicy(name string, generation int64) policyv1alpha2.ClusterNetworkPolicy {
	p := policyv1alpha2.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name), Generation: generation}}
	p.Annotations = g.mode()
	p.Spec.Tier = pick(g, []policyv1alpha2.Tier{policyv1alpha2.AdminTier, policyv1alpha2.BaselineTier})
	p.Spec.Priority = int32(g.IntN(4) * 250)
	p.Spec.Subject.Namespaces, p.Spec.Subject.Pods = g.clusterPods()
	for range g.IntN(4) {
		rule := policyv1alpha2.ClusterNetworkPolicyIngressRule{Action: g.action(), Protocols: g.clusterProtocols()}
		for range 1 + g.IntN(3) {
			var from policyv1alpha2.ClusterNetworkPolicyIngressPeer
			from.Namespaces, from.Pods = g.clusterPods()
			if g.chance(2) {
				from = policyv1alpha2.ClusterNetworkPolicyIngressPeer{} // of a newer version
			}
			rule.From = append(rule.From, from)
		}
		p.Spec.Ingress = append(p.Spec.Ingress, rule)
	}
	for range g.IntN(4) {
		rule := policyv1alpha2.ClusterNetworkPolicyEgressRule{Action: g.action(), Protocols: g.clusterProtocols()}
		for range 1 + g.IntN(3) {
			rule.To = append(rule.To, g.clusterEgressPeer())
		}
		p.Spec.Egress = append(p.Spec.Egress, rule)
	}
	return p
}

func (g *generator) action() policyv1alpha2.ClusterNetworkPolicyRuleAction {
	return pick(g, []policyv1alpha2.ClusterNetworkPolicyRuleAction{
		policyv1alpha2.ClusterNetworkPolicyRuleActionAccept, policyv1alpha2.ClusterNetworkPolicyRuleActionDeny,
		policyv1alpha2.ClusterNetworkPolicyRuleActionPass,
	})
}

// clusterPods selects pods in one of the two ways.
func (g *generator) clusterPods() (*metav1.LabelSelector, *policyv1alpha2.NamespacedPod) {
	if g.chance(40) {
		s := g.looseSelector()
		return &s, nil
	}
	return nil, &policyv1alpha2.NamespacedPod{NamespaceSelector: g.looseSelector(), PodSelector: g.looseSelector()}
}

// looseSelector selects everything half of the time: two that are narrow leave nothing.
func (g *generator) looseSelector() metav1.LabelSelector {
	if g.chance(50) {
		return metav1.LabelSelector{}
	}
	return g.selector()
}

func (g *generator) clusterEgressPeer() policyv1alpha2.ClusterNetworkPolicyEgressPeer {
	var p policyv1alpha2.ClusterNetworkPolicyEgressPeer
	switch {
	case g.chance(2): // of a newer version
	case g.chance(2):
		p.DomainNames = []policyv1alpha2.DomainName{"example.com"}
	case g.chance(15):
		s := g.selector()
		p.Nodes = &s
	case g.chance(30):
		for range 1 + g.IntN(3) {
			a := pick(g, g.addrs)
			p.Networks = append(p.Networks, policyv1alpha2.CIDR(netip.PrefixFrom(a, g.length(a, 0)).Masked().String()))
		}
	default:
		p.Namespaces, p.Pods = g.clusterPods()
	}
	return p
}

func (g *generator) clusterProtocols() []policyv1alpha2.ClusterNetworkPolicyProtocol {
	if g.chance(40) {
		return nil
	}
	var out []policyv1alpha2.ClusterNetworkPolicyProtocol
	for range 1 + g.IntN(3) {
		var p policyv1alpha2.ClusterNetworkPolicyProtocol
		switch g.IntN(4) {
		case 0:
			p.TCP = &policyv1alpha2.ClusterNetworkPolicyProtocolTCP{DestinationPort: g.clusterPort()}
		case 1:
			p.UDP = &policyv1alpha2.ClusterNetworkPolicyProtocolUDP{DestinationPort: g.clusterPort()}
		case 2:
			p.SCTP = &policyv1alpha2.ClusterNetworkPolicyProtocolSCTP{DestinationPort: g.clusterPort()}
		default:
			p.DestinationNamedPort = pick(g, portNames)
		}
		if g.chance(1) {
			p = policyv1alpha2.ClusterNetworkPolicyProtocol{} // of a newer version
		}
		out = append(out, p)
	}
	return out
}

func (g *generator) clusterPort() *policyv1alpha2.Port {
	number := int32(pick(g, portPool))
	switch g.IntN(4) {
	case 0:
		return nil
	case 1:
		first := number - int32(g.IntN(3))
		return &policyv1alpha2.Port{Range: &policyv1alpha2.PortRange{Start: first, End: min(65535, first+1+int32(g.IntN(1<<g.IntN(16))))}}
	}
	return &policyv1alpha2.Port{Number: number}
}

// changeClusterPolicy adds, replaces or deletes one, or relabels a node.
func (g *generator) changeClusterPolicy(tr *tracker) string {
	if g.chance(15) {
		node := pick(g, tr.world.Nodes)
		node.Labels = g.labels()
		tr.setNode(node)
		return "node relabelled: " + node.Name
	}
	if len(tr.world.ClusterPolicies) > 0 && g.chance(70) {
		old := pick(g, tr.world.ClusterPolicies)
		if g.chance(40) {
			tr.forgetClusterPolicy(old.Name)
			return "cluster policy deleted: " + old.Name
		}
		tr.setClusterPolicy(g.clusterPolicy(old.Name, old.Generation+1))
		return "cluster policy changed: " + old.Name
	}
	g.policies++
	p := g.clusterPolicy(fmt.Sprint("cluster-policy-", g.policies), 1)
	tr.setClusterPolicy(p)
	return "cluster policy added: " + p.Name
}
