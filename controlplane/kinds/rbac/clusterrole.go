// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"skep.dev/skep/controlplane/kinds"
)

// ClusterRole is the kind ClusterRole.
func ClusterRole() kinds.Kind {
	return kinds.Define(&rbacv1.ClusterRoleList{}, kinds.Def[*rbacv1.ClusterRole]{
		GroupVersion:        rbacv1.SchemeGroupVersion,
		Kind:                "ClusterRole",
		Resource:            "clusterroles",
		ClusterScoped:       true,
		NoGeneration:        true,
		AllowCreateOnUpdate: true,
	})
}
