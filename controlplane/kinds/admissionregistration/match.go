// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds/check"
)

func validateMatch(m *v1.MatchResources, path *field.Path) field.ErrorList {
	if m == nil {
		return nil
	}
	var errs field.ErrorList
	if m.MatchPolicy == nil {
		errs = append(errs, field.Required(path.Child("matchPolicy"), ""))
	} else {
		errs = append(errs, check.OneOf(path.Child("matchPolicy"), *m.MatchPolicy, v1.Equivalent, v1.Exact)...)
	}
	if m.NamespaceSelector == nil {
		errs = append(errs, field.Required(path.Child("namespaceSelector"), ""))
	}
	if m.ObjectSelector == nil {
		errs = append(errs, field.Required(path.Child("objectSelector"), ""))
	}
	errs = append(errs, check.Selector(m.NamespaceSelector, path.Child("namespaceSelector"))...)
	errs = append(errs, check.Selector(m.ObjectSelector, path.Child("objectSelector"))...)
	for i := range m.ResourceRules {
		errs = append(errs, validateNamedRule(&m.ResourceRules[i], path.Child("resourceRules").Index(i))...)
	}
	for i := range m.ExcludeResourceRules {
		errs = append(errs, validateNamedRule(&m.ExcludeResourceRules[i], path.Child("excludeResourceRules").Index(i))...)
	}
	return errs
}

func validateNamedRule(r *v1.NamedRuleWithOperations, path *field.Path) field.ErrorList {
	errs := validateRule(&r.RuleWithOperations, path)
	seen := map[string]bool{}
	for i, name := range r.ResourceNames {
		at := path.Child("resourceNames").Index(i)
		errs = append(errs, check.Invalid(at, name, check.PathSegment(name, false))...)
		if seen[name] {
			errs = append(errs, field.Duplicate(at, name))
		}
		seen[name] = true
	}
	return errs
}

func validateRule(r *v1.RuleWithOperations, path *field.Path) field.ErrorList {
	errs := validateOperations(r.Operations, path.Child("operations"))
	errs = append(errs, validateWildcards(r.APIGroups, "apiGroups", "if '*' is present, must not specify other API groups", path)...)
	errs = append(errs, validateWildcards(r.APIVersions, "apiVersions", "if '*' is present, must not specify other API versions", path)...)
	for i, version := range r.APIVersions {
		if version == "" {
			errs = append(errs, field.Required(path.Child("apiVersions").Index(i), ""))
		}
	}
	errs = append(errs, validateResources(r.Resources, path.Child("resources"))...)
	if r.Scope != nil {
		errs = append(errs, check.OneOf(path.Child("scope"), *r.Scope, v1.AllScopes, v1.ClusterScope, v1.NamespacedScope)...)
	}
	return errs
}

func validateOperations(operations []v1.OperationType, path *field.Path) field.ErrorList {
	if len(operations) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if len(operations) > 1 && slices.Contains(operations, v1.OperationAll) {
		errs = append(errs, field.Invalid(path, operations, "if '*' is present, must not specify other operations"))
	}
	for i, o := range operations {
		known := []v1.OperationType{v1.OperationAll, v1.Connect, v1.Create, v1.Delete, v1.Update}
		if !slices.Contains(known, o) {
			errs = append(errs, field.NotSupported(path.Index(i), o, known))
		}
	}
	return errs
}

func validateWildcards(values []string, name, message string, path *field.Path) field.ErrorList {
	if len(values) == 0 {
		return field.ErrorList{field.Required(path.Child(name), "")}
	}
	if len(values) > 1 && slices.Contains(values, "*") {
		return field.ErrorList{field.Invalid(path.Child(name), values, message)}
	}
	return nil
}

// validateResources knows pods, pods/status, pods/*, */status, * and */*, and refuses entries that others make useless.
func validateResources(resources []string, path *field.Path) field.ErrorList {
	if len(resources) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	all := map[string]bool{}
	for i, entry := range resources {
		at := path.Index(i)
		if entry == "" {
			errs = append(errs, field.Required(at, ""))
			continue
		}
		resource, sub, hasSub := strings.Cut(entry, "/")
		switch {
		case entry == "*/*":
			if len(resources) > 1 {
				errs = append(errs, field.Invalid(path, resources, "if '*/*' is present, must not specify other resources"))
			}
		case hasSub && all["*/"+sub]:
			errs = append(errs, field.Invalid(at, entry, fmt.Sprintf("if '*/%s' is present, must not specify %s", sub, entry)))
		case hasSub && all[resource+"/*"]:
			errs = append(errs, field.Invalid(at, entry, fmt.Sprintf("if '%s/*' is present, must not specify %s", resource, entry)))
		case !hasSub && resource != "*" && all["*"]:
			errs = append(errs, field.Invalid(path, resources, "if '*' is present, must not specify other resources without subresources"))
		}
		all[entry] = true
	}
	return errs
}

func validateFailurePolicy(p *v1.FailurePolicyType, path *field.Path) field.ErrorList {
	if p == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	return check.OneOf(path, *p, v1.Fail, v1.Ignore)
}

func validateParamKind(k *v1.ParamKind, path *field.Path) field.ErrorList {
	if k == nil {
		return nil
	}
	var errs field.ErrorList
	if k.APIVersion == "" {
		errs = append(errs, field.Required(path.Child("apiVersion"), ""))
	} else if gv, err := schema.ParseGroupVersion(k.APIVersion); err != nil {
		errs = append(errs, field.Invalid(path.Child("apiVersion"), k.APIVersion, err.Error()))
	} else if len(gv.Group) > 0 {
		errs = append(errs, check.Invalid(path.Child("apiVersion"), gv.Group, validation.IsDNS1123Subdomain(gv.Group))...)
	}
	if k.Kind == "" {
		return append(errs, field.Required(path.Child("kind"), ""))
	}
	if messages := validation.IsDNS1035Label(strings.ToLower(k.Kind)); len(messages) > 0 {
		errs = append(errs, field.Invalid(path.Child("kind"), k.Kind, "may have mixed case, but should otherwise match: "+strings.Join(messages, ",")))
	}
	return errs
}

func validateParamRef(r *v1.ParamRef, path *field.Path) field.ErrorList {
	if r == nil {
		return nil
	}
	var errs field.ErrorList
	switch {
	case r.Name != "" && r.Selector != nil:
		errs = append(errs, field.Forbidden(path.Child("name"), `name and selector are mutually exclusive`))
	case r.Name != "":
		errs = append(errs, check.Invalid(path.Child("name"), r.Name, check.PathSegment(r.Name, false))...)
	case r.Selector != nil:
		errs = append(errs, check.Selector(r.Selector, path.Child("selector"))...)
	default:
		errs = append(errs, field.Required(path, "one of name or selector must be specified"))
	}
	if r.ParameterNotFoundAction == nil || *r.ParameterNotFoundAction == "" {
		return append(errs, field.Required(path.Child("parameterNotFoundAction"), ""))
	}
	return append(errs, check.OneOf(path.Child("parameterNotFoundAction"), *r.ParameterNotFoundAction, v1.AllowAction, v1.DenyAction)...)
}
