// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// tooMany is one rule more than the rules of a pod in one direction may be.
const tooMany = 16385

// TestPolicyStatus follows a policy that is in force, then is too large, then is not.
func TestPolicyStatus(t *testing.T) {
	const ns = "policystatus"
	namespace(t, ns)
	createPods(t, ns, probePod("web-1", nodeName(1), map[string]string{"app": "web"}), probePod("web-2", nodeName(2), map[string]string{"app": "web"}))
	policies := client.NetworkingV1().NetworkPolicies(ns)
	withPolicy(t, ns, allow("web", "web", "front"), func() {
		out := kubectl(t, "policy", "status", "web", "-n", ns, "--wait", "--timeout", "20s")
		if !strings.HasPrefix(out, "enforced on 2/2 nodes, p99 ") {
			t.Errorf("no latency on two nodes in:\n%s", out)
		}
		resize := func(rules int) {
			policy, err := policies.Get(t.Context(), "web", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			policy.Spec.Ingress = nil
			for i := range rules {
				port := intstr.FromInt(i + 1)
				policy.Spec.Ingress = append(policy.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{Ports: []networkingv1.NetworkPolicyPort{{Port: &port}}})
			}
			if _, err := policies.Update(t.Context(), policy, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		resize(tooMany)
		eventually(t, 20*time.Second, func() error { return unenforced(t, corev1.ConditionTrue, ns+"/web") })
		eventually(t, 20*time.Second, func() error { return sawEvent(t, ns, "NotEnforced") })
		out, err := tryKubectl(t, "policy", "status", "-n", ns)
		if err == nil || !strings.Contains(out, "0/2") || !strings.Contains(out, "TooManyRules") {
			t.Errorf("%v:\n%s", err, out)
		}
		withPolicy(t, ns, allow("another", "web", ""), func() {
			kubectl(t, "policy", "status", "another", "-n", ns, "--wait", "--timeout", "20s") // fails if it is not in force
		})
		resize(1)
		kubectl(t, "policy", "status", "web", "-n", ns, "--wait", "--timeout", "20s")
		eventually(t, 20*time.Second, func() error { return unenforced(t, corev1.ConditionFalse, "every policy is in force") })
		eventually(t, 20*time.Second, func() error { return sawEvent(t, ns, "Enforced") })
	})
}

// unenforced looks at the condition of both nodes.
func unenforced(t *testing.T, want corev1.ConditionStatus, message string) error {
	t.Helper()
	for i := range 2 {
		node, err := client.CoreV1().Nodes().Get(t.Context(), nodeName(i+1), metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range node.Status.Conditions {
			if c.Type == "NetworkPolicyUnenforced" && (c.Status != want || !strings.Contains(c.Message, message)) {
				return fmt.Errorf("node %s: %s is %s: %s", node.Name, c.Type, c.Status, c.Message)
			}
		}
	}
	return nil
}

func sawEvent(t *testing.T, ns, reason string) error {
	t.Helper()
	events, err := client.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.kind=NetworkPolicy,involvedObject.name=web"})
	if err != nil {
		return err
	}
	for _, e := range events.Items {
		if e.Reason == reason {
			return nil
		}
	}
	return fmt.Errorf("no event %s among %d", reason, len(events.Items))
}

// TestPolicyCommandsNeedPermission asks as users who may not, and who may.
func TestPolicyCommandsNeedPermission(t *testing.T) {
	for _, command := range []string{"stats", "status"} {
		if out, err := tryKubectl(t, "policy", command, "--as", "stranger"); err == nil || !strings.Contains(out, "forbidden") {
			t.Errorf("%s: %v:\n%s", command, err, out)
		}
	}
	name := metav1.ObjectMeta{Name: "policy-readers"}
	roles := client.RbacV1()
	_, err := roles.ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: name, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"list"}},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = roles.ClusterRoles().Delete(t.Context(), name.Name, metav1.DeleteOptions{}) }()
	_, err = roles.ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: name,
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name.Name},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "reader"}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = roles.ClusterRoleBindings().Delete(t.Context(), name.Name, metav1.DeleteOptions{}) }()
	// Who may list nodes may not ask them.
	eventually(t, 10*time.Second, func() error {
		out, err := tryKubectl(t, "policy", "stats", "--as", "reader")
		if err == nil {
			t.Fatalf("the nodes answered:\n%s", out)
		}
		if !strings.Contains(out, "nodes/proxy") {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	role, err := roles.ClusterRoles().Get(t.Context(), name.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	role.Rules = append(role.Rules, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"nodes/proxy"}, Verbs: []string{"get"}})
	if _, err := roles.ClusterRoles().Update(t.Context(), role, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, func() error {
		out, err := tryKubectl(t, "policy", "stats", "--as", "reader")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// TestConditionsOfClusterPolicies waits for what the server writes into the status.
func TestConditionsOfClusterPolicies(t *testing.T) {
	const subject = "tier: Baseline, priority: 9, subject: {namespaces: {matchLabels: {nobody: here}}}"
	condition := func(kind, field string) string {
		return kubectl(t, "get", "cnp", "conditioned", "-o", `jsonpath={.status.conditions[?(@.type=="skep.dev/`+kind+`")].`+field+"}")
	}
	withClusterPolicy(t, "conditioned", "{"+subject+", egress: [{action: Accept, to: [{domainNames: [example.org]}]}]}", func() {
		eventually(t, 20*time.Second, func() error {
			status, message, understood := condition("Enforced", "status"), condition("Enforced", "message"), condition("Understood", "message")
			if status != "True" || message != "enforced on 2/2 nodes" || !strings.Contains(understood, "domainNames") {
				return fmt.Errorf("%s: %q, %q", status, message, understood)
			}
			return nil
		})
	})
}
