// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/check"
	"skep.dev/skep/controlplane/kinds/fill"
)

func defaultBinding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject) {
	fill.Zero(&ref.APIGroup, rbacv1.GroupName)
	for i := range subjects {
		// The group of a ServiceAccount is the empty one.
		if s := &subjects[i]; s.Kind == rbacv1.UserKind || s.Kind == rbacv1.GroupKind {
			fill.Zero(&s.APIGroup, rbacv1.GroupName)
		}
	}
}

// validateBinding checks what both bindings have. roleKinds are those that it may refer to; a subject of a namespaced
// binding must say its namespace too.
func validateBinding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject, roleKinds ...string) field.ErrorList {
	path := field.NewPath("roleRef")
	var errs field.ErrorList
	if ref.APIGroup != rbacv1.GroupName {
		errs = append(errs, field.NotSupported(path.Child("apiGroup"), ref.APIGroup, []string{rbacv1.GroupName}))
	}
	known := false
	for _, kind := range roleKinds {
		known = known || ref.Kind == kind
	}
	if !known {
		errs = append(errs, field.NotSupported(path.Child("kind"), ref.Kind, roleKinds))
	}
	if ref.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	} else {
		errs = append(errs, check.Invalid(path.Child("name"), ref.Name, validateName(ref.Name, false))...)
	}
	for i := range subjects {
		errs = append(errs, validateSubject(&subjects[i], field.NewPath("subjects").Index(i))...)
	}
	return errs
}

func validateSubject(s *rbacv1.Subject, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	group := rbacv1.GroupName
	switch s.Kind {
	case rbacv1.ServiceAccountKind:
		group = ""
		if s.Name != "" {
			errs = append(errs, check.Invalid(path.Child("name"), s.Name, validation.IsDNS1123Subdomain(s.Name))...)
		}
		if s.Namespace == "" {
			errs = append(errs, field.Required(path.Child("namespace"), ""))
		}
	case rbacv1.UserKind, rbacv1.GroupKind:
	default:
		return append(errs, field.NotSupported(path.Child("kind"), s.Kind, []string{rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind}))
	}
	if s.APIGroup != group {
		errs = append(errs, field.NotSupported(path.Child("apiGroup"), s.APIGroup, []string{group}))
	}
	return errs
}

// validateRef: what a binding grants never changes under the eyes of whoever may only change its subjects.
func validateRef(ref, old rbacv1.RoleRef) field.ErrorList {
	if ref != old {
		return field.ErrorList{field.Invalid(field.NewPath("roleRef"), ref, "cannot change roleRef")}
	}
	return nil
}

func bindingColumns(doc map[string]string) []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		kinds.NameColumn(),
		kinds.Column("Role", "string", doc["roleRef"]),
		kinds.AgeColumn(),
		kinds.WideColumn("Users", "string", "Users in the roleBinding"),
		kinds.WideColumn("Groups", "string", "Groups in the roleBinding"),
		kinds.WideColumn("ServiceAccounts", "string", "ServiceAccounts in the roleBinding"),
	}
}

func bindingRow(meta *metav1.ObjectMeta, ref rbacv1.RoleRef, subjects []rbacv1.Subject) []any {
	var users, groups, accounts []string
	for _, s := range subjects {
		switch s.Kind {
		case rbacv1.UserKind:
			users = append(users, s.Name)
		case rbacv1.GroupKind:
			groups = append(groups, s.Name)
		case rbacv1.ServiceAccountKind:
			accounts = append(accounts, s.Namespace+"/"+s.Name)
		}
	}
	list := func(names []string) string { return strings.Join(names, ", ") }
	return []any{meta.Name, ref.Kind + "/" + ref.Name, kinds.Age(meta.CreationTimestamp), list(users), list(groups), list(accounts)}
}
