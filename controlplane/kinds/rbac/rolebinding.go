// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

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
		ValidateName:        validateName,
		Default:             func(b *rbacv1.RoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) },
		Validate: func(b *rbacv1.RoleBinding) field.ErrorList {
			return validateBinding(&b.RoleRef, b.Subjects, "Role", "ClusterRole")
		},
		ValidateUpdate: func(b, old *rbacv1.RoleBinding) field.ErrorList {
			return append(validateBinding(&b.RoleRef, b.Subjects, "Role", "ClusterRole"), validateRef(b.RoleRef, old.RoleRef)...)
		},
		Columns: bindingColumns(rbacv1.RoleBinding{}.SwaggerDoc()),
		Row:     func(b *rbacv1.RoleBinding) []any { return bindingRow(&b.ObjectMeta, b.RoleRef, b.Subjects) },
	})
}
