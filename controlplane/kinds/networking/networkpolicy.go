// SPDX-License-Identifier: Apache-2.0

package networking

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/check"
	"skep.dev/skep/controlplane/kinds/fill"
)

// NetworkPolicy is the kind NetworkPolicy.
func NetworkPolicy() kinds.Kind {
	return kinds.Define(&networkingv1.NetworkPolicyList{}, kinds.Def[*networkingv1.NetworkPolicy]{
		GroupVersion: networkingv1.SchemeGroupVersion,
		Kind:         "NetworkPolicy",
		Resource:     "networkpolicies",
		ShortNames:   []string{"netpol"},
		Default:      defaultPolicy,
		Validate:     validatePolicy,
		Warnings:     policyWarnings,
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(),
			kinds.Column("Pod-Selector", "string", networkingv1.NetworkPolicySpec{}.SwaggerDoc()["podSelector"]),
			kinds.AgeColumn(),
		},
		Row: func(p *networkingv1.NetworkPolicy) []any {
			return []any{p.Name, metav1.FormatLabelSelector(&p.Spec.PodSelector), kinds.Age(p.CreationTimestamp)}
		},
	})
}

// defaultPolicy says which directions are meant: ingress always, egress when there are egress rules.
func defaultPolicy(p *networkingv1.NetworkPolicy) {
	for i := range p.Spec.Ingress {
		defaultPorts(p.Spec.Ingress[i].Ports)
	}
	for i := range p.Spec.Egress {
		defaultPorts(p.Spec.Egress[i].Ports)
	}
	if len(p.Spec.PolicyTypes) == 0 {
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(p.Spec.Egress) > 0 {
			p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
}

func defaultPorts(ports []networkingv1.NetworkPolicyPort) {
	for i := range ports {
		fill.Nil(&ports[i].Protocol, corev1.ProtocolTCP)
	}
}

func validatePolicy(p *networkingv1.NetworkPolicy) field.ErrorList {
	path := field.NewPath("spec")
	errs := check.Selector(&p.Spec.PodSelector, path.Child("podSelector"))
	for i, rule := range p.Spec.Ingress {
		at := path.Child("ingress").Index(i)
		errs = append(errs, validatePorts(rule.Ports, at.Child("ports"))...)
		errs = append(errs, validatePeers(rule.From, at.Child("from"))...)
	}
	for i, rule := range p.Spec.Egress {
		at := path.Child("egress").Index(i)
		errs = append(errs, validatePorts(rule.Ports, at.Child("ports"))...)
		errs = append(errs, validatePeers(rule.To, at.Child("to"))...)
	}
	at := path.Child("policyTypes")
	if len(p.Spec.PolicyTypes) > 2 {
		return append(errs, field.Invalid(at, p.Spec.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, t := range p.Spec.PolicyTypes {
		if t != networkingv1.PolicyTypeIngress && t != networkingv1.PolicyTypeEgress {
			errs = append(errs, field.NotSupported(at.Index(i), t, []networkingv1.PolicyType{networkingv1.PolicyTypeEgress, networkingv1.PolicyTypeIngress}))
		}
	}
	return errs
}

func validatePorts(ports []networkingv1.NetworkPolicyPort, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, p := range ports {
		at := path.Index(i)
		if p.Protocol != nil {
			errs = append(errs, check.OneOf(at.Child("protocol"), *p.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		}
		errs = append(errs, validatePortRange(p, at)...)
	}
	return errs
}

func validatePortRange(p networkingv1.NetworkPolicyPort, path *field.Path) field.ErrorList {
	end := path.Child("endPort")
	if p.Port == nil {
		if p.EndPort != nil {
			return field.ErrorList{field.Invalid(end, *p.EndPort, "may not be specified when `port` is not specified")}
		}
		return nil
	}
	if p.Port.Type == intstr.String {
		var errs field.ErrorList
		if p.EndPort != nil {
			errs = append(errs, field.Invalid(end, *p.EndPort, "may not be specified when `port` is non-numeric"))
		}
		return append(errs, check.PortOrName(path.Child("port"), *p.Port)...)
	}
	errs := check.Port(path.Child("port"), p.Port.IntVal)
	if p.EndPort != nil {
		if *p.EndPort < p.Port.IntVal {
			errs = append(errs, field.Invalid(end, *p.EndPort, "must be greater than or equal to `port`"))
		}
		errs = append(errs, check.Port(end, *p.EndPort)...)
	}
	return errs
}

func validatePeers(peers []networkingv1.NetworkPolicyPeer, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, peer := range peers {
		at := path.Index(i)
		if peer.PodSelector != nil {
			errs = append(errs, check.Selector(peer.PodSelector, at.Child("podSelector"))...)
		}
		if peer.NamespaceSelector != nil {
			errs = append(errs, check.Selector(peer.NamespaceSelector, at.Child("namespaceSelector"))...)
		}
		if peer.IPBlock != nil {
			errs = append(errs, validateIPBlock(peer.IPBlock, at.Child("ipBlock"))...)
		}
		selectors := peer.PodSelector != nil || peer.NamespaceSelector != nil
		switch {
		case peer.IPBlock == nil && !selectors:
			errs = append(errs, field.Required(at, "must specify a peer"))
		case peer.IPBlock != nil && selectors:
			errs = append(errs, field.Forbidden(at, "may not specify both ipBlock and another peer"))
		}
	}
	return errs
}

// policyWarnings points at address ranges whose text says more than the range: 10.1.2.3/16 allows all of 10.1.0.0/16.
func policyWarnings(p *networkingv1.NetworkPolicy) []string {
	var warnings []string
	look := func(peers []networkingv1.NetworkPolicyPeer, path *field.Path) {
		for i, peer := range peers {
			if peer.IPBlock == nil {
				continue
			}
			at := path.Index(i).Child("ipBlock")
			warnings = append(warnings, validation.GetWarningsForCIDR(at.Child("cidr"), peer.IPBlock.CIDR)...)
			for j, except := range peer.IPBlock.Except {
				warnings = append(warnings, validation.GetWarningsForCIDR(at.Child("except").Index(j), except)...)
			}
		}
	}
	path := field.NewPath("spec")
	for i, rule := range p.Spec.Ingress {
		look(rule.From, path.Child("ingress").Index(i).Child("from"))
	}
	for i, rule := range p.Spec.Egress {
		look(rule.To, path.Child("egress").Index(i).Child("to"))
	}
	return warnings
}

func validateIPBlock(b *networkingv1.IPBlock, path *field.Path) field.ErrorList {
	if b.CIDR == "" {
		return field.ErrorList{field.Required(path.Child("cidr"), "")}
	}
	errs := validateCIDR(b.CIDR, path.Child("cidr"))
	if len(errs) > 0 {
		return errs
	}
	block := netip.MustParsePrefix(b.CIDR)
	for i, except := range b.Except {
		at := path.Child("except").Index(i)
		bad := validateCIDR(except, at)
		errs = append(errs, bad...)
		if len(bad) > 0 {
			continue
		}
		hole := netip.MustParsePrefix(except)
		if !block.Contains(hole.Addr()) || hole.Bits() <= block.Bits() {
			errs = append(errs, field.Invalid(at, except, "must be a strict subset of `cidr`"))
		}
	}
	return errs
}

// validateCIDR also refuses what only the lenient parser of old fields takes (leading zeros): the packet path reads
// the strict form, and a policy that two readers understand differently protects nobody.
func validateCIDR(cidr string, path *field.Path) field.ErrorList {
	if errs := validation.IsValidCIDRForLegacyField(path, cidr, false, nil); len(errs) > 0 {
		return errs
	}
	if _, err := netip.ParsePrefix(cidr); err != nil {
		return field.ErrorList{field.Invalid(path, cidr, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")}
	}
	return nil
}
