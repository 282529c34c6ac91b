// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

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
		ValidateName:        validateName,
		Default:             func(b *rbacv1.ClusterRoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) },
		Validate: func(b *rbacv1.ClusterRoleBinding) field.ErrorList {
			return validateBinding(&b.RoleRef, b.Subjects, "ClusterRole")
		},
		ValidateUpdate: func(b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
			return append(validateBinding(&b.RoleRef, b.Subjects, "ClusterRole"), validateRef(b.RoleRef, old.RoleRef)...)
		},
		Columns: bindingColumns(rbacv1.ClusterRoleBinding{}.SwaggerDoc()),
		Row:     func(b *rbacv1.ClusterRoleBinding) []any { return bindingRow(&b.ObjectMeta, b.RoleRef, b.Subjects) },
	})
}
