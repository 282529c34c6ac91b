// SPDX-License-Identifier: Apache-2.0

// Package policymodel decides what NetworkPolicy and ClusterNetworkPolicy say about a connection: slowly, and as the API
// text reads.
//
// It is the specification that the datapath is tested against, and therefore shares no code for selectors, addresses
// or ports with the translation and the compiler. Sentences in quotation marks are from the documentation of the API
// types in k8s.io/api/networking/v1 and sigs.k8s.io/network-policy-api/apis/v1alpha2 or from the NetworkPolicy concept page. Where they leave something open, the comment
// says what skep means.
package policymodel

import (
	"net/netip"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// World is everything that a verdict depends on.
type World struct {
	Pods       []Pod
	Namespaces []Namespace
	Nodes      []Node
	Policies   []networkingv1.NetworkPolicy
	// ClusterPolicies are in the tiers before and behind those.
	ClusterPolicies []policyv1alpha2.ClusterNetworkPolicy
}

// Pod is a pod as policy sees it.
type Pod struct {
	UID, Namespace, Name string
	Node                 string
	Labels               map[string]string
	IPs                  []netip.Addr
	Ports                []NamedPort
	HostNetwork          bool
	// Terminal pods have ended: they own no address any more.
	Terminal bool
	Created  time.Time
}

// NamedPort is a named port of a container.
type NamedPort struct {
	Name     string
	Protocol string
	Number   int
}

// Namespace is a namespace with its labels.
type Namespace struct {
	Name   string
	Labels map[string]string
}

// Conn is the first packet of a connection. Replies follow the verdict on the first packet: "return traffic for an allowed
// connection is implicitly allowed".
type Conn struct {
	Src, Dst netip.Addr
	// Protocol is "TCP", "UDP", "SCTP" or the name of any other, which no port of a rule can match.
	Protocol string
	Port     int
	// FromOwnNode says that a socket of the destination's node, not of a pod, sent it. "Traffic to and from the node
	// where a Pod is running is always allowed"; skep reads "from" only so far as it cannot be forged.
	FromOwnNode bool
}

// Verdict is the model's answer.
type Verdict struct {
	// Allowed is true when both sides allow: "For a connection from a source pod to a destination pod to be allowed,
	// both the egress policy on the source pod and the ingress policy on the destination pod need to allow the connection."
	Allowed         bool
	Egress, Ingress Side
}

// Side is the answer for one direction.
type Side struct {
	// Pod is the subject, as "namespace/name"; empty when the address is no pod's and nothing is judged.
	Pod string
	// Isolating are the policies, "namespace/name", that isolate the subject in this direction.
	Isolating []string
	// Allowing are the rules that allow the connection. Any of them may be named as the reason.
	Allowing []RuleRef
	// Cluster is the rule of a ClusterNetworkPolicy that decided; nil when none did. Then Isolating and Allowing say nothing.
	Cluster *RuleRef
	Allowed bool
}

// RuleRef names an entry of spec.ingress or spec.egress.
type RuleRef struct {
	// Policy is "namespace/name", or "name" of a ClusterNetworkPolicy.
	Policy string
	Index  int
}

// Judge decides a connection. Policies in audit mode have no part in it.
func Judge(w World, c Conn) Verdict {
	return Would(enforced(w), c)
}

// Would decides a connection as if the policies in audit mode were enforced too.
func Would(w World, c Conn) Verdict {
	var v Verdict
	v.Egress = judgeEgress(w, c)
	v.Ingress = judgeIngress(w, c)
	v.Allowed = v.Egress.Allowed && v.Ingress.Allowed
	return v
}

// enforced leaves out the policies in audit mode: those whose annotation skep.dev/enforcement says "audit", and nothing else.
func enforced(w World) World {
	var policies []networkingv1.NetworkPolicy
	for _, p := range w.Policies {
		if p.Annotations["skep.dev/enforcement"] != "audit" {
			policies = append(policies, p)
		}
	}
	var cluster []policyv1alpha2.ClusterNetworkPolicy
	for _, p := range w.ClusterPolicies {
		if p.Annotations["skep.dev/enforcement"] != "audit" {
			cluster = append(cluster, p)
		}
	}
	w.Policies, w.ClusterPolicies = policies, cluster
	return w
}

func judgeEgress(w World, c Conn) Side {
	subject := owner(w, c.Src)
	if subject == nil {
		return Side{Allowed: true}
	}
	return judgeSide(w, subject, true, c, func() Side { return judgeNetworkPolicyEgress(w, subject, c) })
}

func judgeIngress(w World, c Conn) Side {
	subject := owner(w, c.Dst)
	if subject == nil {
		return Side{Allowed: true}
	}
	side := judgeSide(w, subject, false, c, func() Side { return judgeNetworkPolicyIngress(w, subject, c) })
	side.Allowed = side.Allowed || c.FromOwnNode
	return side
}

// judgeSide: "Policy tiers are evaluated in the following order: Admin tier, NetworkPolicy tier, Baseline tier."
// "v1.NetworkPolicy always makes a final decision for selected pods. Further evaluation only happens for Pods not selected
// by a v1.NetworkPolicy."
func judgeSide(w World, subject *Pod, egress bool, c Conn, networkPolicy func() Side) Side {
	name := subject.Namespace + "/" + subject.Name
	if d, ref := judgeTier(w, policyv1alpha2.AdminTier, subject, egress, c); d != undecided {
		return Side{Pod: name, Cluster: &ref, Allowed: d == accepted}
	}
	side := networkPolicy()
	if len(side.Isolating) > 0 {
		return side
	}
	if d, ref := judgeTier(w, policyv1alpha2.BaselineTier, subject, egress, c); d != undecided {
		return Side{Pod: name, Cluster: &ref, Allowed: d == accepted}
	}
	return side
}

func judgeNetworkPolicyEgress(w World, subject *Pod, c Conn) Side {
	side := Side{Pod: subject.Namespace + "/" + subject.Name}
	for _, policy := range w.Policies {
		if !appliesTo(policy, subject) || !affectsEgress(policy) {
			continue
		}
		name := policy.Namespace + "/" + policy.Name
		side.Isolating = append(side.Isolating, name)
		for i, rule := range policy.Spec.Egress {
			// "traffic must match both ports and to"
			if peersMatch(w, policy.Namespace, rule.To, c.Dst) && portsMatch(w, rule.Ports, c) {
				side.Allowing = append(side.Allowing, RuleRef{name, i})
			}
		}
	}
	side.Allowed = len(side.Isolating) == 0 || len(side.Allowing) > 0
	return side
}

func judgeNetworkPolicyIngress(w World, subject *Pod, c Conn) Side {
	side := Side{Pod: subject.Namespace + "/" + subject.Name}
	for _, policy := range w.Policies {
		if !appliesTo(policy, subject) || !affectsIngress(policy) {
			continue
		}
		name := policy.Namespace + "/" + policy.Name
		side.Isolating = append(side.Isolating, name)
		for i, rule := range policy.Spec.Ingress {
			// "traffic must match both ports and from"
			if peersMatch(w, policy.Namespace, rule.From, c.Src) && portsMatch(w, rule.Ports, c) {
				side.Allowing = append(side.Allowing, RuleRef{name, i})
			}
		}
	}
	side.Allowed = len(side.Isolating) == 0 || len(side.Allowing) > 0
	return side
}

// owner is the pod that an address belongs to. Pods on the host's network share the node's addresses and are no pods to
// policy. Between pods that claim the same address the newest has it.
func owner(w World, addr netip.Addr) *Pod {
	var best *Pod
	for i := range w.Pods {
		pod := &w.Pods[i]
		if pod.HostNetwork || pod.Terminal {
			continue
		}
		for _, ip := range pod.IPs {
			if ip != addr {
				continue
			}
			if best == nil || pod.Created.After(best.Created) || (pod.Created.Equal(best.Created) && pod.UID > best.UID) {
				best = pod
			}
		}
	}
	return best
}

// appliesTo: "podSelector selects the pods to which this NetworkPolicy object applies … in the same namespace".
func appliesTo(policy networkingv1.NetworkPolicy, pod *Pod) bool {
	return policy.Namespace == pod.Namespace && selectorMatches(policy.Spec.PodSelector, pod.Labels)
}

// affectsIngress: "If this field is not specified, it will default based on the existence of ingress or egress rules;
// policies that contain an egress section are assumed to affect egress, and all policies (whether or not they contain an
// ingress section) are assumed to affect ingress."
func affectsIngress(policy networkingv1.NetworkPolicy) bool {
	if len(policy.Spec.PolicyTypes) == 0 {
		return true
	}
	for _, t := range policy.Spec.PolicyTypes {
		if t == "Ingress" {
			return true
		}
	}
	return false
}

func affectsEgress(policy networkingv1.NetworkPolicy) bool {
	if len(policy.Spec.PolicyTypes) == 0 {
		return len(policy.Spec.Egress) > 0
	}
	for _, t := range policy.Spec.PolicyTypes {
		if t == "Egress" {
			return true
		}
	}
	return false
}

// peersMatch: "If this field is empty or missing, this rule matches all sources (traffic not restricted by source)".
// "Items in this list are combined using a logical OR operation."
func peersMatch(w World, policyNamespace string, peers []networkingv1.NetworkPolicyPeer, addr netip.Addr) bool {
	if len(peers) == 0 {
		return true
	}
	for _, peer := range peers {
		if peerMatches(w, policyNamespace, peer, addr) {
			return true
		}
	}
	return false
}

func peerMatches(w World, policyNamespace string, peer networkingv1.NetworkPolicyPeer, addr netip.Addr) bool {
	if peer.IPBlock != nil {
		// "If this field is set then neither of the other fields can be." It holds for every address, pods included.
		return blockContains(*peer.IPBlock, addr)
	}
	pod := owner(w, addr)
	if pod == nil {
		return false
	}
	switch {
	case peer.NamespaceSelector != nil && peer.PodSelector != nil:
		// "selects the pods matching podSelector in the namespaces selected by namespaceSelector"
		return selectorMatches(*peer.NamespaceSelector, namespaceLabels(w, pod.Namespace)) && selectorMatches(*peer.PodSelector, pod.Labels)
	case peer.NamespaceSelector != nil:
		// "it selects all pods in the namespaces selected by namespaceSelector"
		return selectorMatches(*peer.NamespaceSelector, namespaceLabels(w, pod.Namespace))
	case peer.PodSelector != nil:
		// "selects the pods matching podSelector in the policy's own namespace"
		return pod.Namespace == policyNamespace && selectorMatches(*peer.PodSelector, pod.Labels)
	}
	return false
}

// portsMatch: "If this field is empty or missing, this rule matches all ports (traffic not restricted by port)."
func portsMatch(w World, ports []networkingv1.NetworkPolicyPort, c Conn) bool {
	if len(ports) == 0 {
		return true
	}
	for _, port := range ports {
		if portMatches(w, port, c) {
			return true
		}
	}
	return false
}

func portMatches(w World, port networkingv1.NetworkPolicyPort, c Conn) bool {
	// "If not specified, this field defaults to TCP."
	protocol := "TCP"
	if port.Protocol != nil {
		protocol = string(*port.Protocol)
	}
	if protocol != c.Protocol {
		return false
	}
	// "If this field is not provided, this matches all port names and numbers."
	if port.Port == nil {
		return true
	}
	if text := port.Port.StrVal; text != "" {
		return namedPortMatches(w, text, c)
	}
	number := int(port.Port.IntVal)
	// "endPort indicates that the range of ports from port to endPort if set, inclusive, should be allowed"
	if port.EndPort != nil {
		return number <= c.Port && c.Port <= int(*port.EndPort)
	}
	return number == c.Port
}

// namedPortMatches: "a numerical or named port on a pod". The pod is the one that is connected to, also where an
// ipBlock is the peer; a name means nothing at an address that is no pod's.
func namedPortMatches(w World, name string, c Conn) bool {
	pod := owner(w, c.Dst)
	if pod == nil {
		return false
	}
	for _, p := range pod.Ports {
		if p.Name == name && p.Protocol == c.Protocol && p.Number == c.Port {
			return true
		}
	}
	return false
}

func namespaceLabels(w World, name string) map[string]string {
	for _, ns := range w.Namespaces {
		if ns.Name == name {
			return ns.Labels
		}
	}
	return nil
}
