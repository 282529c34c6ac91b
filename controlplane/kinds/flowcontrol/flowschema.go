// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/check"
	"skep.dev/skep/controlplane/kinds/fill"
)

const (
	defaultPrecedence = 1000
	maxPrecedence     = v1.FlowSchemaMaxMatchingPrecedence
)

// FlowSchema is the kind FlowSchema.
func FlowSchema() kinds.Kind {
	return kinds.Define(&v1.FlowSchemaList{}, kinds.Def[*v1.FlowSchema]{
		GroupVersion:  v1.SchemeGroupVersion,
		Kind:          "FlowSchema",
		Resource:      "flowschemas",
		ClusterScoped: true,
		HasStatus:     true,
		Default:       func(f *v1.FlowSchema) { fill.Zero(&f.Spec.MatchingPrecedence, defaultPrecedence) },
		Validate:      validateSchema,
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(),
			kinds.Column("PriorityLevel", "string", v1.PriorityLevelConfigurationReference{}.SwaggerDoc()["name"]),
			kinds.Column("MatchingPrecedence", "string", v1.FlowSchemaSpec{}.SwaggerDoc()["matchingPrecedence"]),
			kinds.Column("DistinguisherMethod", "string", v1.FlowSchemaSpec{}.SwaggerDoc()["distinguisherMethod"]),
			kinds.AgeColumn(),
			kinds.Column("MissingPL", "string", "references a broken or non-existent PriorityLevelConfiguration"),
		},
		Row: schemaRow,
	})
}

func schemaRow(f *v1.FlowSchema) []any {
	method, missing := "<none>", "?"
	if f.Spec.DistinguisherMethod != nil {
		method = string(f.Spec.DistinguisherMethod.Type)
	}
	for _, c := range f.Status.Conditions {
		if c.Type == v1.FlowSchemaConditionDangling {
			missing = string(c.Status)
		}
	}
	return []any{f.Name, f.Spec.PriorityLevelConfiguration.Name, int64(f.Spec.MatchingPrecedence), method, kinds.Age(f.CreationTimestamp), missing}
}

func validateSchema(f *v1.FlowSchema) field.ErrorList {
	path, spec := field.NewPath("spec"), &f.Spec
	var errs field.ErrorList
	at := path.Child("matchingPrecedence")
	if spec.MatchingPrecedence <= 0 {
		errs = append(errs, field.Invalid(at, spec.MatchingPrecedence, "must be a positive value"))
	}
	if spec.MatchingPrecedence > maxPrecedence {
		errs = append(errs, field.Invalid(at, spec.MatchingPrecedence, fmt.Sprintf("must not be greater than %v", maxPrecedence)))
	}
	if spec.MatchingPrecedence == 1 && f.Name != v1.FlowSchemaNameExempt {
		errs = append(errs, field.Invalid(at, spec.MatchingPrecedence, "only the schema named 'exempt' may have matchingPrecedence 1"))
	}
	if m := spec.DistinguisherMethod; m != nil {
		errs = append(errs, check.OneOf(path.Child("distinguisherMethod", "type"), m.Type, v1.FlowDistinguisherMethodByNamespaceType, v1.FlowDistinguisherMethodByUserType)...)
	}
	at = path.Child("priorityLevelConfiguration", "name")
	if level := spec.PriorityLevelConfiguration.Name; level == "" {
		errs = append(errs, field.Required(at, "must reference a priority level"))
	} else {
		errs = append(errs, check.Invalid(at, level, validation.IsDNS1123Subdomain(level))...)
	}
	for i := range spec.Rules {
		errs = append(errs, validateRule(&spec.Rules[i], path.Child("rules").Index(i))...)
	}
	return errs
}

func validateRule(r *v1.PolicyRulesWithSubjects, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(r.Subjects) == 0 {
		errs = append(errs, field.Required(path.Child("subjects"), "subjects must contain at least one value"))
	}
	for i := range r.Subjects {
		errs = append(errs, validateSubject(&r.Subjects[i], path.Child("subjects").Index(i))...)
	}
	if len(r.ResourceRules) == 0 && len(r.NonResourceRules) == 0 {
		errs = append(errs, field.Required(path, "at least one of resourceRules and nonResourceRules has to be non-empty"))
	}
	for i := range r.ResourceRules {
		rule, at := &r.ResourceRules[i], path.Child("resourceRules").Index(i)
		errs = append(errs, atLeastOne(rule.Verbs, at.Child("verbs"), "verbs must contain at least one value")...)
		errs = append(errs, atLeastOne(rule.APIGroups, at.Child("apiGroups"), "resource rules must supply at least one api group")...)
		errs = append(errs, atLeastOne(rule.Resources, at.Child("resources"), "resource rules must supply at least one resource")...)
		if len(rule.Namespaces) == 0 && !rule.ClusterScope {
			errs = append(errs, field.Required(at.Child("namespaces"), "resource rules that are not cluster scoped must supply at least one namespace"))
		}
	}
	for i := range r.NonResourceRules {
		rule, at := &r.NonResourceRules[i], path.Child("nonResourceRules").Index(i)
		errs = append(errs, atLeastOne(rule.Verbs, at.Child("verbs"), "verbs must contain at least one value")...)
		errs = append(errs, atLeastOne(rule.NonResourceURLs, at.Child("nonResourceURLs"), "nonResourceURLs must contain at least one value")...)
		for j, url := range rule.NonResourceURLs {
			if url != "*" && !strings.HasPrefix(url, "/") {
				errs = append(errs, field.Invalid(at.Child("nonResourceURLs").Index(j), url, "must start with slash"))
			}
		}
	}
	return errs
}

func atLeastOne(values []string, path *field.Path, message string) field.ErrorList {
	if len(values) == 0 {
		return field.ErrorList{field.Required(path, message)}
	}
	if len(values) > 1 && slices.Contains(values, "*") {
		return field.ErrorList{field.Invalid(path, values, "if '*' is present, must not specify other values")}
	}
	return nil
}

func validateSubject(s *v1.Subject, path *field.Path) field.ErrorList {
	name := func(set bool, value func() string, child string) field.ErrorList {
		if !set {
			return field.ErrorList{field.Required(path.Child(child), fmt.Sprintf("%s is required when subject kind is '%s'", child, s.Kind))}
		}
		if value() == "" {
			return field.ErrorList{field.Required(path.Child(child, "name"), "")}
		}
		return nil
	}
	switch s.Kind {
	case v1.SubjectKindUser:
		return name(s.User != nil, func() string { return s.User.Name }, "user")
	case v1.SubjectKindGroup:
		return name(s.Group != nil, func() string { return s.Group.Name }, "group")
	case v1.SubjectKindServiceAccount:
		errs := name(s.ServiceAccount != nil, func() string { return s.ServiceAccount.Name }, "serviceAccount")
		if s.ServiceAccount != nil && s.ServiceAccount.Namespace == "" {
			errs = append(errs, field.Required(path.Child("serviceAccount", "namespace"), "must specify namespace for service account"))
		}
		return errs
	}
	return field.ErrorList{field.NotSupported(path.Child("kind"), s.Kind, []v1.SubjectKind{v1.SubjectKindGroup, v1.SubjectKindServiceAccount, v1.SubjectKindUser})}
}
