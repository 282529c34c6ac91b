// SPDX-License-Identifier: Apache-2.0

package policystatus

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	nodeutil "k8s.io/component-helpers/node/util"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"skep.dev/skep/enforcement"
)

// Types of conditions.
const (
	// Enforced says whether every Ready node has the policy in force as it is.
	Enforced = "skep.dev/Enforced"
	// Understood is False while some part of the policy is unknown to the nodes, which makes it open nothing. It is absent of a
	// policy of which that never was true.
	Understood = "skep.dev/Understood"
)

// Reasons of Enforced beside those of enforcement.Reason.
const (
	onAllNodes = "EnforcedOnAllNodes"
	audited    = "AuditedOnAllNodes"
	onItsWay   = "OnItsWay"
	noAnswer   = "NodeDoesNotAnswer"
)

// shownNodes is how many nodes a message names.
const shownNodes = 3

// answer is what one node says of the policies of the cluster, by name, or why it says nothing.
type answer struct {
	node     string
	policies map[string]enforcement.Policy
	err      error
}

// readyNodes names those that are asked, in order. trouble says that one of them has a policy that is not in force.
func readyNodes(all []*corev1.Node) (ready []string, trouble bool) {
	is := func(n *corev1.Node, kind corev1.NodeConditionType) bool {
		_, c := nodeutil.GetNodeCondition(&n.Status, kind)
		return c != nil && c.Status == corev1.ConditionTrue
	}
	for _, n := range all {
		if is(n, corev1.NodeReady) {
			ready = append(ready, n.Name)
			trouble = trouble || is(n, enforcement.NodeCondition)
		}
	}
	slices.Sort(ready)
	return ready, trouble
}

// anyStale says that the nodes have to be asked: some policy is not known to be in force as it is on so many nodes.
func anyStale(policies []policyv1alpha2.ClusterNetworkPolicy, nodes int) bool {
	return slices.ContainsFunc(policies, func(p policyv1alpha2.ClusterNetworkPolicy) bool {
		have, want := meta.FindStatusCondition(p.Status.Conditions, Enforced), good(&p, nodes)
		return have == nil || have.Status != want.Status || have.Reason != want.Reason || have.Message != want.Message ||
			have.ObservedGeneration != want.ObservedGeneration
	})
}

// good is the condition of a policy with which all is well.
func good(p *policyv1alpha2.ClusterNetworkPolicy, nodes int) metav1.Condition {
	c := metav1.Condition{
		Type: Enforced, Status: metav1.ConditionTrue, Reason: onAllNodes, ObservedGeneration: p.Generation,
		Message: fmt.Sprintf("enforced on %d/%d nodes", nodes, nodes),
	}
	if enforcement.VersionOf(p).Mode == enforcement.Audit {
		c.Reason, c.Message = audited, fmt.Sprintf("audited on %d/%d nodes", nodes, nodes)
	}
	return c
}

// conditionsOf gives a policy's conditions by what the nodes say, those of others included, and whether they differ from what it has.
func conditionsOf(p *policyv1alpha2.ClusterNetworkPolicy, said []answer) ([]metav1.Condition, bool) {
	conditions := slices.Clone(p.Status.Conditions)
	changed := meta.SetStatusCondition(&conditions, enforced(p, said))
	var unknown []string
	for _, a := range said {
		if n := a.policies[p.Name]; len(n.NotUnderstood) > 0 && n.Newest == enforcement.VersionOf(p) {
			unknown = n.NotUnderstood
		}
	}
	switch {
	case len(unknown) > 0:
		changed = meta.SetStatusCondition(&conditions, metav1.Condition{
			Type: Understood, Status: metav1.ConditionFalse, Reason: "FailsClosed", Message: strings.Join(unknown, "; "), ObservedGeneration: p.Generation,
		}) || changed
	case meta.FindStatusCondition(conditions, Understood) != nil:
		changed = meta.SetStatusCondition(&conditions, metav1.Condition{
			Type: Understood, Status: metav1.ConditionTrue, Reason: "Understood", Message: "every part is known", ObservedGeneration: p.Generation,
		}) || changed
	}
	return conditions, changed
}

func enforced(p *policyv1alpha2.ClusterNetworkPolicy, said []answer) metav1.Condition {
	want, c := enforcement.VersionOf(p), good(p, len(said))
	var faults []string
	for _, a := range said {
		n := a.policies[p.Name]
		reason, text := "", ""
		switch {
		case a.err != nil:
			reason, text = noAnswer, a.err.Error()
		case n.Enforced(want):
			continue
		case n.Reason != "":
			reason, text = string(n.Reason), n.Message
		default:
			reason, text = onItsWay, "has not got it in force yet"
		}
		if c.Status = metav1.ConditionFalse; len(faults) == 0 {
			c.Reason = reason
		}
		faults = append(faults, a.node+": "+text)
	}
	if len(faults) == 0 {
		return c
	}
	c.Message = fmt.Sprintf("on %d/%d nodes; %s", len(said)-len(faults), len(said), strings.Join(faults[:min(len(faults), shownNodes)], "; "))
	if more := len(faults) - shownNodes; more > 0 {
		c.Message += fmt.Sprintf(" and %d more", more)
	}
	return c
}
