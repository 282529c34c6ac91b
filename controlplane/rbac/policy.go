// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"maps"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
)

const (
	bootstrapLabel   = "kubernetes.io/bootstrapping"
	aggregatePrefix  = "rbac.authorization.k8s.io/aggregate-to-"
	monitoringGroup  = "system:monitoring"
	serviceAccounts  = "system:serviceaccounts"
	kubeSystem       = "kube-system"
	controllerName   = "system:kube-controller-manager"
	schedulerName    = "system:kube-scheduler"
	dnsRole          = "system:coredns"
	dnsAccount       = "coredns"
	nodeRole         = "system:node"
	issuerDiscovery  = "system:service-account-issuer-discovery"
	publicInfoViewer = "system:public-info-viewer"
)

var (
	read  = []string{"get", "list", "watch"}
	write = []string{"create", "delete", "deletecollection", "patch", "update"}
)

func on(group string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: resources}
}

func rule(verbs []string, of rbacv1.PolicyRule) rbacv1.PolicyRule {
	of.Verbs = verbs
	return of
}

func urls(verbs []string, paths ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: verbs, NonResourceURLs: paths}
}

func clusterRole(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: bootstrapMeta(name), Rules: rules}
}

func bootstrapMeta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name:        name,
		Labels:      map[string]string{bootstrapLabel: "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
}

// aggregated is a role that is the sum of those labelled for it; anybody may add to it by labelling a role of his own.
func aggregated(name string, alsoTo ...string) *rbacv1.ClusterRole {
	role := clusterRole(name)
	role.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
		{MatchLabels: map[string]string{aggregatePrefix + name: "true"}},
	}}
	return into(role, alsoTo...)
}

func into(role *rbacv1.ClusterRole, names ...string) *rbacv1.ClusterRole {
	for _, name := range names {
		role.Labels[aggregatePrefix+name] = "true"
	}
	return role
}

// ClusterRoles returns the roles that every cluster has.
func ClusterRoles() []*rbacv1.ClusterRole {
	roles := slices.Concat(discoveryRoles(), userRoles(), componentRoles())
	for _, role := range roles {
		if role.AggregationRule != nil {
			// What it is now, for whoever reads it; the authorizer follows the rule.
			role.Rules = Aggregate(role, roles)
		}
	}
	return roles
}

func discoveryRoles() []*rbacv1.ClusterRole {
	get := []string{"get"}
	return []*rbacv1.ClusterRole{
		clusterRole("system:discovery", urls(get, "/livez", "/readyz", "/healthz", "/version", "/version/",
			"/openapi", "/openapi/*", "/api", "/api/*", "/apis", "/apis/*")),
		clusterRole(publicInfoViewer, urls(get, "/livez", "/readyz", "/healthz", "/version", "/version/")),
		clusterRole("system:basic-user",
			rule([]string{"create"}, on("authorization.k8s.io", "selfsubjectaccessreviews", "selfsubjectrulesreviews")),
			rule([]string{"create"}, on("authentication.k8s.io", "selfsubjectreviews"))),
		clusterRole(issuerDiscovery, urls(get, "/.well-known/openid-configuration", "/.well-known/openid-configuration/", "/openid/v1/jwks", "/openid/v1/jwks/")),
		clusterRole(monitoringGroup, urls(get, "/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/metrics/slis", "/readyz", "/readyz/*")),
	}
}

func userRoles() []*rbacv1.ClusterRole {
	return []*rbacv1.ClusterRole{
		clusterRole("cluster-admin", everything()...),
		aggregated("admin"),
		aggregated("edit", "admin"),
		aggregated("view", "edit"),
		into(clusterRole("system:aggregate-to-view", viewRules()...), "view"),
		into(clusterRole("system:aggregate-to-edit", editRules()...), "edit"),
		into(clusterRole("system:aggregate-to-admin",
			rule([]string{"create"}, on("authorization.k8s.io", "localsubjectaccessreviews")),
			rule(slices.Concat(write, read), on("rbac.authorization.k8s.io", "roles", "rolebindings"))), "admin"),
	}
}

// viewRules leave out what lets a reader become somebody else: secrets, and roles that tell whom to attack.
func viewRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(read, on("", "configmaps", "endpoints", "persistentvolumeclaims", "persistentvolumeclaims/status", "pods",
			"replicationcontrollers", "replicationcontrollers/scale", "serviceaccounts", "services", "services/status")),
		rule(read, on("", "bindings", "events", "limitranges", "namespaces/status", "pods/log", "pods/status",
			"replicationcontrollers/status", "resourcequotas", "resourcequotas/status")),
		rule(read, on("", "namespaces")),
		rule(read, on("discovery.k8s.io", "endpointslices")),
		rule(read, on("events.k8s.io", "events")),
		rule(read, on("apps", "controllerrevisions", "daemonsets", "daemonsets/status", "deployments", "deployments/scale",
			"deployments/status", "replicasets", "replicasets/scale", "replicasets/status", "statefulsets", "statefulsets/scale", "statefulsets/status")),
		rule(read, on("autoscaling", "horizontalpodautoscalers", "horizontalpodautoscalers/status")),
		rule(read, on("batch", "cronjobs", "cronjobs/status", "jobs", "jobs/status")),
		rule(read, on("policy", "poddisruptionbudgets", "poddisruptionbudgets/status")),
		rule(read, on("networking.k8s.io", "ingresses", "ingresses/status", "networkpolicies")),
	}
}

func editRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(read, on("", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy")),
		rule([]string{"impersonate"}, on("", "serviceaccounts")),
		rule(write, on("", "pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy")),
		rule([]string{"create"}, on("", "pods/eviction")),
		rule(write, on("", "configmaps", "events", "persistentvolumeclaims", "replicationcontrollers", "replicationcontrollers/scale",
			"secrets", "serviceaccounts", "services", "services/proxy")),
		rule([]string{"create"}, on("", "serviceaccounts/token")),
		rule(write, on("apps", "daemonsets", "deployments", "deployments/rollback", "deployments/scale", "replicasets",
			"replicasets/scale", "statefulsets", "statefulsets/scale")),
		rule(write, on("autoscaling", "horizontalpodautoscalers")),
		rule(write, on("batch", "cronjobs", "jobs")),
		rule(write, on("policy", "poddisruptionbudgets")),
		rule(write, on("networking.k8s.io", "ingresses", "networkpolicies")),
		rule(slices.Concat(write, read), on("coordination.k8s.io", "leases")),
	}
}

func componentRoles() []*rbacv1.ClusterRole {
	return []*rbacv1.ClusterRole{
		clusterRole(nodeRole, nodeRules()...),
		clusterRole(dnsRole,
			rule(read, on("", "services", "endpoints", "pods", "namespaces")),
			rule(read, on("discovery.k8s.io", "endpointslices")),
			rule([]string{"get"}, on("", "nodes"))),
		clusterRole(controllerName, controllerRules()...),
		clusterRole(schedulerName, schedulerRules()...),
		clusterRole("system:auth-delegator",
			rule([]string{"create"}, on("authentication.k8s.io", "tokenreviews")),
			rule([]string{"create"}, on("authorization.k8s.io", "subjectaccessreviews"))),
		clusterRole("system:kubelet-api-admin",
			rule(read, on("", "nodes")),
			rule([]string{"proxy"}, on("", "nodes")),
			rule([]string{"*"}, on("", "nodes/log", "nodes/metrics", "nodes/proxy", "nodes/stats"))),
		clusterRole("system:node-proxier",
			rule([]string{"list", "watch"}, on("", "services", "endpoints")),
			rule(read, on("", "nodes")),
			rule([]string{"list", "watch"}, on("discovery.k8s.io", "endpointslices")),
			eventRule("events.k8s.io"), eventRule("")),
	}
}

func eventRule(group string) rbacv1.PolicyRule {
	return rule([]string{"create", "patch", "update"}, on(group, "events"))
}

// nodeRules are what an agent needs. They hold for every node alike: a node may read every secret until an authorizer
// that knows which pods run where narrows it.
func nodeRules() []rbacv1.PolicyRule {
	create := []string{"create"}
	return []rbacv1.PolicyRule{
		rule(create, on("authentication.k8s.io", "tokenreviews")),
		rule(create, on("authorization.k8s.io", "subjectaccessreviews", "localsubjectaccessreviews")),
		rule([]string{"create", "get", "list", "watch", "update", "patch"}, on("", "nodes")),
		rule([]string{"update", "patch"}, on("", "nodes/status")),
		rule([]string{"create", "get", "list", "watch", "delete"}, on("", "pods")),
		rule([]string{"get", "update", "patch"}, on("", "pods/status")),
		rule(create, on("", "pods/eviction")),
		rule(read, on("", "services", "endpoints", "namespaces")),
		rule(read, on("discovery.k8s.io", "endpointslices")),
		rule(read, on("networking.k8s.io", "networkpolicies")),
		rule(read, on("policy.networking.k8s.io", "clusternetworkpolicies")),
		rule(read, on("", "configmaps", "secrets")),
		rule([]string{"get"}, on("", "serviceaccounts", "persistentvolumeclaims", "persistentvolumes")),
		rule(create, on("", "serviceaccounts/token")),
		rule([]string{"create", "get", "update", "patch", "delete"}, on("coordination.k8s.io", "leases")),
		rule([]string{"create", "get", "list", "watch"}, on("certificates.k8s.io", "certificatesigningrequests")),
		eventRule(""), eventRule("events.k8s.io"),
	}
}

func controllerRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		eventRule(""), eventRule("events.k8s.io"),
		rule([]string{"create", "get", "update", "patch"}, on("coordination.k8s.io", "leases")),
		rule([]string{"create"}, on("", "secrets", "serviceaccounts")),
		rule([]string{"delete"}, on("", "secrets")),
		rule([]string{"get"}, on("", "configmaps", "namespaces", "secrets", "serviceaccounts")),
		rule([]string{"update"}, on("", "secrets", "serviceaccounts")),
		rule([]string{"create"}, on("authentication.k8s.io", "tokenreviews")),
		rule([]string{"create"}, on("authorization.k8s.io", "subjectaccessreviews")),
		rule([]string{"list", "watch"}, on("*", "*")),
		rule([]string{"create"}, on("", "serviceaccounts/token")),
	}
}

func schedulerRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		eventRule(""), eventRule("events.k8s.io"),
		rule([]string{"create", "get", "update", "patch", "list", "watch"}, on("coordination.k8s.io", "leases")),
		rule(read, on("", "nodes", "namespaces", "services", "replicationcontrollers", "persistentvolumeclaims", "persistentvolumes")),
		rule([]string{"delete", "get", "list", "watch"}, on("", "pods")),
		rule([]string{"create"}, on("", "bindings", "pods/binding")),
		rule([]string{"patch", "update"}, on("", "pods/status")),
		rule(read, on("apps", "replicasets", "statefulsets")),
		rule(read, on("policy", "poddisruptionbudgets")),
		rule(read, on("storage.k8s.io", "csinodes", "storageclasses", "csidrivers", "csistoragecapacities")),
		rule([]string{"create"}, on("authentication.k8s.io", "tokenreviews")),
		rule([]string{"create"}, on("authorization.k8s.io", "subjectaccessreviews")),
	}
}

// ClusterRoleBindings returns the bindings of them.
func ClusterRoleBindings() []*rbacv1.ClusterRoleBinding {
	group := func(names ...string) (subjects []rbacv1.Subject) {
		for _, name := range names {
			subjects = append(subjects, rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: name})
		}
		return subjects
	}
	one := func(name string) []rbacv1.Subject {
		return []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: name}}
	}
	bound := map[string][]rbacv1.Subject{
		"cluster-admin":     group(user.SystemPrivilegedGroup),
		"system:discovery":  group(user.AllAuthenticated),
		"system:basic-user": group(user.AllAuthenticated),
		publicInfoViewer:    group(user.AllAuthenticated, user.AllUnauthenticated),
		issuerDiscovery:     group(serviceAccounts),
		monitoringGroup:     group(monitoringGroup),
		nodeRole:            group(user.NodesGroup),
		controllerName:      one(user.KubeControllerManager),
		schedulerName:       one(user.KubeScheduler),
		dnsRole:             {{Kind: rbacv1.ServiceAccountKind, Namespace: kubeSystem, Name: dnsAccount}},
	}
	var bindings []*rbacv1.ClusterRoleBinding
	for _, role := range slices.Sorted(maps.Keys(bound)) {
		bindings = append(bindings, &rbacv1.ClusterRoleBinding{
			ObjectMeta: bootstrapMeta(role),
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   bound[role],
		})
	}
	return bindings
}
