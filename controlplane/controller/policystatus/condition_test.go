// SPDX-License-Identifier: Apache-2.0

package policystatus

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"skep.dev/skep/enforcement"
)

func guard(generation int64, mode enforcement.Mode) *policyv1alpha2.ClusterNetworkPolicy {
	p := &policyv1alpha2.ClusterNetworkPolicy{}
	p.Name, p.UID, p.Generation = "guard", "u", generation
	p.Annotations = map[string]string{enforcement.Annotation: string(mode)}
	return p
}

func says(node string, newest, inForce *policyv1alpha2.ClusterNetworkPolicy, reason enforcement.Reason, unknown ...string) answer {
	p := enforcement.Policy{Name: "guard", Newest: enforcement.VersionOf(newest), Reason: reason, NotUnderstood: unknown}
	if inForce != nil {
		p.InForce = enforcement.VersionOf(inForce)
	}
	if reason != "" {
		p.Message = "why"
	}
	return answer{node: node, policies: map[string]enforcement.Policy{"guard": p}}
}

func shown(conditions []metav1.Condition) string {
	var out []string
	for _, c := range conditions {
		out = append(out, fmt.Sprintf("%s=%s %s %d: %s", strings.TrimPrefix(c.Type, "skep.dev/"), c.Status, c.Reason, c.ObservedGeneration, c.Message))
	}
	return strings.Join(out, " | ")
}

func TestConditions(t *testing.T) {
	one, two, audit := guard(1, "enforce"), guard(2, "enforce"), guard(2, "audit")
	for _, c := range []struct {
		name   string
		policy *policyv1alpha2.ClusterNetworkPolicy
		said   []answer
		want   string
	}{
		{"everywhere", two, []answer{says("a", two, two, ""), says("b", two, two, "")}, "Enforced=True EnforcedOnAllNodes 2: enforced on 2/2 nodes"},
		{"an older version", two, []answer{says("a", two, two, ""), says("b", one, one, "")}, "Enforced=False OnItsWay 2: on 1/2 nodes; b: has not got it in force yet"},
		{"refused", two, []answer{says("a", two, one, enforcement.NoRoom)}, "Enforced=False NoRoom 2: on 0/1 nodes; a: why"},
		{"not for all pods", two, []answer{says("a", two, two, enforcement.TooManyRules)}, "Enforced=False TooManyRules 2: on 0/1 nodes; a: why"},
		{"a silent node", two, []answer{says("a", two, two, ""), {node: "b", err: errors.New("timeout")}}, "Enforced=False NodeDoesNotAnswer 2: on 1/2 nodes; b: timeout"},
		{"unheard of", two, []answer{{node: "a"}}, "Enforced=False OnItsWay 2: on 0/1 nodes; a: has not got it in force yet"},
		{"audited", audit, []answer{says("a", audit, audit, "")}, "Enforced=True AuditedOnAllNodes 2: audited on 1/1 nodes"},
		{"enforced where it should be audited", audit, []answer{says("a", two, two, "")}, "Enforced=False OnItsWay 2: on 0/1 nodes; a: has not got it in force yet"},
		{"partly unknown", two, []answer{says("a", two, two, "", "spec.egress[0] has domainNames")},
			"Enforced=True EnforcedOnAllNodes 2: enforced on 1/1 nodes | Understood=False FailsClosed 2: spec.egress[0] has domainNames"},
	} {
		conditions, changed := conditionsOf(c.policy, c.said)
		if got := shown(conditions); got != c.want || !changed {
			t.Errorf("%s: %s (changed: %t), want %s", c.name, got, changed, c.want)
		}
		p := c.policy.DeepCopy()
		p.Status.Conditions = conditions
		if _, changed := conditionsOf(p, c.said); changed {
			t.Errorf("%s: the same answers are written twice", c.name)
		}
		if stale := anyStale([]policyv1alpha2.ClusterNetworkPolicy{*p}, len(c.said)); stale != strings.Contains(c.want, "Enforced=False") {
			t.Errorf("%s: nodes are asked again: %t", c.name, stale)
		}
	}
}

func TestConditionsOfOthersStayAndUnderstandingComesBack(t *testing.T) {
	p := guard(2, "enforce")
	p.Status.Conditions = []metav1.Condition{{Type: "Other", Status: metav1.ConditionTrue}, {Type: Understood, Status: metav1.ConditionFalse, ObservedGeneration: 1}}
	got, _ := conditionsOf(p, []answer{says("a", p, p, "")})
	if want := "Other=True  0:  | Understood=True Understood 2: every part is known | Enforced=True EnforcedOnAllNodes 2: enforced on 1/1 nodes"; shown(got) != want {
		t.Errorf("%s, want %s", shown(got), want)
	}
}

func TestNodesAreAskedWhenSomethingMayHaveChanged(t *testing.T) {
	p := guard(2, "enforce")
	p.Status.Conditions, _ = conditionsOf(p, []answer{says("a", p, p, "")})
	if anyStale([]policyv1alpha2.ClusterNetworkPolicy{*p}, 1) {
		t.Error("nothing has changed")
	}
	if !anyStale([]policyv1alpha2.ClusterNetworkPolicy{*p}, 2) {
		t.Error("a new node is not asked")
	}
	audit := p.DeepCopy()
	audit.Annotations[enforcement.Annotation] = "audit"
	newer := p.DeepCopy()
	newer.Generation++
	for name, changed := range map[string]*policyv1alpha2.ClusterNetworkPolicy{"mode": audit, "spec": newer} {
		if !anyStale([]policyv1alpha2.ClusterNetworkPolicy{*changed}, 1) {
			t.Errorf("a change of %s is not followed", name)
		}
	}
	node := func(name string, ready, unenforced corev1.ConditionStatus) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}, {Type: enforcement.NodeCondition, Status: unenforced}}
		return n
	}
	if ready, trouble := readyNodes([]*corev1.Node{node("b", "True", "False"), node("a", "True", "False"), node("c", "Unknown", "True")}); len(ready) != 2 || ready[0] != "a" || trouble {
		t.Errorf("%d nodes, trouble: %t", len(ready), trouble)
	}
	if _, trouble := readyNodes([]*corev1.Node{node("a", "True", "True")}); !trouble {
		t.Error("a node's trouble is not seen")
	}
}
