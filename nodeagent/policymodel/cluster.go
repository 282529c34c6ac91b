// SPDX-License-Identifier: Apache-2.0

package policymodel

import (
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// Node is a node as policy sees it: labels, and every address in its status.
type Node struct {
	Name   string
	Labels map[string]string
	IPs    []netip.Addr
}

// clusterRule is an ingress or egress rule of a ClusterNetworkPolicy; the two differ only in what peers may be.
type clusterRule struct {
	action    policyv1alpha2.ClusterNetworkPolicyRuleAction
	peers     []policyv1alpha2.ClusterNetworkPolicyEgressPeer
	protocols []policyv1alpha2.ClusterNetworkPolicyProtocol
}

// decision is what a tier says.
type decision int

const (
	// undecided: no rule matched, or one that passes on did. "If a given connection wasn't allowed or denied by any of
	// the tiers", the next one is asked.
	undecided decision = iota
	accepted
	denied
)

// judgeTier asks the cluster policies of a tier about one side of a connection. "Policies with lower priority values have
// higher precedence"; between equal priorities "the implementation can apply any": skep goes by name. "A rule that appears
// at the top … would take the highest precedence."
func judgeTier(w World, tier policyv1alpha2.Tier, subject *Pod, egress bool, c Conn) (decision, RuleRef) {
	peer := c.Src
	if egress {
		peer = c.Dst
	}
	for _, policy := range inOrder(w.ClusterPolicies, tier) {
		if !clusterSubjectMatches(w, policy.Spec.Subject, subject) {
			continue
		}
		for i, rule := range clusterRules(policy, egress) {
			ref := RuleRef{policy.Name, i}
			if unreadable(rule) {
				// "fail closed" for Accept rules: "treat the rule as matching no traffic"; for Deny and Pass rules:
				// "treat the rule as a 'Deny all' rule".
				if rule.action != policyv1alpha2.ClusterNetworkPolicyRuleActionAccept {
					return denied, ref
				}
				continue
			}
			if !clusterPeersMatch(w, rule.peers, peer) || !protocolsMatch(w, rule.protocols, c) {
				continue
			}
			switch rule.action {
			case policyv1alpha2.ClusterNetworkPolicyRuleActionAccept:
				return accepted, ref
			case policyv1alpha2.ClusterNetworkPolicyRuleActionPass:
				return undecided, RuleRef{}
			}
			return denied, ref
		}
	}
	return undecided, RuleRef{}
}

// inOrder lists the policies of a tier by precedence, by selection: slow, and obvious.
func inOrder(policies []policyv1alpha2.ClusterNetworkPolicy, tier policyv1alpha2.Tier) []policyv1alpha2.ClusterNetworkPolicy {
	var out []policyv1alpha2.ClusterNetworkPolicy
	for priority := int32(0); priority <= 1000; priority++ {
		var same []policyv1alpha2.ClusterNetworkPolicy
		for _, p := range policies {
			if p.Spec.Tier != tier || p.Spec.Priority != priority {
				continue
			}
			at := 0
			for at < len(same) && same[at].Name < p.Name {
				at++
			}
			same = append(same[:at], append([]policyv1alpha2.ClusterNetworkPolicy{p}, same[at:]...)...)
		}
		out = append(out, same...)
	}
	return out
}

func clusterRules(policy policyv1alpha2.ClusterNetworkPolicy, egress bool) []clusterRule {
	var out []clusterRule
	if egress {
		for _, r := range policy.Spec.Egress {
			out = append(out, clusterRule{r.Action, r.To, r.Protocols})
		}
		return out
	}
	for _, r := range policy.Spec.Ingress {
		rule := clusterRule{action: r.Action, protocols: r.Protocols}
		for _, p := range r.From {
			rule.peers = append(rule.peers, policyv1alpha2.ClusterNetworkPolicyEgressPeer{Namespaces: p.Namespaces, Pods: p.Pods})
		}
		out = append(out, rule)
	}
	return out
}

// unreadable: a peer or a protocol of which no known field is set comes from a newer version of the API. Domain names are
// known, and not resolved: a rule that names some cannot be followed either.
func unreadable(rule clusterRule) bool {
	for _, p := range rule.peers {
		if p.Namespaces == nil && p.Pods == nil && p.Nodes == nil && len(p.Networks) == 0 {
			return true
		}
	}
	for _, p := range rule.protocols {
		if p.TCP == nil && p.UDP == nil && p.SCTP == nil && p.DestinationNamedPort == "" {
			return true
		}
		if p.TCP != nil && unreadablePort(p.TCP.DestinationPort) || p.UDP != nil && unreadablePort(p.UDP.DestinationPort) ||
			p.SCTP != nil && unreadablePort(p.SCTP.DestinationPort) {
			return true
		}
	}
	return false
}

// unreadablePort: neither a number, which is at least 1, nor a range is set.
func unreadablePort(p *policyv1alpha2.Port) bool { return p != nil && p.Number == 0 && p.Range == nil }

// clusterSubjectMatches: "Exactly one field must be set. Note that host-networked pods are not included".
func clusterSubjectMatches(w World, s policyv1alpha2.ClusterNetworkPolicySubject, pod *Pod) bool {
	if s.Namespaces != nil {
		return namespaceSelected(w, *s.Namespaces, pod.Namespace)
	}
	if s.Pods != nil {
		return namespaceSelected(w, s.Pods.NamespaceSelector, pod.Namespace) && selectorMatches(s.Pods.PodSelector, pod.Labels)
	}
	return false
}

// clusterPeersMatch: "If any element matches … then the specified action is applied."
func clusterPeersMatch(w World, peers []policyv1alpha2.ClusterNetworkPolicyEgressPeer, addr netip.Addr) bool {
	for _, p := range peers {
		if clusterPeerMatches(w, p, addr) {
			return true
		}
	}
	return false
}

func clusterPeerMatches(w World, p policyv1alpha2.ClusterNetworkPolicyEgressPeer, addr netip.Addr) bool {
	// "cluster-internal traffic will be checked against the rule as well"
	for _, network := range p.Networks {
		if blockContains(networkingv1.IPBlock{CIDR: string(network)}, addr) {
			return true
		}
	}
	// "It selects the nodeIPs as the peer type by matching on the IPs present in the node.Status.Addresses field"
	if p.Nodes != nil {
		for _, node := range w.Nodes {
			for _, ip := range node.IPs {
				if ip == addr && selectorMatches(*p.Nodes, node.Labels) {
					return true
				}
			}
		}
	}
	pod := owner(w, addr)
	if pod == nil {
		return false
	}
	if p.Namespaces != nil {
		return namespaceSelected(w, *p.Namespaces, pod.Namespace)
	}
	if p.Pods != nil {
		return namespaceSelected(w, p.Pods.NamespaceSelector, pod.Namespace) && selectorMatches(p.Pods.PodSelector, pod.Labels)
	}
	return false
}

func namespaceSelected(w World, s metav1.LabelSelector, name string) bool {
	return selectorMatches(s, namespaceLabels(w, name))
}

// protocolsMatch: "If unspecified, protocol-specific attributes will not be used to match traffic."
func protocolsMatch(w World, protocols []policyv1alpha2.ClusterNetworkPolicyProtocol, c Conn) bool {
	if len(protocols) == 0 {
		return true
	}
	for _, p := range protocols {
		switch {
		case p.TCP != nil:
			if c.Protocol == "TCP" && clusterPortMatches(p.TCP.DestinationPort, c.Port) {
				return true
			}
		case p.UDP != nil:
			if c.Protocol == "UDP" && clusterPortMatches(p.UDP.DestinationPort, c.Port) {
				return true
			}
		case p.SCTP != nil:
			if c.Protocol == "SCTP" && clusterPortMatches(p.SCTP.DestinationPort, c.Port) {
				return true
			}
		case p.DestinationNamedPort != "":
			// "selects a destination port on a pod based on the ContainerPort name", in whatever protocol that has
			if namedPortMatches(w, p.DestinationNamedPort, c) {
				return true
			}
		}
	}
	return false
}

func clusterPortMatches(port *policyv1alpha2.Port, number int) bool {
	if port == nil {
		return true
	}
	if port.Range != nil {
		return int(port.Range.Start) <= number && number <= int(port.Range.End)
	}
	return int(port.Number) == number
}
