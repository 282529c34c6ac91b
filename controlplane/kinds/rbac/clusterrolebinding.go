// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"skep.dev/skep/controlplane/kinds"
)

// ClusterRoleBinding is the kind ClusterRoleBinding.
func ClusterRoleBinding() kinds.Kind {
	return kinds.Define(&rbacv1.ClusterRoleBindingList{}, kinds.Def[*rbacv1.ClusterRoleBinding]{
		GroupVersion:        rbacv1.SchemeGroupVersion,
		Kind:                "ClusterRoleBinding",
		Resource:            "clusterrolebindings",
		ClusterScoped:       true,
		NoGeneration:        true,
		AllowCreateOnUpdate: true,
	})
}
