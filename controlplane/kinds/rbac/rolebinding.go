// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"skep.dev/skep/controlplane/kinds"
)

// RoleBinding is the kind RoleBinding.
func RoleBinding() kinds.Kind {
	return kinds.Define(&rbacv1.RoleBindingList{}, kinds.Def[*rbacv1.RoleBinding]{
		GroupVersion:        rbacv1.SchemeGroupVersion,
		Kind:                "RoleBinding",
		Resource:            "rolebindings",
		NoGeneration:        true,
		AllowCreateOnUpdate: true,
	})
}
