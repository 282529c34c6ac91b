// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// allows reports whether one rule covers a request.
func allows(rule *rbacv1.PolicyRule, a authorizer.Attributes) bool {
	if !includes(rule.Verbs, a.GetVerb(), rbacv1.VerbAll) {
		return false
	}
	if !a.IsResourceRequest() {
		return slices.ContainsFunc(rule.NonResourceURLs, func(pattern string) bool { return urlMatches(pattern, a.GetPath()) })
	}
	return includes(rule.APIGroups, a.GetAPIGroup(), rbacv1.APIGroupAll) &&
		resourceMatches(rule.Resources, a.GetResource(), a.GetSubresource()) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, a.GetName()))
}

func includes(values []string, value, all string) bool {
	return slices.Contains(values, value) || slices.Contains(values, all)
}

// resourceMatches knows "pods", "pods/log", "*/scale" and "*". A rule about a resource says nothing about its subresources.
func resourceMatches(patterns []string, resource, subresource string) bool {
	full := resource
	if subresource != "" {
		full = resource + "/" + subresource
	}
	for _, p := range patterns {
		if p == rbacv1.ResourceAll || p == full || subresource != "" && p == "*/"+subresource {
			return true
		}
	}
	return false
}

// urlMatches knows a star at the end.
func urlMatches(pattern, path string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(path, prefix)
	}
	return pattern == path
}

// isSubject reports whether a binding is about the user. namespace is the binding's own, empty for a ClusterRoleBinding:
// it completes a ServiceAccount that names none.
func isSubject(u user.Info, subjects []rbacv1.Subject, namespace string) bool {
	return slices.ContainsFunc(subjects, func(s rbacv1.Subject) bool {
		switch s.Kind {
		case rbacv1.UserKind:
			return s.Name == u.GetName()
		case rbacv1.GroupKind:
			return slices.Contains(u.GetGroups(), s.Name)
		case rbacv1.ServiceAccountKind:
			in := s.Namespace
			if in == "" {
				in = namespace
			}
			return in != "" && serviceaccount.MatchesUsername(in, s.Name, u.GetName())
		}
		return false
	})
}
