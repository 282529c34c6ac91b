// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/mattfenwick/cyclonus/pkg/matcher"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skep.dev/skep/nodeagent/policymodel"
)

// oracle judges by an evaluator that others published. The model was written by those who wrote the compiler: what both
// misread, only somebody else's reading shows.
type oracle struct {
	world    policymodel.World
	policies *matcher.Policy
}

func newOracle(w policymodel.World) *oracle {
	w.ClusterPolicies = nil // it does not know those
	var policies []*networkingv1.NetworkPolicy
	for _, p := range w.Policies {
		policies = append(policies, forOracle(p))
	}
	return &oracle{world: w, policies: matcher.BuildNetworkPolicies(false, policies)}
}

// forOracle fills in the policy types as the API server does, since the evaluator wants them, and gives NotIn keys of its own.
func forOracle(p networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy {
	out := p.DeepCopy()
	if len(out.Spec.PolicyTypes) == 0 {
		out.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(out.Spec.Egress) > 0 {
			out.Spec.PolicyTypes = append(out.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
	renameNotIn(&out.Spec.PodSelector)
	for _, rule := range out.Spec.Ingress {
		renameNotInPeers(rule.From)
	}
	for _, rule := range out.Spec.Egress {
		renameNotInPeers(rule.To)
	}
	return out
}

func renameNotInPeers(peers []networkingv1.NetworkPolicyPeer) {
	for _, peer := range peers {
		renameNotIn(peer.PodSelector)
		renameNotIn(peer.NamespaceSelector)
	}
}

const notIn = "not-in/"

// renameNotIn gets round the one thing that the evaluator has wrong: for it, NotIn does not match an object without the label
// (k8s.io/apimachinery/pkg/labels, Requirement.Matches: it does). With a key that every object has, both agree.
func renameNotIn(s *metav1.LabelSelector) {
	if s == nil {
		return
	}
	for i := range s.MatchExpressions {
		if s.MatchExpressions[i].Operator == metav1.LabelSelectorOpNotIn {
			s.MatchExpressions[i].Key = notIn + s.MatchExpressions[i].Key
		}
	}
}

func withNotIn(labels map[string]string) map[string]string {
	out := maps.Clone(labels)
	for _, key := range labelKeys {
		out[notIn+key] = labels[key]
	}
	return out
}

// compare returns in what the model and the oracle differ. The oracle knows neither processes of the node nor a pod that
// talks to itself, nor audit mode, and takes one port name at a time.
func (o *oracle) compare(c policymodel.Conn) string {
	if c.FromOwnNode || c.Src == c.Dst {
		return ""
	}
	var egress, ingress bool
	for _, name := range o.portNames(c) {
		answer := o.policies.IsTrafficAllowed(&matcher.Traffic{
			Source: o.peer(c.Src), Destination: o.peer(c.Dst),
			ResolvedPort: c.Port, ResolvedPortName: name, Protocol: corev1.Protocol(c.Protocol),
		})
		egress = egress || answer.Egress.IsAllowed()
		ingress = ingress || answer.Ingress.IsAllowed()
	}
	want := policymodel.Would(o.world, c)
	if want.Egress.Allowed != egress || want.Ingress.Allowed != ingress {
		return fmt.Sprintf("%+v: the model says %+v, the oracle egress %v and ingress %v", c, want, egress, ingress)
	}
	return ""
}

// portNames are the names that the destination's pod has for the port, and none.
func (o *oracle) portNames(c policymodel.Conn) []string {
	names := []string{""}
	if pod := o.podAt(c.Dst); pod != nil {
		for _, port := range pod.Ports {
			if port.Number == c.Port && port.Protocol == c.Protocol {
				names = append(names, port.Name)
			}
		}
	}
	return names
}

func (o *oracle) peer(addr netip.Addr) *matcher.TrafficPeer {
	peer := &matcher.TrafficPeer{IP: addr.String()}
	if pod := o.podAt(addr); pod != nil {
		at := slices.IndexFunc(o.world.Namespaces, func(ns policymodel.Namespace) bool { return ns.Name == pod.Namespace })
		peer.Internal = &matcher.InternalPeer{
			PodLabels: withNotIn(pod.Labels), Namespace: pod.Namespace, NamespaceLabels: withNotIn(o.world.Namespaces[at].Labels),
		}
	}
	return peer
}

// podAt is the newest live pod that claims an address and has a network of its own.
func (o *oracle) podAt(addr netip.Addr) *policymodel.Pod {
	var owners []policymodel.Pod
	for _, p := range o.world.Pods {
		if slices.Contains(p.IPs, addr) && !p.HostNetwork && !p.Terminal {
			owners = append(owners, p)
		}
	}
	if len(owners) == 0 {
		return nil
	}
	newest := slices.MaxFunc(owners, func(a, b policymodel.Pod) int {
		if order := a.Created.Compare(b.Created); order != 0 {
			return order
		}
		return slices.Compare([]byte(a.UID), []byte(b.UID))
	})
	return &newest
}
