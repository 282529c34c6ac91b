// SPDX-License-Identifier: Apache-2.0

package policy

import (
	v1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/check"
)

// PodDisruptionBudget is the kind PodDisruptionBudget.
func PodDisruptionBudget() kinds.Kind {
	return kinds.Define(&v1.PodDisruptionBudgetList{}, kinds.Def[*v1.PodDisruptionBudget]{
		GroupVersion:           v1.SchemeGroupVersion,
		Kind:                   "PodDisruptionBudget",
		Resource:               "poddisruptionbudgets",
		ShortNames:             []string{"pdb"},
		HasStatus:              true,
		RequireResourceVersion: true,
		Validate:               validateBudget,
		ValidateStatusUpdate:   validateBudgetStatus,
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(),
			kinds.Column("Min Available", "string", "The minimum number of pods that must be available."),
			kinds.Column("Max Unavailable", "string", "The maximum number of pods that may be unavailable."),
			kinds.Column("Allowed Disruptions", "integer", "Calculated number of pods that may be disrupted at this time."),
			kinds.AgeColumn(),
		},
		Row: func(b *v1.PodDisruptionBudget) []any {
			return []any{b.Name, orNotApplicable(b.Spec.MinAvailable), orNotApplicable(b.Spec.MaxUnavailable),
				int64(b.Status.DisruptionsAllowed), kinds.Age(b.CreationTimestamp)}
		},
	})
}

func orNotApplicable(v *intstr.IntOrString) string {
	if v == nil {
		return "N/A"
	}
	return v.String()
}

func validateBudget(b *v1.PodDisruptionBudget) field.ErrorList {
	path, spec := field.NewPath("spec"), &b.Spec
	var errs field.ErrorList
	if spec.MinAvailable != nil && spec.MaxUnavailable != nil {
		errs = append(errs, field.Invalid(path, *spec, "minAvailable and maxUnavailable cannot be both set"))
	}
	errs = append(errs, check.CountOrPercent(path.Child("minAvailable"), spec.MinAvailable)...)
	errs = append(errs, check.AtMostAll(path.Child("minAvailable"), spec.MinAvailable)...)
	errs = append(errs, check.CountOrPercent(path.Child("maxUnavailable"), spec.MaxUnavailable)...)
	errs = append(errs, check.AtMostAll(path.Child("maxUnavailable"), spec.MaxUnavailable)...)
	errs = append(errs, check.Selector(spec.Selector, path.Child("selector"))...)
	if p := spec.UnhealthyPodEvictionPolicy; p != nil && *p != v1.IfHealthyBudget && *p != v1.AlwaysAllow {
		errs = append(errs, field.NotSupported(path.Child("unhealthyPodEvictionPolicy"), *p, []v1.UnhealthyPodEvictionPolicyType{v1.AlwaysAllow, v1.IfHealthyBudget}))
	}
	return errs
}

func validateBudgetStatus(b, _ *v1.PodDisruptionBudget) field.ErrorList {
	path, s := field.NewPath("status"), &b.Status
	errs := check.NotNegative(path.Child("disruptionsAllowed"), &s.DisruptionsAllowed)
	errs = append(errs, check.NotNegative(path.Child("currentHealthy"), &s.CurrentHealthy)...)
	errs = append(errs, check.NotNegative(path.Child("desiredHealthy"), &s.DesiredHealthy)...)
	return append(errs, check.NotNegative(path.Child("expectedPods"), &s.ExpectedPods)...)
}
