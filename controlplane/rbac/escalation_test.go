// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
)

func TestNobodyGrantsWhatHeDoesNotHold(t *testing.T) {
	f := standard()
	bind(f, "web", "ClusterRole", "admin", person("ada"))
	f.clusterRoles = append(f.clusterRoles,
		clusterRole("binder", rbacv1.PolicyRule{Verbs: []string{"bind"}, APIGroups: []string{rbacv1.GroupName}, Resources: []string{"clusterroles"}, ResourceNames: []string{"cluster-admin", "later"}}),
		clusterRole("escalator", rbacv1.PolicyRule{Verbs: []string{"escalate"}, APIGroups: []string{rbacv1.GroupName}, Resources: []string{"roles"}}))
	bind(f, "web", "ClusterRole", "binder", person("bea"))
	bind(f, "web", "ClusterRole", "escalator", person("esc"))
	f.roles = []*rbacv1.Role{{ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "own"}, Rules: []rbacv1.PolicyRule{rule(read, on("", "pods"))}}}
	authz := New(f)
	check := NewEscalationCheck(authz, authz)

	role := func(rules ...rbacv1.PolicyRule) *rbacv1.Role {
		return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "r"}, Rules: rules}
	}
	binding := func(kind, name string) *rbacv1.RoleBinding {
		return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "b"}, Subjects: []rbacv1.Subject{person("x")},
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}}
	}
	everybody := aggregated("everything")
	nodes := rule(read, on("", "nodes"))
	for _, tc := range []struct {
		name    string
		who     string
		object  runtime.Object
		old     runtime.Object
		refused string
	}{
		{"a role with rights that he holds", "ada", role(rule(read, on("", "pods", "secrets"))), nil, ""},
		{"a role with rights that he does not hold", "ada", role(nodes), nil, `user "ada" (groups=["system:authenticated"]) is attempting to grant RBAC permissions not currently held:`},
		{"the missing rights are listed", "ada", role(nodes), nil, `{APIGroups:[""], Resources:["nodes"], Verbs:["watch"]}`},
		{"a label on a role that he could not write", "ada", role(nodes), role(nodes), ""},
		{"more in a role that he could not write", "ada", role(nodes, rule(read, on("", "pods"))), role(nodes), "not currently held"},
		{"a binding to a role that he holds", "ada", binding("Role", "own"), nil, ""},
		{"a binding to edit", "ada", binding("ClusterRole", "edit"), nil, ""},
		{"a binding to cluster-admin", "ada", binding("ClusterRole", "cluster-admin"), nil, "not currently held"},
		{"a binding to a role that does not exist", "ada", binding("ClusterRole", "later"), nil, "not found"},
		{"bind lets him bind", "bea", binding("ClusterRole", "cluster-admin"), nil, ""},
		{"bind lets him bind ahead of the role", "bea", binding("ClusterRole", "later"), nil, ""},
		{"bind holds for the named roles", "bea", binding("ClusterRole", "admin"), nil, "not currently held"},
		{"escalate lets him write roles", "esc", role(nodes), nil, ""},
		{"an aggregation rule counts as everything", "ada", everybody, nil, "not currently held"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			resource, namespace := "roles", "web"
			switch tc.object.(type) {
			case *rbacv1.RoleBinding:
				resource = "rolebindings"
			case *rbacv1.ClusterRole:
				resource, namespace = "clusterroles", ""
			}
			operation := admission.Create
			if tc.old != nil {
				operation = admission.Update
			}
			a := admission.NewAttributesRecord(tc.object, tc.old, rbacv1.SchemeGroupVersion.WithKind("x"), namespace, "r",
				rbacv1.SchemeGroupVersion.WithResource(resource), "", operation, nil, false, asPerson(tc.who))
			err := check.Validate(t.Context(), a, nil)
			switch {
			case tc.refused == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tc.refused != "" && (err == nil || !strings.Contains(err.Error(), tc.refused)):
				t.Errorf("error = %v, want one with %q", err, tc.refused)
			}
		})
	}
	t.Run("masters may grant anything", func(t *testing.T) {
		root := &user.DefaultInfo{Name: "root", Groups: []string{user.SystemPrivilegedGroup}}
		a := admission.NewAttributesRecord(role(nodes), nil, rbacv1.SchemeGroupVersion.WithKind("Role"), "web", "r",
			rbacv1.SchemeGroupVersion.WithResource("roles"), "", admission.Create, nil, false, root)
		if err := NewEscalationCheck(New(&fixed{}), New(&fixed{})).Validate(t.Context(), a, nil); err != nil {
			t.Error(err)
		}
	})
}
