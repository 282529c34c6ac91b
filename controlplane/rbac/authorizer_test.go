// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"errors"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// fixed is a Source that a test writes down.
type fixed struct {
	roles               []*rbacv1.Role
	roleBindings        []*rbacv1.RoleBinding
	clusterRoles        []*rbacv1.ClusterRole
	clusterRoleBindings []*rbacv1.ClusterRoleBinding
	bindingsErr         error
}

func (f *fixed) Role(namespace, name string) (*rbacv1.Role, error) {
	for _, r := range f.roles {
		if r.Namespace == namespace && r.Name == name {
			return r, nil
		}
	}
	return nil, apierrors.NewNotFound(rbacv1.Resource("roles"), name)
}

func (f *fixed) RoleBindings(namespace string) ([]*rbacv1.RoleBinding, error) {
	var in []*rbacv1.RoleBinding
	for _, b := range f.roleBindings {
		if b.Namespace == namespace {
			in = append(in, b)
		}
	}
	return in, nil
}

func (f *fixed) ClusterRole(name string) (*rbacv1.ClusterRole, error) {
	for _, r := range f.clusterRoles {
		if r.Name == name {
			return r, nil
		}
	}
	return nil, apierrors.NewNotFound(rbacv1.Resource("clusterroles"), name)
}

func (f *fixed) ClusterRoles() ([]*rbacv1.ClusterRole, error) { return f.clusterRoles, nil }

func (f *fixed) ClusterRoleBindings() ([]*rbacv1.ClusterRoleBinding, error) {
	return f.clusterRoleBindings, f.bindingsErr
}

// standard is the cluster as Bootstrap leaves it.
func standard() *fixed {
	return &fixed{clusterRoles: ClusterRoles(), clusterRoleBindings: ClusterRoleBindings()}
}

func bind(f *fixed, namespace, kind, role string, subject rbacv1.Subject) {
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role}
	if namespace == "" {
		f.clusterRoleBindings = append(f.clusterRoleBindings, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "b-" + role}, RoleRef: ref, Subjects: []rbacv1.Subject{subject}})
		return
	}
	f.roleBindings = append(f.roleBindings, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "b-" + role}, RoleRef: ref, Subjects: []rbacv1.Subject{subject}})
}

func person(name string) rbacv1.Subject { return rbacv1.Subject{Kind: rbacv1.UserKind, Name: name} }

func account(namespace, name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}
}

func asPerson(name string) user.Info {
	return &user.DefaultInfo{Name: name, Groups: []string{user.AllAuthenticated}}
}

func asNode(name string) user.Info {
	return &user.DefaultInfo{Name: "system:node:" + name, Groups: []string{user.NodesGroup, user.AllAuthenticated}}
}

func asAccount(namespace, name string) user.Info {
	return &user.DefaultInfo{Name: "system:serviceaccount:" + namespace + ":" + name,
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, user.AllAuthenticated}}
}

// request reads "get pods", "create pods/exec in web", "get apps/deployments named front in web", "get /healthz".
func request(t *testing.T, u user.Info, words string) authorizer.Attributes {
	t.Helper()
	f := strings.Fields(words)
	a := authorizer.AttributesRecord{User: u, Verb: f[0]}
	if strings.HasPrefix(f[1], "/") {
		a.Path = f[1]
		return a
	}
	a.ResourceRequest = true
	a.APIGroup, a.Resource, _ = strings.Cut(f[1], ":")
	if a.Resource == "" {
		a.APIGroup, a.Resource = "", f[1]
	}
	a.Resource, a.Subresource, _ = strings.Cut(a.Resource, "/")
	for i := 2; i+1 < len(f); i += 2 {
		switch f[i] {
		case "in":
			a.Namespace = f[i+1]
		case "named":
			a.Name = f[i+1]
		default:
			t.Fatalf("request %q: %q is not understood", words, f[i])
		}
	}
	return a
}

func TestStandardRolesGrantWhatEachNeedsAndNoMore(t *testing.T) {
	f := standard()
	bind(f, "web", "ClusterRole", "admin", person("ada"))
	bind(f, "web", "ClusterRole", "edit", person("eve"))
	bind(f, "web", "ClusterRole", "view", person("vic"))
	bind(f, "", "ClusterRole", "cluster-admin", person("root"))
	a := New(f)
	masters := &user.DefaultInfo{Name: "anybody", Groups: []string{user.SystemPrivilegedGroup}}
	anonymous := &user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}
	dns := asAccount("kube-system", "coredns")

	for _, tc := range []struct {
		who   user.Info
		what  string
		allow bool
	}{
		{masters, "delete nodes named n1", true},
		{masters, "get /metrics", true},
		{asPerson("root"), "create example.com:anything in x", true},

		{asPerson("vic"), "list pods in web", true},
		{asPerson("vic"), "get pods/log named p in web", true},
		{asPerson("vic"), "watch apps:deployments in web", true},
		{asPerson("vic"), "list networking.k8s.io:networkpolicies in web", true},
		{asPerson("vic"), "get secrets named s in web", false},
		{asPerson("vic"), "delete pods named p in web", false},
		{asPerson("vic"), "list pods in shop", false},
		{asPerson("vic"), "list pods", false},
		{asPerson("vic"), "create pods/exec named p in web", false},

		{asPerson("eve"), "list pods in web", true},
		{asPerson("eve"), "create pods/exec named p in web", true},
		{asPerson("eve"), "patch apps:deployments/scale named d in web", true},
		{asPerson("eve"), "get secrets named s in web", true},
		{asPerson("eve"), "create pods/eviction named p in web", true},
		{asPerson("eve"), "create rbac.authorization.k8s.io:rolebindings in web", false},
		{asPerson("eve"), "get nodes named n1", false},

		{asPerson("ada"), "create rbac.authorization.k8s.io:rolebindings in web", true},
		{asPerson("ada"), "delete services named s in web", true},
		{asPerson("ada"), "create rbac.authorization.k8s.io:rolebindings in shop", false},
		{asPerson("ada"), "update namespaces named web", false},

		{asPerson("nobody"), "get /version", true},
		{asPerson("nobody"), "get /apis/apps/v1", true},
		{asPerson("nobody"), "create authorization.k8s.io:selfsubjectaccessreviews", true},
		{asPerson("nobody"), "get /metrics", false},
		{asPerson("nobody"), "list pods in web", false},
		{anonymous, "get /healthz", true},
		{anonymous, "get /apis", false},

		{asNode("n1"), "patch nodes/status named n1", true},
		{asNode("n1"), "patch pods/status named p in web", true},
		{asNode("n1"), "delete pods named p in web", true},
		{asNode("n1"), "watch discovery.k8s.io:endpointslices", true},
		{asNode("n1"), "watch networking.k8s.io:networkpolicies", true},
		{asNode("n1"), "watch namespaces", true},
		{asNode("n1"), "get secrets named s in web", true},
		{asNode("n1"), "create serviceaccounts/token named default in web", true},
		{asNode("n1"), "create events in web", true},
		{asNode("n1"), "update coordination.k8s.io:leases named n1 in kube-node-lease", true},
		{asNode("n1"), "create authentication.k8s.io:tokenreviews", true},
		{asNode("n1"), "create authorization.k8s.io:subjectaccessreviews", true},
		{asNode("n1"), "delete nodes named n2", false},
		{asNode("n1"), "create apps:deployments in web", false},
		{asNode("n1"), "update secrets named s in web", false},
		{asNode("n1"), "update pods named p in web", false},

		{dns, "watch services", true},
		{dns, "list discovery.k8s.io:endpointslices", true},
		{dns, "get nodes named n1", true},
		{dns, "list secrets", false},
		{asAccount("web", "coredns"), "watch services", false},

		{&user.DefaultInfo{Name: user.KubeScheduler}, "create pods/binding named p in web", true},
		{&user.DefaultInfo{Name: user.KubeScheduler}, "delete services named s in web", false},
		{&user.DefaultInfo{Name: user.KubeControllerManager}, "list example.com:things", true},
		{&user.DefaultInfo{Name: user.KubeControllerManager}, "delete example.com:things named x", false},
	} {
		decision, reason, err := a.Authorize(t.Context(), request(t, tc.who, tc.what))
		if err != nil {
			t.Errorf("%s, %s: %v", tc.who.GetName(), tc.what, err)
		}
		if got := decision == authorizer.DecisionAllow; got != tc.allow {
			t.Errorf("%s, %s: allowed = %v (%s), want %v", tc.who.GetName(), tc.what, got, reason, tc.allow)
		}
		if decision == authorizer.DecisionDeny {
			t.Errorf("%s, %s: RBAC denies, which would stop other authorizers", tc.who.GetName(), tc.what)
		}
	}
}

func TestRulesMatch(t *testing.T) {
	r := func(groups, resources, names, verbs string) rbacv1.PolicyRule {
		split := func(s string) []string {
			if s == "-" {
				return nil
			}
			return strings.Split(s, ",")
		}
		return rbacv1.PolicyRule{APIGroups: split(groups), Resources: split(resources), ResourceNames: split(names), Verbs: split(verbs)}
	}
	u := asPerson("x")
	for _, tc := range []struct {
		rule rbacv1.PolicyRule
		what string
		want bool
	}{
		{r("", "pods", "-", "get"), "get pods in a", true},
		{r("", "pods", "-", "get"), "get pods/log in a", false},
		{r("", "pods/log", "-", "get"), "get pods in a", false},
		{r("", "pods/log", "-", "get"), "get pods/log in a", true},
		{r("", "*", "-", "get"), "get pods/log in a", true},
		{r("*", "*/scale", "-", "*"), "patch apps:deployments/scale in a", true},
		{r("*", "*/scale", "-", "*"), "patch apps:deployments in a", false},
		{r("apps", "deployments", "-", "get"), "get deployments in a", false},
		{r("", "secrets", "s1,s2", "get"), "get secrets named s2 in a", true},
		{r("", "secrets", "s1,s2", "get"), "get secrets named s3 in a", false},
		{r("", "secrets", "s1", "list"), "list secrets in a", false},
		{rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/logs/*"}}, "get /logs/a/b", true},
		{rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/logs/*"}}, "get /logs", false},
		{rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"*"}}, "get pods in a", false},
		{r("*", "*", "-", "*"), "get /metrics", false},
	} {
		if got := allows(&tc.rule, request(t, u, tc.what)); got != tc.want {
			t.Errorf("%v, %s: %v, want %v", tc.rule, tc.what, got, tc.want)
		}
	}
}

func TestABindingHoldsInItsNamespaceOnly(t *testing.T) {
	f := &fixed{roles: []*rbacv1.Role{
		{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "reader"}, Rules: []rbacv1.PolicyRule{rule(read, on("", "pods"))}},
		{ObjectMeta: metav1.ObjectMeta{Namespace: "b", Name: "reader"}, Rules: []rbacv1.PolicyRule{rule(read, on("", "services"))}},
	}}
	bind(f, "a", "Role", "reader", account("", "bot")) // the namespace of the binding completes it
	bind(f, "b", "Role", "reader", account("a", "bot"))
	bind(f, "", "Role", "reader", person("p")) // validation keeps it out; it grants nothing
	a := New(f)
	for what, want := range map[string]bool{"get pods in a": true, "get services in a": false, "get pods in b": false, "get services in b": true} {
		decision, _, _ := a.Authorize(t.Context(), request(t, asAccount("a", "bot"), what))
		if (decision == authorizer.DecisionAllow) != want {
			t.Errorf("%s: %v, want %v", what, decision, want)
		}
	}
	if decision, _, _ := a.Authorize(t.Context(), request(t, asPerson("p"), "get pods in a")); decision == authorizer.DecisionAllow {
		t.Error("a ClusterRoleBinding to a Role grants something")
	}
}

func TestAggregationFollowsLabelsAtOnce(t *testing.T) {
	f := standard()
	bind(f, "web", "ClusterRole", "admin", person("ada"))
	a := New(f)
	what := request(t, asPerson("ada"), "create example.com:widgets in web")
	if decision, _, _ := a.Authorize(t.Context(), what); decision == authorizer.DecisionAllow {
		t.Fatal("allowed before any role says so")
	}
	// A role for editors reaches admins through two steps of aggregation.
	f.clusterRoles = append(f.clusterRoles, into(clusterRole("widgets", rule(write, on("example.com", "widgets"))), "edit"))
	if decision, reason, _ := a.Authorize(t.Context(), what); decision != authorizer.DecisionAllow {
		t.Errorf("not allowed after a role was labelled: %s", reason)
	}
}

func TestAggregationOfRolesThatSelectEachOtherEnds(t *testing.T) {
	x, y := aggregated("x", "y"), aggregated("y", "x")
	leaf := into(clusterRole("leaf", rule(read, on("", "pods"))), "y")
	if rules := Aggregate(x, []*rbacv1.ClusterRole{x, y, leaf}); len(rules) != 1 {
		t.Errorf("rules = %v, want the leaf's", rules)
	}
}

func TestFaultsOfTheSourceGrantNothingAndAreTold(t *testing.T) {
	f := standard()
	f.bindingsErr = errors.New("cache is empty")
	decision, reason, err := New(f).Authorize(t.Context(), request(t, asPerson("x"), "get pods in a"))
	if decision != authorizer.DecisionNoOpinion || err != nil || !strings.Contains(reason, "cache is empty") {
		t.Errorf("decision %v, reason %q, err %v", decision, reason, err)
	}
	decision, _, _ = New(&Late{}).Authorize(t.Context(), request(t, asPerson("x"), "get pods in a"))
	if decision != authorizer.DecisionNoOpinion {
		t.Errorf("a source that is not there yet: %v", decision)
	}
	var late Late
	late.Set(standard())
	if decision, _, _ := New(&late).Authorize(t.Context(), request(t, asNode("n"), "watch services")); decision != authorizer.DecisionAllow {
		t.Errorf("a source that has come: %v", decision)
	}
}

func TestRulesForListsWhatAUserMayDo(t *testing.T) {
	f := standard()
	bind(f, "web", "ClusterRole", "view", person("vic"))
	resources, urls, incomplete, err := New(f).RulesFor(t.Context(), asPerson("vic"), "web")
	if err != nil || incomplete {
		t.Fatalf("incomplete %v, err %v", incomplete, err)
	}
	found := false
	for _, r := range resources {
		for _, name := range r.GetResources() {
			found = found || name == "networkpolicies"
		}
	}
	if !found || len(urls) == 0 {
		t.Errorf("%d resource rules, %d URL rules, networkpolicies found = %v", len(resources), len(urls), found)
	}
	bind(f, "web", "ClusterRole", "gone", person("vic"))
	if _, _, incomplete, err := New(f).RulesFor(t.Context(), asPerson("vic"), "web"); !incomplete || err == nil {
		t.Error("a binding to a role that does not exist is not reported")
	}
}
