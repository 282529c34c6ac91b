// SPDX-License-Identifier: Apache-2.0

package networking

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"skep.dev/skep/controlplane/kinds/kindtest"
)

func valid() *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{}
	if err := yaml.UnmarshalStrict([]byte(`
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from:
    - podSelector: {matchLabels: {app: web}}
      namespaceSelector: {}
    ports: [{port: 5432}, {port: 8000, endPort: 8010}, {port: metrics, protocol: UDP}]
  egress:
  - to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]
`), p); err != nil {
		panic(err)
	}
	return p
}

func TestNetworkPoliciesAreChecked(t *testing.T) {
	type p = *networkingv1.NetworkPolicy
	port := func(x p, i int) *networkingv1.NetworkPolicyPort { return &x.Spec.Ingress[0].Ports[i] }
	block := func(x p) *networkingv1.IPBlock { return x.Spec.Egress[0].To[0].IPBlock }
	kindtest.Create(t, NetworkPolicy(), valid, []struct {
		Name   string
		Change func(p)
		Want   []string
	}{
		{"a valid one", func(p) {}, nil},
		{"default deny", func(x p) { x.Spec = networkingv1.NetworkPolicySpec{} }, nil},
		{"a bad selector", func(x p) { x.Spec.PodSelector.MatchLabels["app"] = "-" }, []string{`spec.podSelector.matchLabels: Invalid value: "-": a valid label must be`}},
		{"an unknown operator", func(x p) {
			x.Spec.PodSelector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Is"}}
		}, []string{`spec.podSelector.matchExpressions[0].operator: Invalid value: "Is": not a valid selector operator`}},
		{"a port of zero", func(x p) { port(x, 0).Port = ptr.To(intstr.FromInt32(0)) }, []string{"spec.ingress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"}},
		{"a range backwards", func(x p) { port(x, 1).EndPort = ptr.To[int32](7999) }, []string{"spec.ingress[0].ports[1].endPort: Invalid value: 7999: must be greater than or equal to `port`"}},
		{"a range from a name", func(x p) { port(x, 2).EndPort = ptr.To[int32](90) }, []string{"spec.ingress[0].ports[2].endPort: Invalid value: 90: may not be specified when `port` is non-numeric"}},
		{"a range from nowhere", func(x p) { port(x, 1).Port = nil }, []string{"spec.ingress[0].ports[1].endPort: Invalid value: 8010: may not be specified when `port` is not specified"}},
		{"an unknown protocol", func(x p) { port(x, 0).Protocol = ptr.To(corev1.Protocol("ICMP")) }, []string{`spec.ingress[0].ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"`}},
		{"a peer of nothing", func(x p) { x.Spec.Ingress[0].From[0] = networkingv1.NetworkPolicyPeer{} }, []string{"spec.ingress[0].from[0]: Required value: must specify a peer"}},
		{"a block and a selector", func(x p) { x.Spec.Ingress[0].From[0].IPBlock = block(x) }, []string{"spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer"}},
		{"no CIDR", func(x p) { block(x).CIDR = "" }, []string{"spec.egress[0].to[0].ipBlock.cidr: Required value"}},
		{"a CIDR that is none", func(x p) { block(x).CIDR = "10.0.0.0/33" }, []string{`spec.egress[0].to[0].ipBlock.cidr: Invalid value: "10.0.0.0/33": must be a valid CIDR value`}},
		{"a CIDR with leading zeros", func(x p) { block(x).CIDR = "010.0.0.0/8" }, []string{`spec.egress[0].to[0].ipBlock.cidr: Invalid value: "010.0.0.0/8": must be a valid CIDR value`}},
		{"an exception outside", func(x p) { block(x).Except[0] = "11.0.0.0/16" }, []string{`spec.egress[0].to[0].ipBlock.except[0]: Invalid value: "11.0.0.0/16": must be a strict subset of ` + "`cidr`"}},
		{"an exception of everything", func(x p) { block(x).Except[0] = "10.0.0.0/8" }, []string{`spec.egress[0].to[0].ipBlock.except[0]: Invalid value: "10.0.0.0/8": must be a strict subset of ` + "`cidr`"}},
		{"an exception of the other family", func(x p) { block(x).Except[0] = "fd00::/64" }, []string{`spec.egress[0].to[0].ipBlock.except[0]: Invalid value: "fd00::/64": must be a strict subset of ` + "`cidr`"}},
		{"an exception that is none", func(x p) { block(x).Except[0] = "10.1" }, []string{`spec.egress[0].to[0].ipBlock.except[0]: Invalid value: "10.1": must be a valid CIDR value`}},
		{"an unknown direction", func(x p) { x.Spec.PolicyTypes = []networkingv1.PolicyType{"Sideways"} }, []string{`spec.policyTypes[0]: Unsupported value: "Sideways": supported values: "Egress", "Ingress"`}},
		{"three directions", func(x p) { x.Spec.PolicyTypes = []networkingv1.PolicyType{"Ingress", "Egress", "Egress"} }, []string{`spec.policyTypes: Invalid value: ["Ingress","Egress","Egress"]: may not specify more than two policyTypes`}},
	})
}

func TestNetworkPolicyDefaults(t *testing.T) {
	p := valid()
	kindtest.DefaultsOnce(t, NetworkPolicy(), p)
	if d := cmp.Diff([]networkingv1.PolicyType{"Ingress", "Egress"}, p.Spec.PolicyTypes); d != "" {
		t.Error(d)
	}
	var protocols []corev1.Protocol
	for _, port := range p.Spec.Ingress[0].Ports {
		protocols = append(protocols, *port.Protocol)
	}
	if d := cmp.Diff([]corev1.Protocol{"TCP", "TCP", "UDP"}, protocols); d != "" {
		t.Error(d)
	}
	empty := &networkingv1.NetworkPolicy{}
	defaultPolicy(empty)
	if d := cmp.Diff([]networkingv1.PolicyType{"Ingress"}, empty.Spec.PolicyTypes); d != "" {
		t.Error(d)
	}
}

func TestNetworkPolicyWarnings(t *testing.T) {
	p := valid()
	if got := policyWarnings(p); len(got) != 0 {
		t.Errorf("warns about a policy without fault: %q", got)
	}
	p.Spec.Egress[0].To[0].IPBlock = &networkingv1.IPBlock{CIDR: "10.1.2.3/8", Except: []string{"10.2.3.4/16"}}
	want := []string{
		`spec.egress[0].to[0].ipBlock.cidr: CIDR value "10.1.2.3/8" is ambiguous in this context (should be "10.0.0.0/8" or "10.1.2.3/32"?)`,
		`spec.egress[0].to[0].ipBlock.except[0]: CIDR value "10.2.3.4/16" is ambiguous in this context (should be "10.2.0.0/16" or "10.2.3.4/32"?)`,
	}
	if d := cmp.Diff(want, policyWarnings(p)); d != "" {
		t.Error(d)
	}
}

func TestNetworkPolicyLines(t *testing.T) {
	p := valid()
	p.Name = "db"
	if d := cmp.Diff([]any{"db", "app=db", "<unknown>"}, kindtest.Line(NetworkPolicy(), p, true)); d != "" {
		t.Error(d)
	}
	p.Spec.PodSelector = metav1.LabelSelector{}
	if got := kindtest.Line(NetworkPolicy(), p, true)[1]; got != "<none>" {
		t.Errorf("a policy for all pods selects %v", got)
	}
}
