// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"slices"

	v1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/check"
)

// ValidatingAdmissionPolicyBinding is the kind ValidatingAdmissionPolicyBinding.
func ValidatingAdmissionPolicyBinding() kinds.Kind {
	return kinds.Define(&v1.ValidatingAdmissionPolicyBindingList{}, kinds.Def[*v1.ValidatingAdmissionPolicyBinding]{
		GroupVersion:           v1.SchemeGroupVersion,
		Kind:                   "ValidatingAdmissionPolicyBinding",
		Resource:               "validatingadmissionpolicybindings",
		Categories:             []string{"api-extensions"},
		ClusterScoped:          true,
		RequireResourceVersion: true,
		Default:                func(b *v1.ValidatingAdmissionPolicyBinding) { defaultMatch(b.Spec.MatchResources) },
		Validate:               validateValidatingBinding,
		Columns:                bindingColumns(v1.ValidatingAdmissionPolicyBindingSpec{}.SwaggerDoc()),
		Row: func(b *v1.ValidatingAdmissionPolicyBinding) []any {
			return []any{b.Name, b.Spec.PolicyName, paramRef(b.Spec.ParamRef), kinds.Age(b.CreationTimestamp)}
		},
	})
}

func bindingColumns(doc map[string]string) []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		kinds.NameColumn(),
		kinds.Column("PolicyName", "string", doc["policyName"]),
		kinds.Column("ParamRef", "string", doc["paramRef"]),
		kinds.AgeColumn(),
	}
}

func paramRef(r *v1.ParamRef) string {
	switch {
	case r == nil:
		return "<unset>"
	case r.Name == "":
		return "*"
	case r.Namespace != "":
		return r.Namespace + "/" + r.Name
	}
	return "*/" + r.Name
}

func validateBinding(policyName string, ref *v1.ParamRef, match *v1.MatchResources) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	if policyName == "" {
		errs = append(errs, field.Required(path.Child("policyName"), ""))
	} else {
		errs = append(errs, check.Invalid(path.Child("policyName"), policyName, validation.IsDNS1123Subdomain(policyName))...)
	}
	errs = append(errs, validateParamRef(ref, path.Child("paramRef"))...)
	return append(errs, validateMatch(match, path.Child("matchResources"))...)
}

func validateValidatingBinding(b *v1.ValidatingAdmissionPolicyBinding) field.ErrorList {
	errs := validateBinding(b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources)
	path := field.NewPath("spec", "validationActions")
	if len(b.Spec.ValidationActions) == 0 {
		return append(errs, field.Required(path, ""))
	}
	seen := sets.New[v1.ValidationAction]()
	for i, action := range b.Spec.ValidationActions {
		known := []v1.ValidationAction{v1.Audit, v1.Deny, v1.Warn}
		if !slices.Contains(known, action) {
			errs = append(errs, field.NotSupported(path.Index(i), action, known))
		}
		if seen.Has(action) {
			errs = append(errs, field.Duplicate(path.Index(i), action))
		}
		seen.Insert(action)
	}
	if seen.HasAll(v1.Deny, v1.Warn) {
		errs = append(errs, field.Invalid(path, b.Spec.ValidationActions,
			"must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"))
	}
	return errs
}
