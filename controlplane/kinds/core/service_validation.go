// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds/check"
)

func validateService(s *corev1.Service) field.ErrorList {
	spec, path := &s.Spec, field.NewPath("spec")
	var errs field.ErrorList
	if len(spec.Ports) == 0 && spec.ClusterIP != corev1.ClusterIPNone && spec.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(path.Child("ports"), ""))
	}
	errs = append(errs, validateServiceType(spec, path)...)
	errs = append(errs, validateServicePorts(spec, path.Child("ports"))...)
	errs = append(errs, metav1validation.ValidateLabels(spec.Selector, path.Child("selector"))...)
	errs = append(errs, validateSessionAffinity(spec, path)...)
	errs = append(errs, validateClusterIPs(spec, path)...)
	errs = append(errs, validateFamilies(spec, path)...)
	errs = append(errs, validateExternalAddresses(spec, path)...)
	errs = append(errs, validateTrafficPolicies(spec, path)...)
	return append(errs, validateLoadBalancer(spec, path)...)
}

func validateServiceType(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	errs := check.OneOf(path.Child("type"), spec.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName,
		corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)
	switch spec.Type {
	case corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
		if spec.ClusterIP == corev1.ClusterIPNone {
			message := fmt.Sprintf("may not be set to 'None' for %s services", spec.Type)
			errs = append(errs, field.Invalid(path.Child("clusterIPs").Index(0), spec.ClusterIP, message))
		}
	case corev1.ServiceTypeExternalName:
		if spec.ClusterIP != "" || len(spec.ClusterIPs) > 0 {
			errs = append(errs, field.Forbidden(path.Child("clusterIPs"), "may not be set for ExternalName services"))
		}
		// A trailing dot makes the name absolute.
		name := strings.TrimSuffix(spec.ExternalName, ".")
		if name == "" {
			return append(errs, field.Required(path.Child("externalName"), ""))
		}
		errs = append(errs, check.Invalid(path.Child("externalName"), spec.ExternalName, validation.IsDNS1123Subdomain(name))...)
	}
	return errs
}

func validateServicePorts(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	type onNode struct {
		protocol corev1.Protocol
		port     int32
	}
	var errs field.ErrorList
	names, numbers, nodePorts := sets.New[string](), sets.New[onNode](), sets.New[onNode]()
	for i := range spec.Ports {
		port, at := &spec.Ports[i], path.Index(i)
		errs = append(errs, validateServicePort(port, spec, len(spec.Ports) > 1, at)...)
		if port.Name != "" && names.Has(port.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), port.Name))
		}
		names.Insert(port.Name)
		number := onNode{port.Protocol, port.Port}
		if numbers.Has(number) {
			errs = append(errs, field.Duplicate(at, corev1.ServicePort{Protocol: port.Protocol, Port: port.Port}))
		}
		numbers.Insert(number)
		if port.NodePort == 0 {
			continue
		}
		node := onNode{port.Protocol, port.NodePort}
		if nodePorts.Has(node) {
			errs = append(errs, field.Duplicate(at.Child("nodePort"), port.NodePort))
		}
		nodePorts.Insert(node)
	}
	return errs
}

func validateServicePort(port *corev1.ServicePort, spec *corev1.ServiceSpec, needName bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if port.Name == "" {
		if needName {
			errs = append(errs, field.Required(at.Child("name"), ""))
		}
	} else {
		errs = append(errs, check.Invalid(at.Child("name"), port.Name, validation.IsDNS1123Label(port.Name))...)
	}
	errs = append(errs, check.Port(at.Child("port"), port.Port)...)
	errs = append(errs, check.OneOf(at.Child("protocol"), port.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
	errs = append(errs, check.PortOrName(at.Child("targetPort"), port.TargetPort)...)
	if port.AppProtocol != nil {
		errs = append(errs, check.Invalid(at.Child("appProtocol"), *port.AppProtocol, validation.IsQualifiedName(*port.AppProtocol))...)
	}
	if port.NodePort != 0 && !hasNodePorts(spec) {
		errs = append(errs, field.Forbidden(at.Child("nodePort"), fmt.Sprintf("may not be used when `type` is '%s'", spec.Type)))
	}
	return errs
}

// maxAffinitySeconds is one day.
const maxAffinitySeconds = int32(86400)

func validateSessionAffinity(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	errs := check.OneOf(path.Child("sessionAffinity"), spec.SessionAffinity, corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	config := path.Child("sessionAffinityConfig")
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityNone:
		if spec.SessionAffinityConfig != nil {
			errs = append(errs, field.Forbidden(config, fmt.Sprintf("must not be set when session affinity is %s", corev1.ServiceAffinityNone)))
		}
	case corev1.ServiceAffinityClientIP:
		c := spec.SessionAffinityConfig
		at := config.Child("clientIP", "timeoutSeconds")
		if c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
			return append(errs, field.Required(at, fmt.Sprintf("when session affinity type is %s", corev1.ServiceAffinityClientIP)))
		}
		if s := *c.ClientIP.TimeoutSeconds; s <= 0 || s > maxAffinitySeconds {
			errs = append(errs, field.Invalid(at, s, fmt.Sprintf("must be greater than 0 and less than %d", maxAffinitySeconds)))
		}
	}
	return errs
}

// validateClusterIPs checks what the client asked for, and what the allocator made of it.
func validateClusterIPs(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	if !hasClusterIP(spec) {
		return nil
	}
	at := path.Child("clusterIPs")
	ips := spec.ClusterIPs
	if len(ips) == 0 {
		if spec.ClusterIP == "" {
			return nil
		}
		ips = []string{spec.ClusterIP}
	} else if spec.ClusterIP != ips[0] {
		return field.ErrorList{field.Invalid(at, spec.ClusterIPs, "first value must match `clusterIP`")}
	}
	var errs field.ErrorList
	if slices.Contains(ips, corev1.ClusterIPNone) && len(ips) > 1 {
		errs = append(errs, field.Invalid(at, spec.ClusterIPs, "'None' must be the first and only value"))
	}
	if len(ips) > 2 {
		errs = append(errs, field.Invalid(at, spec.ClusterIPs, "may only hold up to 2 values"))
	}
	families := sets.New[bool]()
	for i, ip := range ips {
		if ip == corev1.ClusterIPNone {
			continue
		}
		if ip == "" {
			errs = append(errs, field.Invalid(at.Index(i), ip, "must be empty if unset")) // an empty entry among others
			continue
		}
		errs = append(errs, validation.IsValidIP(at.Index(i), ip)...)
		if addr, err := netip.ParseAddr(ip); err == nil {
			if families.Has(addr.Is4()) {
				errs = append(errs, field.Invalid(at, spec.ClusterIPs, "may specify no more than one IP for each IP family"))
			}
			families.Insert(addr.Is4())
		}
	}
	return errs
}

func validateFamilies(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := path.Child("ipFamilies")
	seen := sets.New[corev1.IPFamily]()
	for i, family := range spec.IPFamilies {
		errs = append(errs, check.OneOf(at.Index(i), family, corev1.IPv4Protocol, corev1.IPv6Protocol)...)
		if seen.Has(family) {
			errs = append(errs, field.Duplicate(at.Index(i), family))
		}
		seen.Insert(family)
		if i < len(spec.ClusterIPs) {
			addr, err := netip.ParseAddr(spec.ClusterIPs[i])
			if err == nil && addr.Is4() != (family == corev1.IPv4Protocol) {
				errs = append(errs, field.Invalid(path.Child("clusterIPs").Index(i), spec.ClusterIPs[i],
					fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%d]`", family, i)))
			}
		}
	}
	if len(spec.IPFamilies) > 2 {
		errs = append(errs, field.Invalid(at, spec.IPFamilies, "may only hold up to 2 values"))
	}
	if p := spec.IPFamilyPolicy; p != nil {
		errs = append(errs, check.OneOf(path.Child("ipFamilyPolicy"), *p,
			corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)...)
	}
	return errs
}

func validateExternalAddresses(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, ip := range spec.ExternalIPs {
		at := path.Child("externalIPs").Index(i)
		bad := validation.IsValidIPForLegacyField(at, ip, false, nil)
		errs = append(errs, bad...)
		if len(bad) == 0 {
			errs = append(errs, ValidateEndpointIP(ip, at)...)
		}
	}
	if len(spec.LoadBalancerSourceRanges) > 0 {
		at := path.Child("loadBalancerSourceRanges")
		if spec.Type != corev1.ServiceTypeLoadBalancer {
			errs = append(errs, field.Forbidden(at, "may only be used when `type` is 'LoadBalancer'"))
		}
		for i, cidr := range spec.LoadBalancerSourceRanges {
			errs = append(errs, validation.IsValidCIDRForLegacyField(at.Index(i), strings.TrimSpace(cidr), false, nil)...)
		}
	}
	return errs
}

func validateTrafficPolicies(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := path.Child("externalTrafficPolicy")
	if externallyReachable(spec) {
		errs = append(errs, check.OneOf(at, spec.ExternalTrafficPolicy,
			corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)...)
	} else if spec.ExternalTrafficPolicy != "" {
		errs = append(errs, field.Invalid(at, spec.ExternalTrafficPolicy, "may only be set for externally-accessible services"))
	}
	if p := spec.InternalTrafficPolicy; p != nil {
		errs = append(errs, check.OneOf(path.Child("internalTrafficPolicy"), *p,
			corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
	}
	if p := spec.TrafficDistribution; p != nil {
		errs = append(errs, check.OneOf(path.Child("trafficDistribution"), *p, corev1.ServiceTrafficDistributionPreferClose,
			corev1.ServiceTrafficDistributionPreferSameNode, corev1.ServiceTrafficDistributionPreferSameZone)...)
	}
	at = path.Child("healthCheckNodePort")
	if spec.HealthCheckNodePort < 0 {
		errs = append(errs, field.Invalid(at, spec.HealthCheckNodePort, apivalidation.IsNegativeErrorMsg))
	} else if spec.HealthCheckNodePort > 0 && !needsHealthPort(spec) {
		errs = append(errs, field.Invalid(at, spec.HealthCheckNodePort,
			"may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
	}
	return errs
}

func validateLoadBalancer(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	balancer := spec.Type == corev1.ServiceTypeLoadBalancer
	var errs field.ErrorList
	if at := path.Child("allocateLoadBalancerNodePorts"); balancer && spec.AllocateLoadBalancerNodePorts == nil {
		errs = append(errs, field.Required(at, ""))
	} else if !balancer && spec.AllocateLoadBalancerNodePorts != nil {
		errs = append(errs, field.Forbidden(at, "may only be used when `type` is 'LoadBalancer'"))
	}
	if class := spec.LoadBalancerClass; class != nil {
		at := path.Child("loadBalancerClass")
		if !balancer {
			errs = append(errs, field.Forbidden(at, "may only be used when `type` is 'LoadBalancer'"))
		}
		errs = append(errs, check.Invalid(at, *class, validation.IsQualifiedName(*class))...)
	}
	return errs
}

// validateServiceUpdate: addresses stay for the life of a Service, except that None and ExternalName have none to keep
// and that the second family may come and go.
func validateServiceUpdate(s, old *corev1.Service) field.ErrorList {
	errs := validateService(s)
	path := field.NewPath("spec", "clusterIPs")
	if hasClusterIP(&s.Spec) && hasClusterIP(&old.Spec) {
		for i, was := range old.Spec.ClusterIPs {
			switch {
			case i < len(s.Spec.ClusterIPs) && was != "" && s.Spec.ClusterIPs[i] != was:
				errs = append(errs, field.Invalid(path.Index(i), s.Spec.ClusterIPs, "may not change once set"))
			case i == 0 && len(s.Spec.ClusterIPs) == 0 && was != "":
				errs = append(errs, field.Invalid(path.Index(0), s.Spec.ClusterIPs, "primary clusterIP can not be unset"))
			}
		}
		if len(old.Spec.IPFamilies) > 0 && len(s.Spec.IPFamilies) > 0 && s.Spec.IPFamilies[0] != old.Spec.IPFamilies[0] {
			errs = append(errs, field.Invalid(field.NewPath("spec", "ipFamilies").Index(0), s.Spec.IPFamilies[0], "may not change once set"))
		}
	}
	if old.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		errs = append(errs, apivalidation.ValidateImmutableField(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass,
			field.NewPath("spec", "loadBalancerClass"))...)
	}
	return errs
}
