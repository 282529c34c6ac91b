// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
)

func service(ns, name string, spec tree) tree {
	s := object("v1", "Service", ns, name)
	s["spec"] = spec
	return s
}

func TestServicesGetAddresses(t *testing.T) {
	ns := namespace(t)
	port := []any{tree{"port": 80}}
	selector := tree{"a": "b"}
	for _, c := range []struct {
		name   string
		spec   tree
		ips    string // families of clusterIPs
		policy corev1.IPFamilyPolicy
	}{
		{"plain", tree{"ports": port}, "IPv4", corev1.IPFamilyPolicySingleStack},
		{"both", tree{"ports": port, "ipFamilyPolicy": "PreferDualStack"}, "IPv4 IPv6", corev1.IPFamilyPolicyPreferDualStack},
		{"six", tree{"ports": port, "ipFamilies": []string{"IPv6"}}, "IPv6", corev1.IPFamilyPolicySingleStack},
		{"six-first", tree{"ports": port, "ipFamilies": []string{"IPv6", "IPv4"}, "ipFamilyPolicy": "RequireDualStack"}, "IPv6 IPv4", corev1.IPFamilyPolicyRequireDualStack},
		{"headless", tree{"ports": port, "clusterIP": "None", "selector": selector}, "None", corev1.IPFamilyPolicySingleStack},
		{"headless-open", tree{"ports": port, "clusterIP": "None"}, "None", corev1.IPFamilyPolicyRequireDualStack},
		{"given", tree{"ports": port, "clusterIP": "10.96.0.77"}, "IPv4", corev1.IPFamilyPolicySingleStack},
	} {
		var s corev1.Service
		decode(t, post(t, "/api/v1/namespaces/"+ns+"/services", service(ns, c.name, c.spec), http.StatusCreated), &s)
		var families []string
		for _, ip := range s.Spec.ClusterIPs {
			addr, err := netip.ParseAddr(ip)
			switch {
			case err != nil:
				families = append(families, ip)
			case addr.Is4():
				families = append(families, "IPv4")
			default:
				families = append(families, "IPv6")
			}
		}
		if got := strings.Join(families, " "); got != c.ips || *s.Spec.IPFamilyPolicy != c.policy || s.Spec.ClusterIP != s.Spec.ClusterIPs[0] {
			t.Errorf("%s: %v %s, want %s %s", c.name, s.Spec.ClusterIPs, *s.Spec.IPFamilyPolicy, c.ips, c.policy)
		}
	}
	for _, c := range []struct {
		name, want string
		spec       tree
	}{
		{"taken", "failed to allocate IP 10.96.0.77: provided IP is already allocated", tree{"ports": port, "clusterIP": "10.96.0.77"}},
		{"outside", "The range of valid IPs is 10.96.0.0/16", tree{"ports": port, "clusterIP": "10.99.0.1"}},
		{"nonsense", "spec.clusterIPs[0]", tree{"ports": port, "clusterIP": "ten"}},
		{"two-in-one", "must be RequireDualStack or PreferDualStack when multiple 'ipFamilies' are specified",
			tree{"ports": port, "ipFamilies": []string{"IPv4", "IPv6"}, "ipFamilyPolicy": "SingleStack"}},
		{"port-outside", "The range of valid ports is 30000-32767", tree{"type": "NodePort", "ports": []any{tree{"port": 80, "nodePort": 80}}}},
	} {
		s := status(t, post(t, "/api/v1/namespaces/"+ns+"/services", service(ns, c.name, c.spec), http.StatusUnprocessableEntity))
		if !strings.Contains(s.Message, c.want) || s.Reason != metav1.StatusReasonInvalid {
			t.Errorf("%s: %s, want %s", c.name, s.Message, c.want)
		}
	}
}

func TestServiceAddressesAreNeverDoubledAndComeBack(t *testing.T) {
	ns := namespace(t)
	c := shared.client.CoreV1().Services(ns)
	const n = 40
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			_, err := c.Create(t.Context(), nodePort(fmt.Sprintf("s%d", i), 0), metav1.CreateOptions{})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	list, err := c.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ips, ports := map[string]bool{}, map[int32]bool{}
	for _, s := range list.Items {
		ips[s.Spec.ClusterIP] = true
		ports[s.Spec.Ports[0].NodePort] = true
	}
	if len(ips) != n || len(ports) != n {
		t.Errorf("%d Services have %d addresses and %d node ports", n, len(ips), len(ports))
	}
	held := list.Items[0]
	taken := nodePort("again", held.Spec.Ports[0].NodePort)
	taken.Spec.ClusterIP = held.Spec.ClusterIP
	if _, err := c.Create(t.Context(), taken, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "provided port is already allocated") {
		t.Errorf("a held address and port: %v", err)
	}
	if err := c.Delete(t.Context(), held.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Create(t.Context(), taken, metav1.CreateOptions{}); err != nil {
		t.Errorf("freed address and port: %v", err)
	}
}

func nodePort(name string, port int32) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80, NodePort: port}}}}
}

func TestServicesChangeTheirType(t *testing.T) {
	ns := namespace(t)
	c := shared.client.CoreV1().Services(ns)
	s, err := c.Create(t.Context(), nodePort("s", 0), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ip, port := s.Spec.ClusterIP, s.Spec.Ports[0].NodePort
	change := func(f func(*corev1.Service)) *corev1.Service {
		t.Helper()
		var out *corev1.Service
		err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
			s, err := c.Get(t.Context(), "s", metav1.GetOptions{})
			if err != nil {
				return err
			}
			f(s)
			out, err = c.Update(t.Context(), s, metav1.UpdateOptions{})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	// A client that sends its old manifest again keeps what was allocated.
	s = change(func(s *corev1.Service) {
		s.Spec.ClusterIP, s.Spec.ClusterIPs, s.Spec.Ports[0].NodePort = "", nil, 0
	})
	if s.Spec.ClusterIP != ip || s.Spec.Ports[0].NodePort != port {
		t.Errorf("lost %s %d, has %s %d", ip, port, s.Spec.ClusterIP, s.Spec.Ports[0].NodePort)
	}
	s = change(func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP })
	if s.Spec.Ports[0].NodePort != 0 {
		t.Errorf("a ClusterIP Service kept node port %d", s.Spec.Ports[0].NodePort)
	}
	if _, err := c.Create(t.Context(), nodePort("other", port), metav1.CreateOptions{}); err != nil {
		t.Errorf("the node port was not freed: %v", err)
	}
	prefer, single := corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicySingleStack
	s = change(func(s *corev1.Service) { s.Spec.IPFamilyPolicy = &prefer })
	if len(s.Spec.ClusterIPs) != 2 || s.Spec.ClusterIPs[0] != ip {
		t.Errorf("dual stack: %v", s.Spec.ClusterIPs)
	}
	s = change(func(s *corev1.Service) { s.Spec.IPFamilyPolicy = &single })
	if len(s.Spec.ClusterIPs) != 1 || s.Spec.ClusterIPs[0] != ip {
		t.Errorf("single stack again: %v", s.Spec.ClusterIPs)
	}
	s = change(func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
	})
	if s.Spec.ClusterIP != "" || len(s.Spec.ClusterIPs) != 0 {
		t.Errorf("an ExternalName Service kept %v", s.Spec.ClusterIPs)
	}
	given := nodePort("third", 0)
	given.Spec.ClusterIP = ip
	if _, err := c.Create(t.Context(), given, metav1.CreateOptions{}); err != nil {
		t.Errorf("the address was not freed: %v", err)
	}
}

func TestADryRunAllocatesNothing(t *testing.T) {
	ns := namespace(t)
	c := shared.client.CoreV1().Services(ns)
	s := nodePort("dry", 30005) // in the low band, which other tests' Services do not get by chance
	for range 2 {
		if _, err := c.Create(t.Context(), s, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
			t.Fatal(err)
		}
	}
}
