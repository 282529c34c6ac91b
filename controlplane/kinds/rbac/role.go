// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds"
)

// Role is the kind Role.
func Role() kinds.Kind {
	return kinds.Define(&rbacv1.RoleList{}, kinds.Def[*rbacv1.Role]{
		GroupVersion:        rbacv1.SchemeGroupVersion,
		Kind:                "Role",
		Resource:            "roles",
		NoGeneration:        true,
		AllowCreateOnUpdate: true,
		ValidateName:        validateName,
		Validate:            func(r *rbacv1.Role) field.ErrorList { return validateRules(r.Rules, true) },
		Columns:             roleColumns,
		Row:                 func(r *rbacv1.Role) []any { return []any{r.Name, createdAt(r.CreationTimestamp)} },
	})
}
