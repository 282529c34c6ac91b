// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"skep.dev/skep/datapath"
)

// Tiers in the order in which a set asks them. NetworkPolicy has the one in the middle.
const (
	tierAdmin uint8 = iota
	tierNetworkPolicy
	tierBaseline
)

// Unreadable is an annotation of a ClusterNetworkPolicy whose spec has not the types that it must have, and says so. Whoever reads the API
// adds it and removes what others have put there.
const Unreadable = "skep.dev/unreadable"

// clusterPolicy is a ClusterNetworkPolicy in parsed form.
type clusterPolicy struct {
	source
	priority int32
	tier     uint8
	spec     policyv1alpha2.ClusterNetworkPolicySpec
	subject  peer
	sides    [2][]*rule
}

// SetClusterPolicy adds or replaces a policy and reports whether policy may differ. A policy that cannot be understood (the
// API refuses those) changes nothing: its last good version stays in force.
func (c *Cluster) SetClusterPolicy(obj *policyv1alpha2.ClusterNetworkPolicy) (bool, error) {
	old := c.clusterPolicies[obj.Name]
	if old != nil && old.source == sourceOf(obj, old.name) && apiequality.Semantic.DeepEqual(old.spec, obj.Spec) {
		return false, nil
	}
	p, err := parseClusterPolicy(obj)
	if err != nil {
		return false, fmt.Errorf("cluster network policy %s: %w", obj.Name, err)
	}
	c.clusterPolicies[obj.Name] = p
	return c.clusterReplaced(old, p), nil
}

// DeleteClusterPolicy forgets a policy and reports whether policy may differ.
func (c *Cluster) DeleteClusterPolicy(name string) bool {
	old := c.clusterPolicies[name]
	if old == nil {
		return false
	}
	delete(c.clusterPolicies, name)
	return c.clusterReplaced(old, nil)
}

// declaration is what a policy adds to the table of rules; nil for no policy.
func (p *clusterPolicy) declaration() *declaration {
	if p == nil {
		return nil
	}
	return &declaration{source: p.source, rules: p.sides}
}

// clusterReplaced marks the sets that a policy's change touches. Either side may be nil.
func (c *Cluster) clusterReplaced(before, after *clusterPolicy) bool {
	c.rules.declare(before.declaration(), after.declaration())
	if before != nil {
		for _, rules := range before.sides {
			c.rules.retire(rules)
		}
	}
	changed := false
	for pr := range c.localProfiles {
		if (before != nil && before.subject.selects(pr)) || (after != nil && after.subject.selects(pr)) {
			pr.markStale()
			changed = true
		}
	}
	return changed
}

// clusterPoliciesFor lists the policies of a tier that select a profile, by precedence. Equal priorities go by name, so that
// all nodes agree.
func (c *Cluster) clusterPoliciesFor(pr *profile, tier uint8) []*clusterPolicy {
	var out []*clusterPolicy
	for _, p := range c.clusterPolicies {
		if p.tier == tier && p.subject.selects(pr) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *clusterPolicy) int {
		return cmp.Or(cmp.Compare(a.priority, b.priority), cmp.Compare(a.name, b.name))
	})
	return out
}

func parseClusterPolicy(obj *policyv1alpha2.ClusterNetworkPolicy) (*clusterPolicy, error) {
	if why, is := obj.Annotations[Unreadable]; is {
		return nil, fmt.Errorf("not a ClusterNetworkPolicy: %s", why)
	}
	p := &clusterPolicy{
		source:   sourceOf(obj, obj.Name),
		priority: obj.Spec.Priority, spec: obj.Spec,
	}
	switch obj.Spec.Tier {
	case policyv1alpha2.AdminTier:
		p.tier = tierAdmin
	case policyv1alpha2.BaselineTier:
		p.tier = tierBaseline
	default:
		return nil, fmt.Errorf("unknown tier %q", obj.Spec.Tier)
	}
	var err error
	if p.subject, err = parseSubject(obj.Spec.Subject); err != nil {
		return nil, fmt.Errorf("subject: %w", err)
	}
	for i, r := range obj.Spec.Ingress {
		rule, err := parseClusterRule(r.Action, ingressPeers(r.From), r.Protocols)
		if err != nil {
			return nil, fmt.Errorf("ingress[%d]: %w", i, err)
		}
		p.sides[datapath.Ingress] = append(p.sides[datapath.Ingress], rule)
	}
	for i, r := range obj.Spec.Egress {
		rule, err := parseClusterRule(r.Action, r.To, r.Protocols)
		if err != nil {
			return nil, fmt.Errorf("egress[%d]: %w", i, err)
		}
		p.sides[datapath.Egress] = append(p.sides[datapath.Egress], rule)
	}
	return p, nil
}

func parseSubject(s policyv1alpha2.ClusterNetworkPolicySubject) (peer, error) {
	subject, err := parseClusterPeer(policyv1alpha2.ClusterNetworkPolicyEgressPeer{Namespaces: s.Namespaces, Pods: s.Pods})
	if errors.Is(err, errUnknown) {
		return peer{}, errors.New("neither namespaces nor pods is set")
	}
	return subject, err
}

// ingressPeers gives ingress peers the form of egress peers, which can say more.
func ingressPeers(from []policyv1alpha2.ClusterNetworkPolicyIngressPeer) []policyv1alpha2.ClusterNetworkPolicyEgressPeer {
	out := make([]policyv1alpha2.ClusterNetworkPolicyEgressPeer, len(from))
	for i, p := range from {
		out[i] = policyv1alpha2.ClusterNetworkPolicyEgressPeer{Namespaces: p.Namespaces, Pods: p.Pods}
	}
	return out
}

// errUnknown says that a peer or a protocol has none of the fields that this version knows.
var errUnknown = errors.New("no known field is set")

// parseClusterRule follows the API where it says how to fail closed: a rule with an unknown peer matches nothing when it
// accepts, and denies everything otherwise.
func parseClusterRule(
	action policyv1alpha2.ClusterNetworkPolicyRuleAction, peers []policyv1alpha2.ClusterNetworkPolicyEgressPeer,
	protocols []policyv1alpha2.ClusterNetworkPolicyProtocol,
) (*rule, error) {
	r := &rule{anyPort: len(protocols) == 0}
	switch action {
	case policyv1alpha2.ClusterNetworkPolicyRuleActionAccept:
		r.action = datapath.Allow
	case policyv1alpha2.ClusterNetworkPolicyRuleActionPass:
		r.action = datapath.Pass
	case policyv1alpha2.ClusterNetworkPolicyRuleActionDeny:
		r.action = datapath.Deny
	default:
		return nil, fmt.Errorf("unknown action %q", action)
	}
	err := r.addClusterPeers(peers)
	if err == nil {
		err = r.addProtocols(protocols)
	}
	if errors.Is(err, errUnknown) {
		if r.action == datapath.Allow {
			return &rule{anyPort: true}, nil
		}
		return &rule{action: datapath.Deny, anyPeer: true, anyPort: true}, nil
	}
	return r, err
}

func (r *rule) addClusterPeers(peers []policyv1alpha2.ClusterNetworkPolicyEgressPeer) error {
	var list peerList
	for i, p := range peers {
		if err := list.parseCluster(p); err != nil {
			return fmt.Errorf("peer %d: %w", i, err)
		}
	}
	r.peers = list.all()
	return nil
}

func (l *peerList) parseCluster(p policyv1alpha2.ClusterNetworkPolicyEgressPeer) error {
	parsed, err := parseClusterPeer(p)
	if err == nil {
		l.add(parsed)
	}
	if !errors.Is(err, errUnknown) || len(p.Networks) == 0 {
		return err
	}
	for _, network := range p.Networks {
		cidr, err := parseIPBlock(&networkingv1.IPBlock{CIDR: string(network)})
		if err != nil {
			return err
		}
		l.addBlock(cidr)
	}
	return nil
}

// parseClusterPeer reads a peer that is not a list of networks. Names of domains are not resolved: they count as unknown.
func parseClusterPeer(p policyv1alpha2.ClusterNetworkPolicyEgressPeer) (peer, error) {
	switch {
	case p.Namespaces != nil:
		return parsePeer(networkingv1.NetworkPolicyPeer{NamespaceSelector: p.Namespaces}, "")
	case p.Pods != nil:
		return parsePeer(networkingv1.NetworkPolicyPeer{NamespaceSelector: &p.Pods.NamespaceSelector, PodSelector: &p.Pods.PodSelector}, "")
	case p.Nodes != nil:
		return parseNodePeer(p.Nodes)
	}
	return peer{}, errUnknown
}

func parseNodePeer(s *metav1.LabelSelector) (peer, error) {
	nodes, id, err := parseSelector(s)
	if err != nil {
		return peer{}, fmt.Errorf("nodes: %w", err)
	}
	return peer{id: "nodes:" + id, pods: labels.Nothing(), nodes: nodes}, nil
}

func (r *rule) addProtocols(protocols []policyv1alpha2.ClusterNetworkPolicyProtocol) error {
	for i, p := range protocols {
		var err error
		switch {
		case p.TCP != nil:
			err = r.addClusterPort(datapath.TCP, p.TCP.DestinationPort)
		case p.UDP != nil:
			err = r.addClusterPort(datapath.UDP, p.UDP.DestinationPort)
		case p.SCTP != nil:
			err = r.addClusterPort(datapath.SCTP, p.SCTP.DestinationPort)
		case p.DestinationNamedPort != "":
			for _, protocol := range []datapath.Protocol{datapath.TCP, datapath.UDP, datapath.SCTP} {
				r.addNamed(namedPort{protocol, p.DestinationNamedPort})
			}
		default:
			err = errUnknown
		}
		if err != nil {
			return fmt.Errorf("protocols[%d]: %w", i, err)
		}
	}
	return nil
}

func (r *rule) addClusterPort(protocol datapath.Protocol, p *policyv1alpha2.Port) error {
	first, last := int32(0), int32(65535)
	switch {
	case p == nil:
	case p.Range != nil:
		first, last = p.Range.Start, p.Range.End
	case p.Number == 0:
		return errUnknown // ports are numbered from 1: what is set is something that this version does not know
	default:
		first, last = p.Number, p.Number
	}
	return r.addNumbers(protocol, first, last)
}
