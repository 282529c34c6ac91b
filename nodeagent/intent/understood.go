// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// notUnderstood names the parts of a policy that are enforced as if they opened nothing, and what that makes of their rules. A
// NetworkPolicy has none: what it can say is known.
func notUnderstood(policy metav1.Object) []string {
	obj, ok := policy.(*policyv1alpha2.ClusterNetworkPolicy)
	if !ok {
		return nil
	}
	var out []string
	for i, r := range obj.Spec.Ingress {
		out = append(out, unknownParts(fmt.Sprintf("spec.ingress[%d]", i), "from", r.Action, ingressPeers(r.From), r.Protocols)...)
	}
	for i, r := range obj.Spec.Egress {
		out = append(out, unknownParts(fmt.Sprintf("spec.egress[%d]", i), "to", r.Action, r.To, r.Protocols)...)
	}
	return out
}

func unknownParts(rule, side string, action policyv1alpha2.ClusterNetworkPolicyRuleAction,
	peers []policyv1alpha2.ClusterNetworkPolicyEgressPeer, protocols []policyv1alpha2.ClusterNetworkPolicyProtocol) []string {
	effect := "the rule denies everything that comes to it"
	if action == policyv1alpha2.ClusterNetworkPolicyRuleActionAccept {
		effect = "the rule matches nothing"
	}
	var out []string
	for i, p := range peers {
		if err := new(peerList).parseCluster(p); !errors.Is(err, errUnknown) {
			continue
		}
		why := "has no field that is known"
		if len(p.DomainNames) > 0 {
			why = "has domainNames, which are not resolved"
		}
		out = append(out, fmt.Sprintf("%s.%s[%d] %s: %s", rule, side, i, why, effect))
	}
	for i, p := range protocols {
		if p.TCP == nil && p.UDP == nil && p.SCTP == nil && p.DestinationNamedPort == "" {
			out = append(out, fmt.Sprintf("%s.protocols[%d] has no field that is known: %s", rule, i, effect))
		}
	}
	return out
}
