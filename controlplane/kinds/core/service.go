// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/fill"
)

// Service is the kind Service. Its addresses and node ports are allocated by the server.
func Service() kinds.Kind {
	return kinds.Define(&corev1.ServiceList{}, kinds.Def[*corev1.Service]{
		GroupVersion:        corev1.SchemeGroupVersion,
		Kind:                "Service",
		Resource:            "services",
		ShortNames:          []string{"svc"},
		Categories:          []string{"all"},
		StoragePrefix:       "services/specs",
		HasStatus:           true,
		NoGeneration:        true,
		AllowCreateOnUpdate: true,
		ValidateName:        apivalidation.NameIsDNS1035Label,
		Default:             defaultService,
		PrepareForUpdate:    prepareServiceForUpdate,
		Validate:            validateService,
		ValidateUpdate:      validateServiceUpdate,
		Warnings:            serviceWarnings,
		Columns:             serviceColumns,
		Row:                 serviceRow,
		Fields: func(s *corev1.Service) fields.Set {
			return fields.Set{"spec.clusterIP": s.Spec.ClusterIP, "spec.type": string(s.Spec.Type)}
		},
		FieldNames: []string{"spec.clusterIP", "spec.type"},
	})
}

// serviceWarnings names what is stored and has no effect yet, so that nobody waits for an answer from outside.
func serviceWarnings(s *corev1.Service) []string {
	var warnings []string
	if t := s.Spec.Type; t == corev1.ServiceTypeNodePort || t == corev1.ServiceTypeLoadBalancer {
		warnings = append(warnings, fmt.Sprintf("spec.type: a Service of type %s is reached at its cluster address only: node ports and load balancers do nothing yet", t))
	}
	if len(s.Spec.ExternalIPs) > 0 {
		warnings = append(warnings, "spec.externalIPs: external addresses do nothing yet")
	}
	return warnings
}

func defaultService(s *corev1.Service) {
	spec := &s.Spec
	fill.Zero(&spec.Type, corev1.ServiceTypeClusterIP)
	fill.Zero(&spec.SessionAffinity, corev1.ServiceAffinityNone)
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityNone:
		spec.SessionAffinityConfig = nil
	case corev1.ServiceAffinityClientIP:
		if c := spec.SessionAffinityConfig; c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
			seconds := corev1.DefaultClientIPServiceAffinitySeconds
			spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
		}
	}
	for i := range spec.Ports {
		port := &spec.Ports[i]
		fill.Zero(&port.Protocol, corev1.ProtocolTCP)
		if port.TargetPort == intstr.FromInt32(0) || port.TargetPort == intstr.FromString("") {
			port.TargetPort = intstr.FromInt32(port.Port)
		}
	}
	if externallyReachable(spec) {
		fill.Zero(&spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	if hasClusterIP(spec) {
		fill.Nil(&spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		fill.Nil(&spec.AllocateLoadBalancerNodePorts, true)
	}
}

func externallyReachable(spec *corev1.ServiceSpec) bool {
	return hasNodePorts(spec) || spec.Type == corev1.ServiceTypeClusterIP && len(spec.ExternalIPs) > 0
}

func hasNodePorts(spec *corev1.ServiceSpec) bool {
	return spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer
}

// hasClusterIP reports whether the type has an address of the cluster; it may still be None.
func hasClusterIP(spec *corev1.ServiceSpec) bool {
	return spec.Type == corev1.ServiceTypeClusterIP || hasNodePorts(spec)
}

// prepareServiceForUpdate lets a client that sends the manifest it once created keep what was allocated since, and
// drops what belonged to the old type only.
func prepareServiceForUpdate(_ context.Context, s, old *corev1.Service) {
	keepAllocated(&s.Spec, &old.Spec)
	dropOldType(&s.Spec, &old.Spec)
}

func keepAllocated(spec, old *corev1.ServiceSpec) {
	if hasClusterIP(spec) && hasClusterIP(old) && spec.ClusterIP == "" && len(spec.ClusterIPs) == 0 {
		spec.ClusterIP = old.ClusterIP
		spec.ClusterIPs = append([]string(nil), old.ClusterIPs...)
	}
	if hasNodePorts(spec) && hasNodePorts(old) {
		type key struct {
			protocol corev1.Protocol
			port     int32
		}
		had := map[key]int32{}
		for _, p := range old.Ports {
			had[key{p.Protocol, p.Port}] = p.NodePort
		}
		given := map[int32]bool{}
		for _, p := range spec.Ports {
			given[p.NodePort] = true
		}
		for i := range spec.Ports {
			p := &spec.Ports[i]
			if n := had[key{p.Protocol, p.Port}]; p.NodePort == 0 && !given[n] {
				p.NodePort = n
			}
		}
	}
	if needsHealthPort(spec) && needsHealthPort(old) {
		fill.Zero(&spec.HealthCheckNodePort, old.HealthCheckNodePort)
	}
}

func needsHealthPort(spec *corev1.ServiceSpec) bool {
	return spec.Type == corev1.ServiceTypeLoadBalancer && spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// dropOldType clears a field when the new type cannot have it and the client did not ask for it: it only repeats what was.
func dropOldType(spec, old *corev1.ServiceSpec) {
	if hasClusterIP(old) && !hasClusterIP(spec) && spec.ClusterIP == old.ClusterIP {
		spec.ClusterIP, spec.ClusterIPs, spec.IPFamilies, spec.IPFamilyPolicy = "", nil, nil, nil
	}
	if hasNodePorts(old) && !hasNodePorts(spec) && sameNodePorts(spec.Ports, old.Ports) {
		for i := range spec.Ports {
			spec.Ports[i].NodePort = 0
		}
	}
	if needsHealthPort(old) && !needsHealthPort(spec) && spec.HealthCheckNodePort == old.HealthCheckNodePort {
		spec.HealthCheckNodePort = 0
	}
	if old.Type == corev1.ServiceTypeLoadBalancer && spec.Type != corev1.ServiceTypeLoadBalancer {
		if spec.AllocateLoadBalancerNodePorts != nil && old.AllocateLoadBalancerNodePorts != nil &&
			*spec.AllocateLoadBalancerNodePorts == *old.AllocateLoadBalancerNodePorts {
			spec.AllocateLoadBalancerNodePorts = nil
		}
		if spec.LoadBalancerClass != nil && old.LoadBalancerClass != nil && *spec.LoadBalancerClass == *old.LoadBalancerClass {
			spec.LoadBalancerClass = nil
		}
	}
	if externallyReachable(old) && !externallyReachable(spec) && spec.ExternalTrafficPolicy == old.ExternalTrafficPolicy {
		spec.ExternalTrafficPolicy = ""
	}
}

func sameNodePorts(ports, old []corev1.ServicePort) bool {
	had := map[int32]bool{}
	for _, p := range old {
		had[p.NodePort] = true
	}
	for _, p := range ports {
		if p.NodePort != 0 && !had[p.NodePort] {
			return false
		}
	}
	return true
}

var (
	serviceDoc     = corev1.ServiceSpec{}.SwaggerDoc()
	serviceColumns = []metav1.TableColumnDefinition{
		kinds.NameColumn(),
		kinds.Column("Type", "string", serviceDoc["type"]),
		kinds.Column("Cluster-IP", "string", serviceDoc["clusterIP"]),
		kinds.Column("External-IP", "string", serviceDoc["externalIPs"]),
		kinds.Column("Port(s)", "string", serviceDoc["ports"]),
		kinds.AgeColumn(),
		kinds.WideColumn("Selector", "string", serviceDoc["selector"]),
	}
)

func serviceRow(s *corev1.Service) []any {
	ip := s.Spec.ClusterIP
	if len(s.Spec.ClusterIPs) > 0 {
		ip = s.Spec.ClusterIPs[0]
	}
	selector := none
	if len(s.Spec.Selector) > 0 {
		selector = labels.FormatLabels(s.Spec.Selector)
	}
	return []any{s.Name, string(s.Spec.Type), orNone(ip), externalIP(s), servicePorts(s.Spec.Ports), kinds.Age(s.CreationTimestamp), selector}
}

func externalIP(s *corev1.Service) string {
	switch s.Spec.Type {
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	case corev1.ServiceTypeLoadBalancer:
		var addresses []string
		for _, in := range s.Status.LoadBalancer.Ingress {
			if in.IP != "" {
				addresses = append(addresses, in.IP)
			} else if in.Hostname != "" {
				addresses = append(addresses, in.Hostname)
			}
		}
		addresses = append(addresses, s.Spec.ExternalIPs...)
		if len(addresses) == 0 {
			return "<pending>"
		}
		return strings.Join(addresses, ",")
	}
	return orNone(strings.Join(s.Spec.ExternalIPs, ","))
}

func servicePorts(ports []corev1.ServicePort) string {
	parts := make([]string, len(ports))
	for i, p := range ports {
		parts[i] = fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.NodePort > 0 {
			parts[i] = fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
		}
	}
	return orNone(strings.Join(parts, ","))
}
