// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"slices"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func writes(client *fake.Clientset) int {
	n := 0
	for _, a := range client.Actions() {
		if a.GetVerb() != "get" {
			n++
		}
	}
	return n
}

func TestBootstrapCreatesOnceAndRepairsLater(t *testing.T) {
	client := fake.NewClientset()
	if err := Bootstrap(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	if got, want := writes(client), len(ClusterRoles())+len(ClusterRoleBindings()); got != want {
		t.Errorf("%d writes to an empty cluster, want %d", got, want)
	}
	client.ClearActions()
	if err := Bootstrap(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	if got := writes(client); got != 0 {
		t.Errorf("%d writes when nothing was to do", got)
	}

	roles := client.RbacV1().ClusterRoles()
	node, err := roles.Get(t.Context(), "system:node", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	extra := rule(read, on("example.com", "things"))
	node.Rules = []rbacv1.PolicyRule{extra}
	view, err := roles.Get(t.Context(), "system:coredns", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	view.Rules = nil
	view.Annotations[rbacv1.AutoUpdateAnnotationKey] = "false"
	for _, r := range []*rbacv1.ClusterRole{node, view} {
		if _, err := roles.Update(t.Context(), r, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := Bootstrap(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	if node, err = roles.Get(t.Context(), "system:node", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	if len(node.Rules) < 2 || node.Rules[0].String() != extra.String() {
		t.Errorf("system:node has %d rules, first %v: want the administrator's and the missing ones", len(node.Rules), node.Rules[0])
	}
	if view, err = roles.Get(t.Context(), "system:coredns", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	if len(view.Rules) != 0 {
		t.Error("a role that opted out was changed")
	}
}

func TestEachBindingHasItsRole(t *testing.T) {
	var names []string
	for _, r := range ClusterRoles() {
		if slices.Contains(names, r.Name) {
			t.Errorf("two roles %s", r.Name)
		}
		names = append(names, r.Name)
		if len(r.Rules) == 0 {
			t.Errorf("%s has no rules", r.Name)
		}
	}
	for _, b := range ClusterRoleBindings() {
		if !slices.Contains(names, b.RoleRef.Name) {
			t.Errorf("binding %s has no role %s", b.Name, b.RoleRef.Name)
		}
	}
}
