// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// planFamilies settles which IP families a Service has and in which order, and gives it one place in clusterIPs per
// family: what the user or the old version says, then the cluster's families in their order. It allocates nothing.
func planFamilies(spec, old *corev1.ServiceSpec, configured []corev1.IPFamily) field.ErrorList {
	if spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	normalizeClusterIPs(spec, old)
	if old != nil && old.Type != corev1.ServiceTypeExternalName {
		inheritFamilies(spec, old)
	}
	for i, ip := range spec.ClusterIPs {
		addr, err := netip.ParseAddr(ip)
		if err == nil && i == len(spec.IPFamilies) {
			spec.IPFamilies = append(spec.IPFamilies, familyOf(addr))
		}
	}
	if spec.IPFamilyPolicy == nil {
		policy := defaultPolicy(spec)
		spec.IPFamilyPolicy = &policy
	}
	if errs := checkFamilies(spec, configured); len(errs) > 0 {
		return errs
	}
	fillFamilies(spec, configured)
	return nil
}

// normalizeClusterIPs makes clusterIPs agree with clusterIP where the client set or cleared only the latter.
func normalizeClusterIPs(spec, old *corev1.ServiceSpec) {
	switch {
	case old == nil:
		if spec.ClusterIP != "" && len(spec.ClusterIPs) == 0 {
			spec.ClusterIPs = []string{spec.ClusterIP}
		}
	case spec.ClusterIP == "" && old.ClusterIP != "" && slices.Equal(spec.ClusterIPs, old.ClusterIPs):
		spec.ClusterIPs = nil
	case spec.ClusterIP != old.ClusterIP && slices.Equal(spec.ClusterIPs, old.ClusterIPs):
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
}

// inheritFamilies keeps what an update does not mention, and drops the second family when the policy says so.
func inheritFamilies(spec, old *corev1.ServiceSpec) {
	if spec.IPFamilyPolicy == nil {
		spec.IPFamilyPolicy = old.IPFamilyPolicy
	}
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = slices.Clone(old.IPFamilies)
	}
	if spec.IPFamilyPolicy == nil || *spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
		return
	}
	if len(spec.IPFamilies) == 2 && slices.Equal(spec.IPFamilies, old.IPFamilies) {
		spec.IPFamilies = spec.IPFamilies[:1]
	}
	if len(spec.ClusterIPs) == 2 && slices.Equal(spec.ClusterIPs, old.ClusterIPs) {
		spec.ClusterIPs = spec.ClusterIPs[:1]
	}
}

// defaultPolicy is for a Service that says nothing. A headless one without a selector may hold endpoints of any
// family, since its owner writes them.
func defaultPolicy(spec *corev1.ServiceSpec) corev1.IPFamilyPolicy {
	if len(spec.ClusterIPs) == 2 || len(spec.IPFamilies) == 2 || isHeadless(spec) && len(spec.Selector) == 0 {
		return corev1.IPFamilyPolicyRequireDualStack
	}
	return corev1.IPFamilyPolicySingleStack
}

func checkFamilies(spec *corev1.ServiceSpec, configured []corev1.IPFamily) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec")
	headlessOpen := isHeadless(spec) && len(spec.Selector) == 0
	for i, family := range spec.IPFamilies {
		known := family == corev1.IPv4Protocol || family == corev1.IPv6Protocol
		if known && !headlessOpen && !slices.Contains(configured, family) {
			errs = append(errs, field.Invalid(path.Child("ipFamilies").Index(i), family, "not configured on this cluster"))
		}
	}
	switch policy := *spec.IPFamilyPolicy; policy {
	case corev1.IPFamilyPolicySingleStack:
		if len(spec.ClusterIPs) > 1 {
			errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), policy,
				"must be RequireDualStack or PreferDualStack when multiple 'clusterIPs' are specified"))
		}
		if len(spec.IPFamilies) > 1 {
			errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), policy,
				"must be RequireDualStack or PreferDualStack when multiple 'ipFamilies' are specified"))
		}
	case corev1.IPFamilyPolicyRequireDualStack:
		if len(configured) < 2 && !headlessOpen {
			errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), policy,
				"this cluster is not configured for dual-stack services"))
		}
	}
	return errs
}

func fillFamilies(spec *corev1.ServiceSpec, configured []corev1.IPFamily) {
	want := 1
	if *spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
		want = 2
	}
	order := configured
	if isHeadless(spec) && len(spec.Selector) == 0 {
		order = append(slices.Clone(configured), corev1.IPv4Protocol, corev1.IPv6Protocol)
	}
	for _, family := range order {
		if len(spec.IPFamilies) < want && !slices.Contains(spec.IPFamilies, family) {
			spec.IPFamilies = append(spec.IPFamilies, family)
		}
	}
}

func isHeadless(spec *corev1.ServiceSpec) bool {
	return len(spec.ClusterIPs) > 0 && spec.ClusterIPs[0] == corev1.ClusterIPNone
}

func familyOf(addr netip.Addr) corev1.IPFamily {
	if addr.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}
