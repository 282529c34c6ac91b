// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Authorizer allows what the roles bound to a user allow. It is safe for concurrent use.
type Authorizer struct{ source Source }

var (
	_ authorizer.Authorizer   = (*Authorizer)(nil)
	_ authorizer.RuleResolver = (*Authorizer)(nil)
)

// New returns an authorizer over source.
func New(source Source) *Authorizer { return &Authorizer{source: source} }

// Authorize returns DecisionAllow or DecisionNoOpinion, never DecisionDeny. Faults in the source become part of the reason:
// they take rights away but are not the requester's to solve.
func (a *Authorizer) Authorize(_ context.Context, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	if attrs.GetUser() == nil {
		return authorizer.DecisionNoOpinion, "", nil
	}
	reason := ""
	faults := a.visit(attrs.GetUser(), attrs.GetNamespace(), func(why string, rules []rbacv1.PolicyRule) bool {
		for i := range rules {
			if allows(&rules[i], attrs) {
				reason = "RBAC: allowed by " + why
				return false
			}
		}
		return true
	})
	if reason != "" {
		return authorizer.DecisionAllow, reason, nil
	}
	if faults != nil {
		return authorizer.DecisionNoOpinion, "RBAC: " + faults.Error(), nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// ConditionsAwareAuthorize implements authorizer.Authorizer; rules of RBAC have no conditions.
func (a *Authorizer) ConditionsAwareAuthorize(ctx context.Context, attrs authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(a.Authorize(ctx, attrs))
}

// EvaluateConditions implements authorizer.Authorizer.
func (a *Authorizer) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

// RulesFor lists what a user may do in a namespace, for "kubectl auth can-i --list".
func (a *Authorizer) RulesFor(_ context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	rules, err := a.Rules(u, namespace)
	var resources []authorizer.ResourceRuleInfo
	var urls []authorizer.NonResourceRuleInfo
	for _, r := range rules {
		if len(r.Resources) > 0 {
			resources = append(resources, &authorizer.DefaultResourceRuleInfo{
				Verbs: r.Verbs, APIGroups: r.APIGroups, Resources: r.Resources, ResourceNames: r.ResourceNames})
		}
		if len(r.NonResourceURLs) > 0 {
			urls = append(urls, &authorizer.DefaultNonResourceRuleInfo{Verbs: r.Verbs, NonResourceURLs: r.NonResourceURLs})
		}
	}
	return resources, urls, err != nil, err
}

// Rules returns the rules that bind a user in a namespace; with an empty namespace those that hold everywhere. An error comes
// with the rules that could be found.
func (a *Authorizer) Rules(u user.Info, namespace string) ([]rbacv1.PolicyRule, error) {
	var all []rbacv1.PolicyRule
	err := a.visit(u, namespace, func(_ string, rules []rbacv1.PolicyRule) bool {
		all = append(all, rules...)
		return true
	})
	return all, err
}

// visit calls see with the rules of each binding about the user, until it returns false. It carries on past faults and
// returns them together.
func (a *Authorizer) visit(u user.Info, namespace string, see func(why string, rules []rbacv1.PolicyRule) bool) error {
	var faults []error
	cluster, err := a.source.ClusterRoleBindings()
	if err != nil {
		faults = append(faults, err)
	}
	for _, b := range cluster {
		if !isSubject(u, b.Subjects, "") {
			continue
		}
		rules, err := a.RulesOf(b.RoleRef, "")
		if err != nil {
			faults = append(faults, err)
			continue
		}
		if !see(fmt.Sprintf("ClusterRoleBinding %q of %s %q", b.Name, b.RoleRef.Kind, b.RoleRef.Name), rules) {
			return nil
		}
	}
	if namespace == "" {
		return errors.Join(faults...)
	}
	bindings, err := a.source.RoleBindings(namespace)
	if err != nil {
		faults = append(faults, err)
	}
	for _, b := range bindings {
		if !isSubject(u, b.Subjects, namespace) {
			continue
		}
		rules, err := a.RulesOf(b.RoleRef, namespace)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		if !see(fmt.Sprintf("RoleBinding %q of %s %q", b.Name+"/"+namespace, b.RoleRef.Kind, b.RoleRef.Name), rules) {
			return nil
		}
	}
	return errors.Join(faults...)
}

// RulesOf follows a reference, from a binding in namespace or, when that is empty, from a ClusterRoleBinding.
func (a *Authorizer) RulesOf(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	switch ref.Kind {
	case "Role":
		role, err := a.source.Role(namespace, ref.Name)
		if err != nil {
			return nil, ruleError(ref, err)
		}
		return role.Rules, nil
	case "ClusterRole":
		role, err := a.source.ClusterRole(ref.Name)
		if err != nil {
			return nil, ruleError(ref, err)
		}
		if role.AggregationRule == nil {
			return role.Rules, nil
		}
		all, err := a.source.ClusterRoles()
		if err != nil {
			return nil, ruleError(ref, err)
		}
		return Aggregate(role, all), nil
	}
	return nil, ruleError(ref, errors.New("unsupported kind of role"))
}

// Aggregate returns the rules of a ClusterRole with an aggregation rule: those of all roles that it selects, and of those
// that they select, in order of name and each rule once. What is written in its own rules is what was found the last
// time and counts for nothing.
func Aggregate(role *rbacv1.ClusterRole, all []*rbacv1.ClusterRole) []rbacv1.PolicyRule {
	var rules []rbacv1.PolicyRule
	sorted := slices.SortedFunc(slices.Values(all), func(a, b *rbacv1.ClusterRole) int { return cmp.Compare(a.Name, b.Name) })
	visited := map[string]bool{role.Name: true}
	seen := map[string]bool{}
	var collect func(r *rbacv1.ClusterRole)
	collect = func(r *rbacv1.ClusterRole) {
		for _, other := range sorted {
			if visited[other.Name] || !selects(r.AggregationRule, other) {
				continue
			}
			visited[other.Name] = true
			if other.AggregationRule != nil {
				collect(other)
				continue
			}
			for _, rule := range other.Rules {
				if key := rule.String(); !seen[key] {
					seen[key] = true
					rules = append(rules, rule)
				}
			}
		}
	}
	collect(role)
	return rules
}

func selects(rule *rbacv1.AggregationRule, role *rbacv1.ClusterRole) bool {
	for i := range rule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&rule.ClusterRoleSelectors[i])
		// Validation keeps such a selector out; one that got in selects nothing.
		if err == nil && selector.Matches(labels.Set(role.Labels)) {
			return true
		}
	}
	return false
}
