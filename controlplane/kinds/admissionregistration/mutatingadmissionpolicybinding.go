// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	v1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds"
)

// MutatingAdmissionPolicyBinding is the kind MutatingAdmissionPolicyBinding.
func MutatingAdmissionPolicyBinding() kinds.Kind {
	return kinds.Define(&v1.MutatingAdmissionPolicyBindingList{}, kinds.Def[*v1.MutatingAdmissionPolicyBinding]{
		GroupVersion:           v1.SchemeGroupVersion,
		Kind:                   "MutatingAdmissionPolicyBinding",
		Resource:               "mutatingadmissionpolicybindings",
		Categories:             []string{"api-extensions"},
		ClusterScoped:          true,
		RequireResourceVersion: true,
		Default:                func(b *v1.MutatingAdmissionPolicyBinding) { defaultMatch(b.Spec.MatchResources) },
		Validate: func(b *v1.MutatingAdmissionPolicyBinding) field.ErrorList {
			return validateBinding(b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources)
		},
		Columns: bindingColumns(v1.MutatingAdmissionPolicyBindingSpec{}.SwaggerDoc()),
		Row: func(b *v1.MutatingAdmissionPolicyBinding) []any {
			return []any{b.Name, b.Spec.PolicyName, paramRef(b.Spec.ParamRef), kinds.Age(b.CreationTimestamp)}
		},
	})
}
