// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 the deprecated kind is what this package is for: clients still read it

package endpoints

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func pod(name string, ready bool, port int32, ips ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: port, Protocol: corev1.ProtocolTCP}}}}
	for _, ip := range ips {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
		p.Status.PodIP = ips[0]
	}
	if ready {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	return p
}

func text(in []corev1.EndpointSubset) string {
	var out []string
	for _, s := range in {
		var ready, notReady, ports []string
		for _, a := range s.Addresses {
			ready = append(ready, a.IP)
		}
		for _, a := range s.NotReadyAddresses {
			notReady = append(notReady, a.IP)
		}
		for _, p := range s.Ports {
			ports = append(ports, fmt.Sprintf("%s:%d", p.Name, p.Port))
		}
		out = append(out, fmt.Sprintf("%v!%v:%v", ready, notReady, ports))
	}
	return strings.Join(out, " ")
}

func TestSubsets(t *testing.T) {
	named := corev1.ServicePort{Name: "web", TargetPort: intstr.FromString("http"), Protocol: corev1.ProtocolTCP}
	number := corev1.ServicePort{Name: "admin", TargetPort: intstr.FromInt(9), Protocol: corev1.ProtocolTCP}
	v6 := corev1.ServiceSpec{IPFamilies: []corev1.IPFamily{corev1.IPv6Protocol}, Ports: []corev1.ServicePort{number}}
	ending := pod("e", true, 80, "10.0.0.9")
	ending.DeletionTimestamp = &metav1.Time{}
	for _, c := range []struct {
		name string
		spec corev1.ServiceSpec
		pods []*corev1.Pod
		want string
	}{
		{"no pods", corev1.ServiceSpec{Ports: []corev1.ServicePort{number}}, nil, ""},
		{"ready and not ready, sorted", corev1.ServiceSpec{Ports: []corev1.ServicePort{number}}, []*corev1.Pod{pod("b", true, 80, "10.0.0.2"), pod("a", true, 80, "10.0.0.1"), pod("c", false, 80, "10.0.0.3")}, "[10.0.0.1 10.0.0.2]![10.0.0.3]:[admin:9]"},
		{"an ending pod and one without an address are left out", corev1.ServiceSpec{Ports: []corev1.ServicePort{number}}, []*corev1.Pod{ending, pod("n", true, 80)}, ""},
		{"a named port differs between pods", corev1.ServiceSpec{Ports: []corev1.ServicePort{named}}, []*corev1.Pod{pod("a", true, 80, "10.0.0.1"), pod("b", true, 81, "10.0.0.2")}, "[10.0.0.1]![]:[web:80] [10.0.0.2]![]:[web:81]"},
		{"the address of the first family", v6, []*corev1.Pod{pod("a", true, 80, "10.0.0.1", "fd00::1")}, "[fd00::1]![]:[admin:9]"},
		{"published though not ready", corev1.ServiceSpec{PublishNotReadyAddresses: true, Ports: []corev1.ServicePort{number}}, []*corev1.Pod{pod("a", false, 80, "10.0.0.1")}, "[10.0.0.1]![]:[admin:9]"},
		{"headless without ports", corev1.ServiceSpec{ClusterIP: "None"}, []*corev1.Pod{pod("a", true, 80, "10.0.0.1")}, "[10.0.0.1]![]:[]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, truncated := subsets(&corev1.Service{Spec: c.spec}, c.pods)
			if text(got) != c.want || truncated {
				t.Errorf("got %q, want %q", text(got), c.want)
			}
		})
	}
	var many []*corev1.Pod
	for i := range 1001 {
		many = append(many, pod(fmt.Sprintf("p%04d", i), true, 80, fmt.Sprintf("10.0.%d.%d", i/256, i%256)))
	}
	got, truncated := subsets(&corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{number}}}, many)
	if !truncated || len(got[0].Addresses) != maxAddresses {
		t.Errorf("truncated %v, %d addresses", truncated, len(got[0].Addresses))
	}
}
