// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"slices"

	"github.com/google/cel-go/cel"
	v1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/check"
	"skep.dev/skep/controlplane/kinds/fill"
)

// ValidatingAdmissionPolicy is the kind ValidatingAdmissionPolicy.
func ValidatingAdmissionPolicy() kinds.Kind {
	return kinds.Define(&v1.ValidatingAdmissionPolicyList{}, kinds.Def[*v1.ValidatingAdmissionPolicy]{
		GroupVersion:           v1.SchemeGroupVersion,
		Kind:                   "ValidatingAdmissionPolicy",
		Resource:               "validatingadmissionpolicies",
		Categories:             []string{"api-extensions"},
		ClusterScoped:          true,
		HasStatus:              true,
		RequireResourceVersion: true,
		Default: func(p *v1.ValidatingAdmissionPolicy) {
			fill.Nil(&p.Spec.FailurePolicy, v1.Fail)
			defaultMatch(p.Spec.MatchConstraints)
		},
		Validate: validateValidatingPolicy,
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(),
			kinds.Column("Validations", "integer", v1.ValidatingAdmissionPolicySpec{}.SwaggerDoc()["validations"]),
			kinds.Column("ParamKind", "string", v1.ValidatingAdmissionPolicySpec{}.SwaggerDoc()["paramKind"]),
			kinds.AgeColumn(),
		},
		Row: func(p *v1.ValidatingAdmissionPolicy) []any {
			return []any{p.Name, int64(len(p.Spec.Validations)), paramKind(p.Spec.ParamKind), kinds.Age(p.CreationTimestamp)}
		},
	})
}

func paramKind(k *v1.ParamKind) string {
	if k == nil {
		return "<unset>"
	}
	return k.APIVersion + "/" + k.Kind
}

func validateValidatingPolicy(p *v1.ValidatingAdmissionPolicy) field.ErrorList {
	spec, path := &p.Spec, field.NewPath("spec")
	errs := validateFailurePolicy(spec.FailurePolicy, path.Child("failurePolicy"))
	errs = append(errs, validateParamKind(spec.ParamKind, path.Child("paramKind"))...)
	errs = append(errs, validateConstraints(spec.MatchConstraints, path.Child("matchConstraints"))...)
	if len(spec.Validations) == 0 && len(spec.AuditAnnotations) == 0 {
		errs = append(errs, field.Required(path.Child("validations"), "validations or auditAnnotations must contain at least one item"),
			field.Required(path.Child("auditAnnotations"), "validations or auditAnnotations must contain at least one item"))
	}
	c, err := newCompiler(spec.ParamKind != nil)
	if err != nil {
		return append(errs, field.InternalError(path, err))
	}
	errs = append(errs, c.variables(spec.Variables, path.Child("variables"))...)
	errs = append(errs, c.matchConditions(spec.MatchConditions, path.Child("matchConditions"))...)
	for i := range spec.Validations {
		errs = append(errs, c.validation(&spec.Validations[i], path.Child("validations").Index(i))...)
	}
	return append(errs, c.auditAnnotations(spec.AuditAnnotations, path.Child("auditAnnotations"))...)
}

// validateConstraints: a policy that matches nothing is surely a mistake.
func validateConstraints(m *v1.MatchResources, path *field.Path) field.ErrorList {
	if m == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	errs := validateMatch(m, path)
	if len(m.ResourceRules) == 0 {
		errs = append(errs, field.Required(path.Child("resourceRules"), ""))
	}
	return errs
}

func (c *compiler) validation(v *v1.Validation, path *field.Path) field.ErrorList {
	errs := c.expression(v.Expression, c.declare, path.Child("expression"), cel.BoolType)
	if v.MessageExpression != "" {
		// A message is shown to whoever is refused: it must not tell what others may do.
		declare := plugincel.OptionalVariableDeclarations{HasParams: c.declare.HasParams}
		errs = append(errs, c.expression(v.MessageExpression, declare, path.Child("messageExpression"), cel.StringType)...)
	}
	if v.Reason != nil {
		supported := []metav1.StatusReason{metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge, metav1.StatusReasonUnauthorized}
		if !slices.Contains(supported, *v.Reason) {
			errs = append(errs, field.NotSupported(path.Child("reason"), *v.Reason, supported))
		}
	}
	return errs
}

func (c *compiler) auditAnnotations(annotations []v1.AuditAnnotation, path *field.Path) field.ErrorList {
	const most = 20
	var errs field.ErrorList
	if len(annotations) > most {
		errs = append(errs, field.Invalid(path, len(annotations), "must not have more than 20 auditAnnotations"))
	}
	keys := sets.New[string]()
	for i, a := range annotations {
		at := path.Index(i)
		if a.Key == "" {
			errs = append(errs, field.Required(at.Child("key"), ""))
		} else {
			errs = append(errs, check.Invalid(at.Child("key"), a.Key, validation.IsQualifiedName(a.Key))...)
		}
		if keys.Has(a.Key) {
			errs = append(errs, field.Duplicate(at.Child("key"), a.Key))
		}
		keys.Insert(a.Key)
		errs = append(errs, c.expression(a.ValueExpression, c.declare, at.Child("valueExpression"), cel.StringType, cel.NullType)...)
	}
	return errs
}
