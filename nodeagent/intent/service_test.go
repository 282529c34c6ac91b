// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"

	"skep.dev/skep/datapath"
)

func parse[T any](t *testing.T, text string) *T {
	t.Helper()
	out := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), out); err != nil {
		t.Fatal(err)
	}
	return out
}

func renderServices(list []datapath.Service) string {
	var b strings.Builder
	for _, s := range list {
		fmt.Fprintf(&b, "%s %s:%d/%d ->", s.ID, s.Frontend.Addr, s.Frontend.Port, s.Frontend.Protocol)
		for _, e := range s.Backends {
			fmt.Fprintf(&b, " %s:%d", e.Addr, e.Port)
			if e.Local {
				b.WriteString("(local)")
			}
		}
		if s.LocalOnly {
			b.WriteString(" local only")
		}
		if s.AffinityTimeout > 0 {
			fmt.Fprintf(&b, " affinity %v", s.AffinityTimeout)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

const dualService = `
metadata: {namespace: shop, name: web}
spec: {clusterIP: 10.96.0.5, clusterIPs: [10.96.0.5, "fd00:96::5"], ports: [{port: 80}]}`

const v4Slice = `
metadata: {namespace: shop, name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: "", port: 8080, protocol: TCP}]
endpoints:`

func TestServicesBecomeFrontends(t *testing.T) {
	cases := []struct {
		name, service string
		slices        []string
		want          string
	}{
		{"each family has the endpoints of its own", dualService, []string{v4Slice + `
- {addresses: [10.0.0.1], nodeName: node-a}
- {addresses: [10.0.1.2], nodeName: node-b}`}, `
shop/web:80/IPv4 10.96.0.5:80/6 -> 10.0.0.1:8080(local) 10.0.1.2:8080
shop/web:80/IPv6 [fd00:96::5]:80/6 ->
`},
		{"endpoints that are not ready stay out, unknown means ready", dualService, []string{v4Slice + `
- {addresses: [10.0.0.1], conditions: {ready: false}}
- {addresses: [10.0.0.2], conditions: {ready: true}}
- {addresses: [10.0.0.3], conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.0.0.4]}`}, `
shop/web:80/IPv4 10.96.0.5:80/6 -> 10.0.0.2:8080 10.0.0.4:8080
shop/web:80/IPv6 [fd00:96::5]:80/6 ->
`},
		{"without a ready one those that terminate and serve are used", dualService, []string{v4Slice + `
- {addresses: [10.0.0.1], conditions: {ready: false, serving: false, terminating: true}}
- {addresses: [10.0.0.3], conditions: {ready: false, serving: true, terminating: true}}`}, `
shop/web:80/IPv4 10.96.0.5:80/6 -> 10.0.0.3:8080
shop/web:80/IPv6 [fd00:96::5]:80/6 ->
`},
		{"local only chooses among this node's endpoints", `
metadata: {namespace: shop, name: web}
spec: {clusterIP: 10.96.0.5, internalTrafficPolicy: Local, ports: [{port: 80}]}`, []string{v4Slice + `
- {addresses: [10.0.0.3], nodeName: node-a, conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.0.1.2], nodeName: node-b}`}, `
shop/web:80/IPv4 10.96.0.5:80/6 -> 10.0.0.3:8080(local) local only
`},
		{"ports go by name and protocol, and a slice without the port has no endpoints for it", `
metadata: {namespace: kube-system, name: kube-dns}
spec: {clusterIP: 10.96.0.10, sessionAffinity: ClientIP, ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}, {name: metrics, port: 9153}]}`, []string{`
metadata: {namespace: kube-system, name: d, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
ports: [{name: dns, port: 1053, protocol: UDP}, {name: dns-tcp, port: 1054, protocol: TCP}]
endpoints: [{addresses: [10.0.0.9]}]`}, `
kube-system/kube-dns:dns/IPv4 10.96.0.10:53/17 -> 10.0.0.9:1053 affinity 3h0m0s
kube-system/kube-dns:dns-tcp/IPv4 10.96.0.10:53/6 -> 10.0.0.9:1054 affinity 3h0m0s
kube-system/kube-dns:metrics/IPv4 10.96.0.10:9153/6 -> affinity 3h0m0s
`},
		{"an endpoint in two slices is one backend, as ready as the readier says", dualService, []string{v4Slice + `
- {addresses: [10.0.0.1], conditions: {ready: false}}`, strings.Replace(v4Slice, "web-1", "web-2", 1) + `
- {addresses: [10.0.0.1], conditions: {ready: true}}`}, `
shop/web:80/IPv4 10.96.0.5:80/6 -> 10.0.0.1:8080
shop/web:80/IPv6 [fd00:96::5]:80/6 ->
`},
		{"headless Services have no frontend", `
metadata: {namespace: shop, name: web}
spec: {clusterIP: None, clusterIPs: [None], ports: [{port: 80}]}`, nil, "\n"},
		{"nor have external names", `
metadata: {namespace: shop, name: web}
spec: {type: ExternalName, externalName: example.com, ports: [{port: 80}]}`, nil, "\n"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			// The order in which the objects come must not matter.
			for _, serviceFirst := range []bool{true, false} {
				c := cluster(t)
				if serviceFirst {
					c.SetService(parse[corev1.Service](t, tc.service))
				}
				for _, s := range tc.slices {
					c.SetEndpointSlice(parse[discoveryv1.EndpointSlice](t, s))
				}
				if !serviceFirst {
					c.SetService(parse[corev1.Service](t, tc.service))
				}
				got := renderServices(c.Services())
				// Whether an IPv6 address has brackets is a matter of taste; the table has them.
				got = strings.ReplaceAll(got, "fd00:96::5:", "[fd00:96::5]:")
				if diff := cmp.Diff(strings.TrimPrefix(tc.want, "\n"), got); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

func TestSlicesMayLeaveAService(t *testing.T) {
	c := cluster(t)
	c.SetService(parse[corev1.Service](t, dualService))
	slice := parse[discoveryv1.EndpointSlice](t, v4Slice+"\n- {addresses: [10.0.0.1]}")
	if !c.SetEndpointSlice(slice) {
		t.Error("a new slice changed nothing")
	}
	if c.SetEndpointSlice(slice.DeepCopy()) {
		t.Error("the same slice again counts as a change")
	}
	if !c.DeleteEndpointSlice(slice) || len(c.Services()[0].Backends) != 0 {
		t.Error("the backends outlive their slice")
	}
	c.DeleteService("shop", "web")
	if n := len(c.Services()); n != 0 {
		t.Errorf("%d frontends outlive their Service", n)
	}
}

func TestNodesChangeOnlyWhenPacketsCare(t *testing.T) {
	c := cluster(t)
	node := parse[corev1.Node](t, `
metadata: {name: node-a}
spec: {podCIDRs: [10.244.1.7/24, "fd00:10:244:1::/64"]}
status: {addresses: [{type: Hostname, address: node-a}, {type: InternalIP, address: 172.29.0.2}, {type: InternalIP, address: "fd00::2"}, {type: InternalIP, address: 172.29.0.9}]}`)
	if !c.SetNode(node) {
		t.Error("a new node changed nothing")
	}
	heartbeat := node.DeepCopy()
	heartbeat.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, LastHeartbeatTime: heartbeat.CreationTimestamp}}
	if c.SetNode(heartbeat) {
		t.Error("a heartbeat counts as a change")
	}
	want := "[{node-a [172.29.0.2 fd00::2] [10.244.1.0/24 fd00:10:244:1::/64] true}]"
	if got := fmt.Sprint(c.Nodes()); got != want {
		t.Errorf("nodes are %s, want %s", got, want)
	}
}

func TestAffinityTimeoutHasTheDocumentedDefault(t *testing.T) {
	if got := affinityTimeout(&corev1.ServiceSpec{SessionAffinity: corev1.ServiceAffinityClientIP}); got != 3*time.Hour {
		t.Errorf("timeout is %v, want 3h", got)
	}
}
