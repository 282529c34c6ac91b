// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestExpand(t *testing.T) {
	values := map[string]string{"A": "1", "B": "two"}
	for in, want := range map[string]string{
		"$(A)":     "1",
		"x$(B)y":   "xtwoy",
		"$$(A)":    "$(A)",
		"$(C)":     "$(C)",
		"$(A":      "$(A",
		"$A":       "$A",
		"cost $":   "cost $",
		"$$$(A)":   "$1",
		"$(A)$(B)": "1two",
		"":         "",
	} {
		if got := expand(in, values); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestServiceVariables(t *testing.T) {
	service := func(ns, name, ip string, ports ...v1.ServicePort) *v1.Service {
		return &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: v1.ServiceSpec{ClusterIP: ip, Ports: ports}}
	}
	services := []*v1.Service{
		service("default", "kubernetes", "10.96.0.1", v1.ServicePort{Name: "https", Port: 443, Protocol: v1.ProtocolTCP}),
		service("ns", "my-db", "10.96.1.1", v1.ServicePort{Port: 5432}),
		service("ns", "headless", "None", v1.ServicePort{Port: 1}),
		service("other", "far", "10.96.1.2", v1.ServicePort{Port: 1}),
	}
	b := envBuilder{services: services}
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}}
	env, err := b.build(context.Background(), pod, &v1.Container{Env: []v1.EnvVar{{Name: "URL", Value: "$(MY_DB_SERVICE_HOST):$(MY_DB_SERVICE_PORT)"}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT_HTTPS": "443", "MY_DB_PORT": "tcp://10.96.1.1:5432",
		"MY_DB_PORT_5432_TCP_ADDR": "10.96.1.1", "URL": "10.96.1.1:5432", "HEADLESS_SERVICE_HOST": "", "FAR_SERVICE_HOST": "",
	} {
		if env.values[name] != want {
			t.Errorf("%s=%q, want %q", name, env.values[name], want)
		}
	}
	no := false
	pod.Spec.EnableServiceLinks = &no
	if env, _ = b.build(context.Background(), pod, &v1.Container{}); len(env.values) == 0 || env.values["MY_DB_PORT"] != "" {
		t.Errorf("without links: %v", env.values)
	}
}

func TestResolvConf(t *testing.T) {
	node := "nameserver 192.0.2.1\nsearch corp.example .\noptions edns0\n"
	dns := []netip.Addr{netip.MustParseAddr("10.96.0.10")}
	two := "2"
	for _, c := range []struct {
		name string
		spec v1.PodSpec
		want string
	}{
		{"cluster first", v1.PodSpec{}, "nameserver 10.96.0.10|search ns.svc.cluster.local svc.cluster.local cluster.local corp.example|options ndots:5|"},
		{"default", v1.PodSpec{DNSPolicy: v1.DNSDefault}, "nameserver 192.0.2.1|search corp.example|options edns0|"},
		{"host network falls back to the node's", v1.PodSpec{HostNetwork: true}, "nameserver 192.0.2.1|search corp.example|options edns0|"},
		{"host network with the cluster's", v1.PodSpec{HostNetwork: true, DNSPolicy: v1.DNSClusterFirstWithHostNet}, "nameserver 10.96.0.10|search ns.svc.cluster.local svc.cluster.local cluster.local corp.example|options ndots:5|"},
		{"none", v1.PodSpec{DNSPolicy: v1.DNSNone, DNSConfig: &v1.PodDNSConfig{Nameservers: []string{"192.0.2.9"}, Searches: []string{"x.example"}, Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: &two}}}}, "nameserver 192.0.2.9|search x.example|options ndots:2|"},
		{"config overrides an option", v1.PodSpec{DNSConfig: &v1.PodDNSConfig{Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: &two}}}}, "nameserver 10.96.0.10|search ns.svc.cluster.local svc.cluster.local cluster.local corp.example|options ndots:2|"},
	} {
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: c.spec}
		if got := strings.ReplaceAll(resolvConf(pod, "cluster.local", dns, node), "\n", "|"); got != c.want {
			t.Errorf("%s: %s", c.name, got)
		}
	}
}

func TestHostsAndHostname(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: strings.Repeat("x", 62) + "-abc"}}
	if got := hostname(pod, "node"); got != strings.Repeat("x", 62) {
		t.Errorf("hostname %q", got)
	}
	pod.Spec.Hostname, pod.Spec.Subdomain = "h", "sub"
	pod.Spec.HostAliases = []v1.HostAlias{{IP: "192.0.2.7", Hostnames: []string{"a", "b"}}}
	got := etcHosts(pod, hostname(pod, "node"), "cluster.local", []netip.Addr{netip.MustParseAddr("10.244.0.2")})
	for _, want := range []string{"127.0.0.1\tlocalhost\n", "10.244.0.2\th.sub.ns.svc.cluster.local\th\n", "192.0.2.7\ta\tb\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("hosts lacks %q:\n%s", want, got)
		}
	}
}

func TestValidateNamesEveryFault(t *testing.T) {
	err := Config{CgroupParent: "/", DataDir: "relative", MaxPods: -1}.Validate()
	for _, want := range []string{"NodeName", "Credentials", "ContainerdSocket", "root control group", "relative", "NodeAddrs", "MaxPods"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no word about %s: %v", want, err)
		}
	}
}
