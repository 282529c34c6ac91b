// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"errors"
	"fmt"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skep.dev/skep/datapath"
	"skep.dev/skep/enforcement"
)

// source is the object that rules come from.
type source struct {
	uid types.UID
	// name is "namespace/name", or "name" of an object that has no namespace.
	name       string
	generation int64
	// audit says that the object is in audit mode.
	audit bool
}

// sourceOf is what attribution needs of an object.
func sourceOf(obj metav1.Object, name string) source {
	return source{
		uid: obj.GetUID(), name: name, generation: obj.GetGeneration(),
		audit: enforcement.ModeOf(obj.GetAnnotations()) == enforcement.Audit,
	}
}

// policy is a NetworkPolicy in parsed form.
type policy struct {
	source
	namespace string
	spec      networkingv1.NetworkPolicySpec
	subject   labels.Selector
	// sides are nil in directions that the policy does not isolate.
	sides [2]*side
}

// side is what a policy says about one direction. Without rules it isolates and allows nothing.
type side struct {
	rules []*rule
}

// rule is one entry of spec.ingress or spec.egress.
type rule struct {
	// id is zero until the rule is first used.
	id      datapath.RuleID
	action  datapath.Action
	anyPeer bool
	peers   []peer
	anyPort bool
	ports   []datapath.PortRange
	named   []namedPort
}

// SetNetworkPolicy adds or replaces a policy and reports whether policy may differ. A policy that cannot be understood
// (the API refuses those) changes nothing: its last good version stays in force.
func (c *Cluster) SetNetworkPolicy(obj *networkingv1.NetworkPolicy) (bool, error) {
	old := c.policies[obj.Namespace][obj.Name]
	if old != nil && old.source == sourceOf(obj, old.name) && apiequality.Semantic.DeepEqual(old.spec, obj.Spec) {
		return false, nil
	}
	p, err := parsePolicy(obj)
	if err != nil {
		return false, fmt.Errorf("network policy %s/%s: %w", obj.Namespace, obj.Name, err)
	}
	if c.policies[p.namespace] == nil {
		c.policies[p.namespace] = map[string]*policy{}
	}
	c.policies[p.namespace][obj.Name] = p
	return c.replaced(p.namespace, old, p), nil
}

// DeleteNetworkPolicy forgets a policy and reports whether policy may differ.
func (c *Cluster) DeleteNetworkPolicy(namespace, name string) bool {
	old := c.policies[namespace][name]
	if old == nil {
		return false
	}
	delete(c.policies[namespace], name)
	if len(c.policies[namespace]) == 0 {
		delete(c.policies, namespace)
	}
	return c.replaced(namespace, old, nil)
}

// declaration is what a policy adds to the table of rules; nil for no policy.
func (p *policy) declaration() *declaration {
	if p == nil {
		return nil
	}
	d := &declaration{source: p.source}
	for dir, s := range p.sides {
		if s != nil {
			d.rules[dir] = s.rules
		}
	}
	return d
}

// replaced marks the sets that a policy's change touches. Either side may be nil.
func (c *Cluster) replaced(namespace string, before, after *policy) bool {
	c.rules.declare(before.declaration(), after.declaration())
	if before != nil {
		for _, s := range before.sides {
			if s != nil {
				c.rules.retire(s.rules)
			}
		}
	}
	changed := false
	for pr := range c.localProfiles {
		if pr.namespace != namespace {
			continue
		}
		if (before != nil && before.subject.Matches(pr.labels)) || (after != nil && after.subject.Matches(pr.labels)) {
			pr.markStale()
			changed = true
		}
	}
	return changed
}

func parsePolicy(obj *networkingv1.NetworkPolicy) (*policy, error) {
	p := &policy{
		source:    sourceOf(obj, obj.Namespace+"/"+obj.Name),
		namespace: obj.Namespace, spec: obj.Spec,
	}
	var err error
	if p.subject, _, err = parseSelector(&obj.Spec.PodSelector); err != nil {
		return nil, fmt.Errorf("podSelector: %w", err)
	}
	ingress, egress := isolates(&obj.Spec)
	if ingress {
		p.sides[datapath.Ingress] = &side{}
		for i, r := range obj.Spec.Ingress {
			parsed, err := parseRule(r.From, r.Ports, obj.Namespace)
			if err != nil {
				return nil, fmt.Errorf("ingress[%d]: %w", i, err)
			}
			p.sides[datapath.Ingress].rules = append(p.sides[datapath.Ingress].rules, parsed)
		}
	}
	if egress {
		p.sides[datapath.Egress] = &side{}
		for i, r := range obj.Spec.Egress {
			parsed, err := parseRule(r.To, r.Ports, obj.Namespace)
			if err != nil {
				return nil, fmt.Errorf("egress[%d]: %w", i, err)
			}
			p.sides[datapath.Egress].rules = append(p.sides[datapath.Egress].rules, parsed)
		}
	}
	return p, nil
}

// isolates applies the default of policyTypes, which the API also writes into the object.
func isolates(spec *networkingv1.NetworkPolicySpec) (ingress, egress bool) {
	if len(spec.PolicyTypes) == 0 {
		return true, len(spec.Egress) > 0
	}
	return slices.Contains(spec.PolicyTypes, networkingv1.PolicyTypeIngress), slices.Contains(spec.PolicyTypes, networkingv1.PolicyTypeEgress)
}

func parseRule(peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort, namespace string) (*rule, error) {
	r := &rule{anyPeer: len(peers) == 0, anyPort: len(ports) == 0}
	var list peerList
	for i, p := range peers {
		if err := list.parse(p, namespace); err != nil {
			return nil, fmt.Errorf("peer %d: %w", i, err)
		}
	}
	r.peers = list.all()
	for i, p := range ports {
		if err := r.addPort(p); err != nil {
			return nil, fmt.Errorf("ports[%d]: %w", i, err)
		}
	}
	return r, nil
}

func (l *peerList) parse(p networkingv1.NetworkPolicyPeer, namespace string) error {
	if p.IPBlock != nil {
		cidr, err := parseIPBlock(p.IPBlock)
		if err == nil {
			l.addBlock(cidr)
		}
		return err
	}
	parsed, err := parsePeer(p, namespace)
	if err == nil {
		l.add(parsed)
	}
	return err
}

func (r *rule) addPort(p networkingv1.NetworkPolicyPort) error {
	proto := datapath.TCP
	if p.Protocol != nil {
		var ok bool
		if proto, ok = protocolOf(*p.Protocol); !ok {
			return fmt.Errorf("unknown protocol %q", *p.Protocol)
		}
	}
	switch {
	case p.Port == nil:
		r.addRange(datapath.PortRange{Protocol: proto, First: 0, Last: 65535})
	case p.Port.Type == intstr.String:
		r.addNamed(namedPort{proto, p.Port.StrVal})
	default:
		first, last := p.Port.IntVal, p.Port.IntVal
		if p.EndPort != nil {
			last = *p.EndPort
		}
		return r.addNumbers(proto, first, last)
	}
	return nil
}

// addNumbers adds a range as the API writes it, which can say more than there is.
func (r *rule) addNumbers(protocol datapath.Protocol, first, last int32) error {
	if first < 0 || last > 65535 || last < first {
		return errors.New("port out of range")
	}
	r.addRange(datapath.PortRange{Protocol: protocol, First: uint16(first), Last: uint16(last)})
	return nil
}

func (r *rule) addNamed(np namedPort) {
	if !slices.Contains(r.named, np) {
		r.named = append(r.named, np)
	}
}

func (r *rule) addRange(pr datapath.PortRange) {
	if !slices.Contains(r.ports, pr) {
		r.ports = append(r.ports, pr)
	}
}
