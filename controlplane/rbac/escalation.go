// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/component-helpers/auth/rbac/validation"
)

// ConfirmNoEscalation returns an error unless u itself holds every right that rules grant, in namespace or everywhere when
// that is empty. Otherwise whoever may write roles could give himself any right.
func (a *Authorizer) ConfirmNoEscalation(_ context.Context, u user.Info, namespace string, rules []rbacv1.PolicyRule) error {
	held, faults := a.Rules(u, namespace)
	covered, missing := validation.Covers(held, rules)
	if covered {
		return nil
	}
	lines := make([]string, len(missing))
	for i, rule := range missing {
		lines[i] = compact(rule)
	}
	slices.Sort(lines)
	message := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		u.GetName(), u.GetGroups(), strings.Join(lines, "\n"))
	if faults != nil {
		message += fmt.Sprintf("; resolution errors: %v", faults)
	}
	return errors.New(message)
}

// compact writes a rule as kubectl users know it: {APIGroups:["apps"], Resources:["deployments"], Verbs:["get"]}.
func compact(r rbacv1.PolicyRule) string {
	var parts []string
	add := func(name string, values []string) {
		if len(values) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", name, values))
		}
	}
	add("APIGroups", r.APIGroups)
	add("Resources", r.Resources)
	add("NonResourceURLs", r.NonResourceURLs)
	add("ResourceNames", r.ResourceNames)
	add("Verbs", r.Verbs)
	return "{" + strings.Join(parts, ", ") + "}"
}

// EscalationCheck is an admission plugin that lets nobody grant rights that he does not hold, unless he may "escalate" the
// role or "bind" it.
type EscalationCheck struct {
	rbac *Authorizer
	all  authorizer.UnconditionalAuthorizer
}

var _ admission.ValidationInterface = (*EscalationCheck)(nil)

// NewEscalationCheck asks rbac which rights a user holds, and all, the server's whole authorizer, about the exceptions.
func NewEscalationCheck(rbac *Authorizer, all authorizer.UnconditionalAuthorizer) *EscalationCheck {
	return &EscalationCheck{rbac: rbac, all: all}
}

// Handles implements admission.Interface.
func (*EscalationCheck) Handles(o admission.Operation) bool {
	return o == admission.Create || o == admission.Update
}

// Validate implements admission.ValidationInterface.
func (e *EscalationCheck) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().Group != rbacv1.GroupName || a.GetSubresource() != "" {
		return nil
	}
	u := a.GetUserInfo()
	// The masters' rights come from outside RBAC.
	if u == nil || slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) {
		return nil
	}
	g := e.granted(a)
	if len(g.rules) == 0 && g.err == nil || e.may(ctx, a, g) {
		return nil
	}
	if g.err != nil {
		return admission.NewForbidden(a, g.err)
	}
	if err := e.rbac.ConfirmNoEscalation(ctx, u, a.GetNamespace(), g.rules); err != nil {
		return admission.NewForbidden(a, err)
	}
	return nil
}

// grant is what a write would grant, and the verb on a role that allows it all the same.
type grant struct {
	rules                []rbacv1.PolicyRule
	verb, resource, name string
	err                  error // the rules could not be found out
}

// granted looks at the difference that a write makes: one that changes nothing about rights (a label, say) grants nothing.
func (e *EscalationCheck) granted(a admission.Attributes) grant {
	switch o := a.GetObject().(type) {
	case *rbacv1.Role:
		if old, ok := a.GetOldObject().(*rbacv1.Role); ok && equality.Semantic.DeepEqual(o.Rules, old.Rules) {
			return grant{}
		}
		return grant{rules: o.Rules, verb: "escalate", resource: "roles", name: o.Name}
	case *rbacv1.ClusterRole:
		return grant{rules: grantedByClusterRole(o, a.GetOldObject()), verb: "escalate", resource: "clusterroles", name: o.Name}
	case *rbacv1.RoleBinding:
		if old, ok := a.GetOldObject().(*rbacv1.RoleBinding); ok && equality.Semantic.DeepEqual(o.Subjects, old.Subjects) && o.RoleRef == old.RoleRef {
			return grant{}
		}
		return e.grantedByBinding(o.RoleRef, a.GetNamespace())
	case *rbacv1.ClusterRoleBinding:
		if old, ok := a.GetOldObject().(*rbacv1.ClusterRoleBinding); ok && equality.Semantic.DeepEqual(o.Subjects, old.Subjects) && o.RoleRef == old.RoleRef {
			return grant{}
		}
		return e.grantedByBinding(o.RoleRef, "")
	}
	return grant{}
}

// grantedByClusterRole: an aggregation rule may select anything, now or later, so it counts as everything.
func grantedByClusterRole(r *rbacv1.ClusterRole, before runtime.Object) []rbacv1.PolicyRule {
	old, update := before.(*rbacv1.ClusterRole)
	if update && equality.Semantic.DeepEqual(r.Rules, old.Rules) && equality.Semantic.DeepEqual(r.AggregationRule, old.AggregationRule) {
		return nil
	}
	if r.AggregationRule != nil && !(update && equality.Semantic.DeepEqual(r.AggregationRule, old.AggregationRule)) {
		return everything()
	}
	return r.Rules
}

func everything() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
		{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
	}
}

func (e *EscalationCheck) grantedByBinding(ref rbacv1.RoleRef, namespace string) grant {
	resource := "clusterroles"
	if ref.Kind == "Role" {
		resource = "roles"
	}
	rules, err := e.rbac.RulesOf(ref, namespace)
	return grant{rules: rules, verb: "bind", resource: resource, name: ref.Name, err: err}
}

func (e *EscalationCheck) may(ctx context.Context, a admission.Attributes, g grant) bool {
	attrs := authorizer.AttributesRecord{
		User: a.GetUserInfo(), Verb: g.verb, Namespace: a.GetNamespace(), APIGroup: rbacv1.GroupName, APIVersion: "v1",
		Resource: g.resource, Name: g.name, ResourceRequest: true,
	}
	decision, _, err := e.all.Authorize(ctx, attrs)
	return err == nil && decision == authorizer.DecisionAllow
}
