// SPDX-License-Identifier: Apache-2.0

package core

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"skep.dev/skep/controlplane/kinds/kindtest"
)

type serviceCase struct {
	Name   string
	Change func(*corev1.Service)
	Want   []string
}

func validService() *corev1.Service {
	return parse[corev1.Service](`
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: http}
  - {name: dns, port: 53, protocol: UDP}
`)
}

func TestServicesAreChecked(t *testing.T) {
	kindtest.Create(t, Service(), validService, []serviceCase{
		{"a valid one", func(*corev1.Service) {}, nil},
		{"no ports", func(s *corev1.Service) { s.Spec.Ports = nil }, []string{"spec.ports: Required value"}},
		{"headless without ports", func(s *corev1.Service) { s.Spec.Ports = nil; s.Spec.ClusterIP = "None" }, nil},
		{"an unknown type", func(s *corev1.Service) { s.Spec.Type = "Cluster" }, []string{`spec.type: Unsupported value: "Cluster": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"`}},
		{"a port of zero", func(s *corev1.Service) { s.Spec.Ports[0].Port = 0 }, []string{"spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"}},
		{"a target that is too large", func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromInt32(65536) }, []string{"spec.ports[0].targetPort: Invalid value: 65536: must be between 1 and 65535, inclusive"}},
		{"two ports without names", func(s *corev1.Service) { s.Spec.Ports[0].Name = ""; s.Spec.Ports[1].Name = "" }, []string{"spec.ports[0].name: Required value", "spec.ports[1].name: Required value"}},
		{"a name twice", func(s *corev1.Service) { s.Spec.Ports[1].Name = "http" }, []string{`spec.ports[1].name: Duplicate value: "http"`}},
		{"a port twice", func(s *corev1.Service) { s.Spec.Ports[1].Port = 80; s.Spec.Ports[1].Protocol = "TCP" }, []string{`spec.ports[1]: Duplicate value: {`}},
		{"one port in two protocols", func(s *corev1.Service) { s.Spec.Ports[1].Port = 80 }, nil},
		{"a node port on a ClusterIP", func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30000 }, []string{"spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"}},
		{"a node port twice", func(s *corev1.Service) {
			s.Spec.Type = "NodePort"
			s.Spec.Ports[0].NodePort, s.Spec.Ports[1].NodePort, s.Spec.Ports[1].Protocol = 30000, 30000, "TCP"
		}, []string{"spec.ports[1].nodePort: Duplicate value: 30000"}},
		{"a bad selector", func(s *corev1.Service) { s.Spec.Selector["app"] = "a b" }, []string{`spec.selector: Invalid value: "a b": a valid label must be`}},
		{"an address that is none", func(s *corev1.Service) { s.Spec.ClusterIP = "10.0.0" }, []string{`spec.clusterIPs[0]: Invalid value: "10.0.0": must be a valid IP address`}},
		{"a headless node port", func(s *corev1.Service) { s.Spec.Type = "NodePort"; s.Spec.ClusterIP = "None" }, []string{`spec.clusterIPs[0]: Invalid value: "None": may not be set to 'None' for NodePort services`}},
		{"an external name without a name", func(s *corev1.Service) { s.Spec.Type = "ExternalName" }, []string{"spec.externalName: Required value"}},
		{"affinity for ever", func(s *corev1.Service) {
			s.Spec.SessionAffinity = "ClientIP"
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To[int32](86401)}}
		}, []string{"spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400"}},
		{"an external address on loopback", func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"127.0.0.1"} }, []string{`spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)`}},
		{"an unknown family", func(s *corev1.Service) { s.Spec.IPFamilies = []corev1.IPFamily{"IPv5"} }, []string{`spec.ipFamilies[0]: Unsupported value: "IPv5": supported values: "IPv4", "IPv6"`}},
		{"an address of the other family", func(s *corev1.Service) {
			s.Spec.IPFamilies, s.Spec.ClusterIP, s.Spec.ClusterIPs = []corev1.IPFamily{"IPv6"}, "10.0.0.1", []string{"10.0.0.1"}
		}, []string{`spec.clusterIPs[0]: Invalid value: "10.0.0.1": expected an IPv6 value as indicated by ` + "`ipFamilies[0]`"}},
		{"source ranges without a balancer", func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0/8"} }, []string{"spec.loadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'"}},
		{"an unknown internal policy", func(s *corev1.Service) {
			s.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicy("Near"))
		}, []string{`spec.internalTrafficPolicy: Unsupported value: "Near": supported values: "Cluster", "Local"`}},
	})
}

func TestServiceAddressesStay(t *testing.T) {
	allocated := func() *corev1.Service {
		s := validService()
		s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.96.0.7", []string{"10.96.0.7"}
		s.Spec.IPFamilies = []corev1.IPFamily{"IPv4"}
		return s
	}
	kindtest.Update(t, Service(), allocated, []serviceCase{
		{"the manifest again, without what was allocated", func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil }, nil},
		{"another address", func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.96.0.8", []string{"10.96.0.8"} }, []string{`spec.clusterIPs[0]: Invalid value: ["10.96.0.8"]: may not change once set`}},
		{"a second family", func(s *corev1.Service) {
			s.Spec.ClusterIPs, s.Spec.IPFamilies = append(s.Spec.ClusterIPs, "fd00::7"), append(s.Spec.IPFamilies, "IPv6")
		}, nil},
		{"another first family", func(s *corev1.Service) { s.Spec.IPFamilies[0] = "IPv6" }, []string{
			`spec.clusterIPs[0]: Invalid value: "10.96.0.7": expected an IPv6 value`, `spec.ipFamilies[0]: Invalid value: "IPv6": may not change once set`}},
		{"to an external name", func(s *corev1.Service) { s.Spec.Type, s.Spec.ExternalName = "ExternalName", "example.com" }, nil},
	})
}

func TestNodePortsSurviveAnApply(t *testing.T) {
	old, s := validService(), validService()
	for _, o := range []*corev1.Service{old, s} {
		o.Spec.Type = corev1.ServiceTypeNodePort
		defaultService(o)
	}
	old.Spec.Ports[0].NodePort, old.Spec.Ports[1].NodePort = 30080, 30053
	s.Spec.Ports[0], s.Spec.Ports[1] = s.Spec.Ports[1], s.Spec.Ports[0]
	prepareServiceForUpdate(t.Context(), s, old)
	if s.Spec.Ports[0].NodePort != 30053 || s.Spec.Ports[1].NodePort != 30080 {
		t.Errorf("node ports = %d, %d", s.Spec.Ports[0].NodePort, s.Spec.Ports[1].NodePort)
	}
	s.Spec.Type = corev1.ServiceTypeClusterIP
	prepareServiceForUpdate(t.Context(), s, old)
	if s.Spec.Ports[0].NodePort != 0 || s.Spec.ExternalTrafficPolicy != "" {
		t.Errorf("a ClusterIP keeps node port %d and policy %q", s.Spec.Ports[0].NodePort, s.Spec.ExternalTrafficPolicy)
	}
}

func TestServiceWarnings(t *testing.T) {
	for kind, want := range map[corev1.ServiceType]int{corev1.ServiceTypeClusterIP: 0, corev1.ServiceTypeExternalName: 0, corev1.ServiceTypeNodePort: 1, corev1.ServiceTypeLoadBalancer: 1} {
		s := validService()
		s.Spec.Type = kind
		if got := serviceWarnings(s); len(got) != want {
			t.Errorf("type %s: %q", kind, got)
		}
		s.Spec.ExternalIPs = []string{"192.0.2.1"}
		if got := serviceWarnings(s); len(got) != want+1 {
			t.Errorf("type %s with external addresses: %q", kind, got)
		}
	}
}

func TestServiceDefaults(t *testing.T) {
	s := validService()
	s.Spec.Type = corev1.ServiceTypeLoadBalancer
	s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	kindtest.DefaultsOnce(t, Service(), s)
	want := parse[corev1.ServiceSpec](`
type: LoadBalancer
selector: {app: web}
ports:
- {name: http, port: 80, targetPort: http, protocol: TCP}
- {name: dns, port: 53, targetPort: 53, protocol: UDP}
sessionAffinity: ClientIP
sessionAffinityConfig: {clientIP: {timeoutSeconds: 10800}}
externalTrafficPolicy: Cluster
internalTrafficPolicy: Cluster
allocateLoadBalancerNodePorts: true
`)
	if d := cmp.Diff(want, &s.Spec); d != "" {
		t.Errorf("defaulted (-want +got):\n%s", d)
	}
}

func TestServiceLines(t *testing.T) {
	s := validService()
	s.CreationTimestamp = ago(50 * time.Hour)
	s.Spec.ClusterIP = "10.96.0.7"
	defaultService(s)
	for _, tc := range []struct {
		name   string
		change func()
		want   []any
	}{
		{"ClusterIP", func() {}, []any{"web", "ClusterIP", "10.96.0.7", "<none>", "80/TCP,53/UDP", "2d2h", "app=web"}},
		{"NodePort", func() { s.Spec.Type = "NodePort"; s.Spec.Ports[0].NodePort = 30080 }, []any{"web", "NodePort", "10.96.0.7", "<none>", "80:30080/TCP,53/UDP", "2d2h", "app=web"}},
		{"LoadBalancer, waiting", func() { s.Spec.Type = "LoadBalancer" }, []any{"web", "LoadBalancer", "10.96.0.7", "<pending>", "80:30080/TCP,53/UDP", "2d2h", "app=web"}},
		{"LoadBalancer", func() { s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}} }, []any{"web", "LoadBalancer", "10.96.0.7", "192.0.2.1", "80:30080/TCP,53/UDP", "2d2h", "app=web"}},
		{"ExternalName", func() {
			s.Spec = corev1.ServiceSpec{Type: "ExternalName", ExternalName: "example.com"}
		}, []any{"web", "ExternalName", "<none>", "example.com", "<none>", "2d2h", "<none>"}},
	} {
		tc.change()
		if d := cmp.Diff(tc.want, kindtest.Line(Service(), s, true)); d != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, d)
		}
	}
}
