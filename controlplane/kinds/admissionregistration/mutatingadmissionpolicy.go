// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"github.com/google/cel-go/cel"
	v1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/check"
	"skep.dev/skep/controlplane/kinds/fill"
)

// MutatingAdmissionPolicy is the kind MutatingAdmissionPolicy.
func MutatingAdmissionPolicy() kinds.Kind {
	return kinds.Define(&v1.MutatingAdmissionPolicyList{}, kinds.Def[*v1.MutatingAdmissionPolicy]{
		GroupVersion:           v1.SchemeGroupVersion,
		Kind:                   "MutatingAdmissionPolicy",
		Resource:               "mutatingadmissionpolicies",
		Categories:             []string{"api-extensions"},
		ClusterScoped:          true,
		RequireResourceVersion: true,
		Default: func(p *v1.MutatingAdmissionPolicy) {
			fill.Nil(&p.Spec.FailurePolicy, v1.Fail)
			fill.Zero(&p.Spec.ReinvocationPolicy, v1.NeverReinvocationPolicy)
			defaultMatch(p.Spec.MatchConstraints)
		},
		Validate: validateMutatingPolicy,
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(),
			kinds.Column("Mutations", "integer", v1.MutatingAdmissionPolicySpec{}.SwaggerDoc()["mutations"]),
			kinds.Column("ParamKind", "string", v1.MutatingAdmissionPolicySpec{}.SwaggerDoc()["paramKind"]),
			kinds.AgeColumn(),
		},
		Row: func(p *v1.MutatingAdmissionPolicy) []any {
			return []any{p.Name, int64(len(p.Spec.Mutations)), paramKind(p.Spec.ParamKind), kinds.Age(p.CreationTimestamp)}
		},
	})
}

func validateMutatingPolicy(p *v1.MutatingAdmissionPolicy) field.ErrorList {
	spec, path := &p.Spec, field.NewPath("spec")
	errs := validateFailurePolicy(spec.FailurePolicy, path.Child("failurePolicy"))
	errs = append(errs, validateParamKind(spec.ParamKind, path.Child("paramKind"))...)
	errs = append(errs, validateConstraints(spec.MatchConstraints, path.Child("matchConstraints"))...)
	errs = append(errs, check.OneOf(path.Child("reinvocationPolicy"), spec.ReinvocationPolicy,
		v1.IfNeededReinvocationPolicy, v1.NeverReinvocationPolicy)...)
	if len(spec.Mutations) == 0 {
		errs = append(errs, field.Required(path.Child("mutations"), "mutations must contain at least one item"))
	}
	c, err := newCompiler(spec.ParamKind != nil)
	if err != nil {
		return append(errs, field.InternalError(path, err))
	}
	errs = append(errs, c.variables(spec.Variables, path.Child("variables"))...)
	errs = append(errs, c.matchConditions(spec.MatchConditions, path.Child("matchConditions"))...)
	for i := range spec.Mutations {
		errs = append(errs, c.mutation(&spec.Mutations[i], path.Child("mutations").Index(i))...)
	}
	return errs
}

func (c *compiler) mutation(m *v1.Mutation, path *field.Path) field.ErrorList {
	declare := c.declare
	declare.HasPatchTypes = true
	compile := func(source string, types []*cel.Type, at *field.Path) field.ErrorList {
		return c.expression(source, declare, at.Child("expression"), types...)
	}
	apply, json := path.Child("applyConfiguration"), path.Child("jsonPatch")
	switch m.PatchType {
	case v1.PatchTypeApplyConfiguration:
		switch {
		case m.ApplyConfiguration == nil:
			return field.ErrorList{field.Required(apply, "must be specified when patchType is ApplyConfiguration")}
		case m.JSONPatch != nil:
			return field.ErrorList{field.Invalid(json, "{jsonPatch}", "must not be specified when patchType is ApplyConfiguration")}
		}
		return compile(m.ApplyConfiguration.Expression, (&patch.ApplyConfigurationCondition{}).ReturnTypes(), apply)
	case v1.PatchTypeJSONPatch:
		switch {
		case m.JSONPatch == nil:
			return field.ErrorList{field.Required(json, "must be specified when patchType is JSONPatch")}
		case m.ApplyConfiguration != nil:
			return field.ErrorList{field.Invalid(apply, "{applyConfiguration}", "must not be specified when patchType is JSONPatch")}
		}
		return compile(m.JSONPatch.Expression, (&patch.JSONPatchCondition{}).ReturnTypes(), json)
	}
	return check.OneOf(path.Child("patchType"), m.PatchType, v1.PatchTypeApplyConfiguration, v1.PatchTypeJSONPatch)
}
