// SPDX-License-Identifier: Apache-2.0

package coordination

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/check"
)

// Lease is the kind Lease.
func Lease() kinds.Kind {
	return kinds.Define(&coordinationv1.LeaseList{}, kinds.Def[*coordinationv1.Lease]{
		GroupVersion:           coordinationv1.SchemeGroupVersion,
		Kind:                   "Lease",
		Resource:               "leases",
		NoGeneration:           true,
		AllowCreateOnUpdate:    true,
		RequireResourceVersion: true,
		Validate:               validateLease,
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(),
			kinds.Column("Holder", "string", coordinationv1.LeaseSpec{}.SwaggerDoc()["holderIdentity"]),
			kinds.AgeColumn(),
		},
		Row: func(l *coordinationv1.Lease) []any {
			holder := ""
			if l.Spec.HolderIdentity != nil {
				holder = *l.Spec.HolderIdentity
			}
			return []any{l.Name, holder, kinds.Age(l.CreationTimestamp)}
		},
	})
}

func validateLease(l *coordinationv1.Lease) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	if s := l.Spec.LeaseDurationSeconds; s != nil && *s <= 0 {
		errs = append(errs, field.Invalid(path.Child("leaseDurationSeconds"), *s, "must be greater than 0"))
	}
	return append(errs, check.NotNegative(path.Child("leaseTransitions"), l.Spec.LeaseTransitions)...)
}
