// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"

	"skep.dev/skep/controlplane/kinds/kindtest"
)

func TestRulesAreChecked(t *testing.T) {
	type r = *rbacv1.Role
	valid := func() r {
		return &rbacv1.Role{Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}}}
	}
	kindtest.Create(t, Role(), valid, []struct {
		Name   string
		Change func(r)
		Want   []string
	}{
		{"a valid one", func(r) {}, nil},
		{"no verbs", func(x r) { x.Rules[0].Verbs = nil }, []string{"rules[0].verbs: Required value: verbs must contain at least one value"}},
		{"no groups", func(x r) { x.Rules[0].APIGroups = nil }, []string{"rules[0].apiGroups: Required value: resource rules must supply at least one api group"}},
		{"no resources", func(x r) { x.Rules[0].Resources = nil }, []string{"rules[0].resources: Required value: resource rules must supply at least one resource"}},
		{"URLs in a namespace", func(x r) { x.Rules[0] = rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/x"}} }, []string{`rules[0].nonResourceURLs: Invalid value: ["/x"]: namespaced rules cannot apply to non-resource URLs`}},
	})
	kindtest.Create(t, ClusterRole(), func() *rbacv1.ClusterRole { return &rbacv1.ClusterRole{} }, []struct {
		Name   string
		Change func(*rbacv1.ClusterRole)
		Want   []string
	}{
		{"no rules", func(*rbacv1.ClusterRole) {}, nil},
		{"URLs", func(x *rbacv1.ClusterRole) {
			x.Rules = []rbacv1.PolicyRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"/x"}}}
		}, nil},
		{"URLs and resources", func(x *rbacv1.ClusterRole) {
			x.Rules = []rbacv1.PolicyRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"/x"}, Resources: []string{"pods"}}}
		}, []string{`rules[0].nonResourceURLs: Invalid value: ["/x"]: rules cannot apply to both regular resources and non-resource URLs`}},
		{"aggregation of nothing", func(x *rbacv1.ClusterRole) { x.AggregationRule = &rbacv1.AggregationRule{} }, []string{"aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil"}},
	})
}

func TestBindingsAreChecked(t *testing.T) {
	type b = *rbacv1.RoleBinding
	type c struct {
		Name   string
		Change func(b)
		Want   []string
	}
	valid := func() b {
		return &rbacv1.RoleBinding{RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "system:node"}, Subjects: []rbacv1.Subject{
			{Kind: "User", Name: "ada"}, {Kind: "ServiceAccount", Name: "bot", Namespace: "web"}}}
	}
	kindtest.Create(t, RoleBinding(), valid, []c{
		{"a valid one", func(b) {}, nil},
		{"no role", func(x b) { x.RoleRef.Name = "" }, []string{"roleRef.name: Required value"}},
		{"a role of another kind", func(x b) { x.RoleRef.Kind = "Group" }, []string{`roleRef.kind: Unsupported value: "Group": supported values: "Role", "ClusterRole"`}},
		{"a subject of another kind", func(x b) { x.Subjects[0].Kind = "Robot" }, []string{`subjects[0].kind: Unsupported value: "Robot": supported values: "ServiceAccount", "User", "Group"`}},
		{"an account of no namespace", func(x b) { x.Subjects[1].Namespace = "" }, []string{"subjects[1].namespace: Required value"}},
	})
	kindtest.Update(t, RoleBinding(), valid, []c{
		{"subjects", func(x b) { x.Subjects = nil }, nil},
		{"the role", func(x b) { x.RoleRef.Name = "cluster-admin" }, []string{"roleRef: Invalid value: {"}},
	})
	x := valid()
	kindtest.DefaultsOnce(t, RoleBinding(), x)
	if x.RoleRef.APIGroup != rbacv1.GroupName || x.Subjects[0].APIGroup != rbacv1.GroupName || x.Subjects[1].APIGroup != "" {
		t.Errorf("defaults: %+v", x)
	}
	x.Name = "b"
	if d := cmp.Diff([]any{"b", "ClusterRole/system:node", "<unknown>", "ada", "", "web/bot"}, kindtest.Line(RoleBinding(), x, true)); d != "" {
		t.Error(d)
	}
}
