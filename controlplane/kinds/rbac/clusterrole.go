// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/check"
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
		ValidateName:        validateName,
		Validate:            validateClusterRole,
		Columns:             roleColumns,
		Row:                 func(r *rbacv1.ClusterRole) []any { return []any{r.Name, createdAt(r.CreationTimestamp)} },
	})
}

func validateClusterRole(r *rbacv1.ClusterRole) field.ErrorList {
	errs := validateRules(r.Rules, false)
	if r.AggregationRule == nil {
		return errs
	}
	path := field.NewPath("aggregationRule", "clusterRoleSelectors")
	if len(r.AggregationRule.ClusterRoleSelectors) == 0 {
		return append(errs, field.Required(path, "at least one clusterRoleSelector required if aggregationRule is non-nil"))
	}
	for i := range r.AggregationRule.ClusterRoleSelectors {
		errs = append(errs, check.Selector(&r.AggregationRule.ClusterRoleSelectors[i], path.Index(i))...)
	}
	return errs
}
