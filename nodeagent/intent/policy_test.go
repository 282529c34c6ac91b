// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"skep.dev/skep/datapath"
)

const self = "node-a"

// cluster makes a cluster with two namespaces: shop (team=blue) and ops (team=red).
func cluster(t *testing.T) *Cluster {
	t.Helper()
	rules, err := NewRuleTable("")
	if err != nil {
		t.Fatal(err)
	}
	c := NewCluster(self, rules)
	c.SetNamespace("shop", labels.Set{"team": "blue"})
	c.SetNamespace("ops", labels.Set{"team": "red"})
	return c
}

// testPod makes a running pod with one container.
func testPod(namespace, name, node, ip string, set labels.Set, ports ...corev1.ContainerPort) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("uid-" + name), Labels: set, CreationTimestamp: metav1.Unix(1000, 0)},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Ports: ports}}},
	}
	if ip != "" {
		p.Status.PodIPs = []corev1.PodIP{{IP: ip}}
	}
	return p
}

func port(name string, number int32) corev1.ContainerPort {
	return corev1.ContainerPort{Name: name, ContainerPort: number, Protocol: corev1.ProtocolTCP}
}

func policyFrom(t *testing.T, name, spec string) *networkingv1.NetworkPolicy {
	t.Helper()
	p := &networkingv1.NetworkPolicy{}
	if err := yaml.UnmarshalStrict([]byte("spec:\n"+spec), p); err != nil {
		t.Fatal(err)
	}
	p.Namespace, p.Name, p.UID, p.Generation = "shop", name, types.UID("uid-"+name), 1
	return p
}

func apply(t *testing.T, c *Cluster, p *networkingv1.NetworkPolicy) bool {
	t.Helper()
	changed, err := c.SetNetworkPolicy(p)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

// render writes what an endpoint is judged by, and the addresses of the atoms, as text.
func render(c *Cluster, uid string) string {
	state := c.Policy()
	var b strings.Builder
	ep, ok := state.Endpoints[datapath.EndpointID(uid)]
	if !ok {
		return "no endpoint\n"
	}
	for _, id := range []datapath.SetID{ep.Ingress, ep.Egress} {
		renderSet(&b, c.rules, state.Sets[id])
	}
	members := map[datapath.AtomID][]string{}
	for addr, atoms := range selected(state) {
		for _, a := range atoms {
			members[a] = append(members[a], addr.String())
		}
	}
	for _, a := range slices.Sorted(maps.Keys(members)) {
		slices.Sort(members[a])
		fmt.Fprintf(&b, "%s: %s\n", a, strings.Join(members[a], " "))
	}
	cidrs := maps.Collect(state.CIDRs.All())
	for _, a := range slices.Sorted(maps.Keys(cidrs)) {
		fmt.Fprintf(&b, "%s: %v except %v\n", a, cidrs[a].Prefixes, cidrs[a].Except)
	}
	return b.String()
}

// selected are the addresses of a policy with their atoms.
func selected(state *datapath.PolicyState) map[netip.Addr][]datapath.AtomID {
	out := map[netip.Addr][]datapath.AtomID{}
	for addr := range state.Addresses.All() {
		out[addr] = state.AtomsOf(addr)
	}
	return out
}

func renderSet(b *strings.Builder, rules *RuleTable, s datapath.PolicySet) {
	fmt.Fprintf(b, "%s default %s\n", []string{"ingress", "egress"}[s.Direction], describe(rules, s))
	for _, r := range s.Rules {
		info, _ := rules.Lookup(r.ID)
		peers, ports := fmt.Sprint(r.Peers), fmt.Sprint(r.Ports)
		if r.AnyPeer {
			peers = "any peer"
		}
		if r.AnyPort {
			ports = "any port"
		}
		fmt.Fprintf(b, "  %s[%d]: %s, %s\n", info.Policies[0], info.Index, peers, ports)
	}
}

func describe(rules *RuleTable, s datapath.PolicySet) string {
	if s.Default == datapath.Allow {
		return "allow"
	}
	info, _ := rules.Lookup(s.DefaultRule)
	return "deny by " + strings.Join(info.Policies, " ")
}

func TestPoliciesBecomeSets(t *testing.T) {
	cases := []struct{ name, spec, want string }{
		{"no rules isolate", `
  podSelector: {}
  policyTypes: [Ingress, Egress]`, `
ingress default deny by shop/p
egress default deny by shop/p
`},
		{"absent policyTypes mean ingress", `
  podSelector: {}`, `
ingress default deny by shop/p
egress default allow
`},
		{"absent policyTypes with egress rules mean both", `
  podSelector: {}
  egress: [{}]`, `
ingress default deny by shop/p
egress default deny by shop/p
  shop/p[0]: any peer, any port
`},
		{"a policy for other pods does nothing", `
  podSelector: {matchLabels: {app: other}}`, `
ingress default allow
egress default allow
`},
		{"podSelector alone is of the policy's namespace", `
  podSelector: {}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]`, `
ingress default deny by shop/p
  shop/p[0]: [pods:shop|app=(web)], any port
egress default allow
pods:shop|app=(web): 10.0.0.1
`},
		{"both selectors in one peer are an and", `
  podSelector: {}
  ingress: [{from: [{namespaceSelector: {matchLabels: {team: red}}, podSelector: {matchLabels: {app: web}}}]}]`, `
ingress default deny by shop/p
  shop/p[0]: [pods:{team=(red)}|app=(web)], any port
egress default allow
pods:{team=(red)}|app=(web): 10.0.1.3
`},
		{"two peers are an or, and equal ones are one", `
  podSelector: {}
  ingress: [{from: [{namespaceSelector: {matchLabels: {team: red}}}, {podSelector: {}}, {podSelector: {}}]}]`, `
ingress default deny by shop/p
  shop/p[0]: [pods:{team=(red)}| pods:shop|], any port
egress default allow
pods:shop|: 10.0.0.1 10.0.1.2
pods:{team=(red)}|: 10.0.1.3
`},
		{"an expression with one value is the same selector as a label", `
  podSelector: {}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
  - from: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [web]}]}}]`, `
ingress default deny by shop/p
  shop/p[0]: [pods:shop|app=(web)], any port
  shop/p[1]: [pods:shop|app=(web)], any port
egress default allow
pods:shop|app=(web): 10.0.0.1
`},
		{"ipBlock masks host bits and orders exceptions", `
  podSelector: {}
  ingress: [{from: [{ipBlock: {cidr: 10.1.2.3/8, except: [10.9.0.0/16, 10.2.0.0/16]}}]}]`, `
ingress default deny by shop/p
  shop/p[0]: [cidr:10.0.0.0/8-10.2.0.0/16-10.9.0.0/16], any port
egress default allow
cidr:10.0.0.0/8-10.2.0.0/16-10.9.0.0/16: [10.0.0.0/8] except [10.2.0.0/16 10.9.0.0/16]
`},
		{"ports: number, range, whole protocol, default TCP", `
  podSelector: {}
  ingress: [{ports: [{port: 80}, {port: 100, endPort: 200, protocol: UDP}, {protocol: SCTP}]}]`, `
ingress default deny by shop/p
  shop/p[0]: any peer, [{TCP 80 80} {UDP 100 200} {SCTP 0 65535}]
egress default allow
`},
		{"a port name of ingress is the subject's", `
  podSelector: {}
  ingress: [{ports: [{port: http}, {port: 9}]}]`, `
ingress default deny by shop/p
  shop/p[0]: any peer, [{TCP 9 9} {TCP 8080 8080}]
egress default allow
`},
		{"a port name that the subject lacks matches nothing", `
  podSelector: {}
  ingress: [{ports: [{port: gopher}]}]`, `
ingress default deny by shop/p
egress default allow
`},
		{"a port name in another protocol is another name", `
  podSelector: {}
  ingress: [{ports: [{port: http, protocol: UDP}]}]`, `
ingress default deny by shop/p
egress default allow
`},
		{"a port name of egress is split by the peers' numbers under one rule", `
  podSelector: {}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {}}], ports: [{port: http}, {port: 53, protocol: UDP}]}]`, `
ingress default allow
egress default deny by shop/p
  shop/p[0]: [pods:shop|], [{UDP 53 53}]
  shop/p[0]: [pods:shop|&http/6=80], [{TCP 80 80}]
  shop/p[0]: [pods:shop|&http/6=8080], [{TCP 8080 8080}]
pods:shop|: 10.0.0.1 10.0.1.2
pods:shop|&http/6=80: 10.0.1.2
pods:shop|&http/6=8080: 10.0.0.1
`},
		{"a port name of egress to an ipBlock is that of the pod at the address", `
  podSelector: {}
  policyTypes: [Egress]
  egress: [{to: [{ipBlock: {cidr: 10.0.1.0/24}}], ports: [{port: http}]}]`, `
ingress default allow
egress default deny by shop/p
  shop/p[0]: [cidr:10.0.1.0/24&http/6=80], [{TCP 80 80}]
  shop/p[0]: [cidr:10.0.1.0/24&http/6=8080], [{TCP 8080 8080}]
cidr:10.0.1.0/24&http/6=80: 10.0.1.2
`},
		{"a port name of egress to anywhere needs a pod", `
  podSelector: {}
  policyTypes: [Egress]
  egress: [{ports: [{port: http}]}]`, `
ingress default allow
egress default deny by shop/p
  shop/p[0]: [pods:*&http/6=80], [{TCP 80 80}]
  shop/p[0]: [pods:*&http/6=8080], [{TCP 8080 8080}]
pods:*&http/6=80: 10.0.1.2
pods:*&http/6=8080: 10.0.0.1
`},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			c := cluster(t)
			c.SetPod(testPod("shop", "web", self, "10.0.0.1", labels.Set{"app": "web"}, port("http", 8080)))
			c.SetPod(testPod("shop", "api", "node-b", "10.0.1.2", labels.Set{"app": "api"}, port("http", 80)))
			c.SetPod(testPod("ops", "probe", "node-b", "10.0.1.3", labels.Set{"app": "web"}))
			apply(t, c, policyFrom(t, "p", tc.spec))
			if diff := cmp.Diff(strings.TrimPrefix(tc.want, "\n"), render(c, "uid-web")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAddressesFollowPods(t *testing.T) {
	const all = `
  podSelector: {}
  ingress: [{from: [{namespaceSelector: {}}]}]`
	older, newer := testPod("ops", "old", "node-b", "10.0.1.3", nil), testPod("ops", "new", "node-b", "10.0.1.3", nil)
	newer.CreationTimestamp = metav1.Unix(2000, 0)
	newer.Labels = map[string]string{"app": "new"}
	ended := testPod("ops", "ended", "node-b", "10.0.1.4", nil)
	ended.Status.Phase = corev1.PodSucceeded
	host := testPod("ops", "host", "node-b", "192.168.0.1", nil)
	host.Spec.HostNetwork = true

	c := cluster(t)
	c.SetPod(testPod("shop", "web", self, "10.0.0.1", labels.Set{"app": "web"}))
	apply(t, c, policyFrom(t, "p", all))
	apply(t, c, policyFrom(t, "q", `
  podSelector: {}
  ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: new}}}]}]`))
	addresses := func() map[netip.Addr][]datapath.AtomID { return selected(c.Policy()) }
	step := func(name string, want map[string]int) {
		t.Helper()
		got := map[string]int{}
		for a, atoms := range addresses() {
			got[a.String()] = len(atoms)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	step("one pod", map[string]int{"10.0.0.1": 1})
	c.SetPod(newer)
	c.SetPod(older)
	step("the newest pod owns an address, whatever the order of events", map[string]int{"10.0.0.1": 1, "10.0.1.3": 2})
	c.DeletePod(newer.UID)
	step("the address falls back to the pod that still claims it", map[string]int{"10.0.0.1": 1, "10.0.1.3": 1})
	c.SetPod(ended)
	c.SetPod(host)
	step("terminal and hostNetwork pods own no address", map[string]int{"10.0.0.1": 1, "10.0.1.3": 1})
	older = older.DeepCopy()
	older.Status.Phase = corev1.PodFailed
	c.SetPod(older)
	step("a pod that ends gives its address up", map[string]int{"10.0.0.1": 1})
	c.DeleteNetworkPolicy("shop", "p")
	c.DeleteNetworkPolicy("shop", "q")
	step("without policies no address matters", map[string]int{})
	if len(c.atoms) != 0 {
		t.Errorf("atoms left behind: %v", c.atoms)
	}
}

// TestAPeerThatNobodyNamesIsForgotten has a pod that is like others, and comes when the policy that selected them has gone.
func TestAPeerThatNobodyNamesIsForgotten(t *testing.T) {
	c := cluster(t)
	c.SetPod(testPod("shop", "db", self, "10.0.0.1", labels.Set{"app": "db"}))
	c.SetPod(testPod("shop", "web-1", "node-b", "10.0.1.1", labels.Set{"app": "web"}))
	both := policyFrom(t, "both", "  podSelector: {}\n  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}, {podSelector: {matchLabels: {app: db}}}]}]")
	apply(t, c, both)
	if got := len(selected(c.Policy())); got != 2 {
		t.Fatalf("%d addresses are selected", got)
	}
	apply(t, c, policyFrom(t, "db", "  podSelector: {}\n  ingress: [{from: [{podSelector: {matchLabels: {app: db}}}]}]"))
	c.DeleteNetworkPolicy("shop", "both")
	c.Policy()
	c.SetPod(testPod("shop", "web-2", "node-b", "10.0.1.2", labels.Set{"app": "web"}))
	c.SetPod(testPod("shop", "db-2", "node-b", "10.0.1.3", labels.Set{"app": "db"}))
	got := fmt.Sprint(selected(c.Policy()))
	if want := "map[10.0.0.1:[pods:shop|app=(db)] 10.0.1.3:[pods:shop|app=(db)]]"; got != want {
		t.Errorf("selected are %s, want %s", got, want)
	}
}

func TestNamespaceLabelsMovePods(t *testing.T) {
	c := cluster(t)
	c.SetPod(testPod("shop", "web", self, "10.0.0.1", nil))
	c.SetPod(testPod("ops", "probe", "node-b", "10.0.1.3", nil))
	apply(t, c, policyFrom(t, "p", `
  podSelector: {}
  ingress: [{from: [{namespaceSelector: {matchLabels: {team: red}}}]}]`))
	if n := len(selected(c.Policy())); n != 1 {
		t.Fatalf("%d addresses are selected, want 1", n)
	}
	c.SetNamespace("ops", labels.Set{"team": "green"})
	if n := len(selected(c.Policy())); n != 0 {
		t.Fatalf("%d addresses are selected after the label changed, want 0", n)
	}
	if n := len(c.profiles); n != 2 {
		t.Errorf("%d profiles, want 2", n)
	}
}

func TestAnUnknownNamespaceIsSelectedByNobody(t *testing.T) {
	c := cluster(t)
	c.SetPod(testPod("shop", "web", self, "10.0.0.1", nil))
	c.SetPod(testPod("new", "probe", "node-b", "10.0.1.9", nil))
	apply(t, c, policyFrom(t, "p", `
  podSelector: {}
  ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: untrusted, operator: DoesNotExist}]}}]}]`))
	probe := netip.MustParseAddr("10.0.1.9")
	if got := c.Policy().AtomsOf(probe); len(got) != 0 {
		t.Fatalf("a pod whose namespace is not known yet is selected by %v", got)
	}
	c.SetNamespace("new", nil)
	if got := c.Policy().AtomsOf(probe); len(got) != 1 {
		t.Fatalf("a pod of a namespace without labels is selected by %v, want one atom", got)
	}
	c.SetNamespace("new", labels.Set{"untrusted": "yes"})
	if got := c.Policy().AtomsOf(probe); len(got) != 0 {
		t.Fatalf("a pod of an untrusted namespace is selected by %v", got)
	}
}

func TestANewNumberBehindAPortNameReachesTheSets(t *testing.T) {
	c := cluster(t)
	c.SetPod(testPod("shop", "web", self, "10.0.0.1", nil))
	apply(t, c, policyFrom(t, "p", `
  podSelector: {}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {}}], ports: [{port: http}]}]`))
	rules := func() int {
		state := c.Policy()
		return len(state.Sets[state.Endpoints["uid-web"].Egress].Rules)
	}
	if n := rules(); n != 0 {
		t.Fatalf("%d rules without any number, want 0", n)
	}
	c.SetPod(testPod("shop", "api", "node-b", "10.0.1.2", nil, port("http", 80)))
	if n := rules(); n != 1 {
		t.Fatalf("%d rules with one number, want 1", n)
	}
	c.DeletePod("uid-api")
	if n := rules(); n != 0 {
		t.Fatalf("%d rules after the number went, want 0", n)
	}
}

func TestARefusedPolicyKeepsItsLastGoodVersion(t *testing.T) {
	c := cluster(t)
	c.SetPod(testPod("shop", "web", self, "10.0.0.1", nil))
	apply(t, c, policyFrom(t, "p", "\n  podSelector: {}"))
	before := render(c, "uid-web")
	for _, spec := range []string{
		"\n  podSelector: {matchExpressions: [{key: a, operator: Almost}]}",
		"\n  podSelector: {}\n  ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/99}}]}]",
		"\n  podSelector: {}\n  ingress: [{ports: [{port: 9, endPort: 8}]}]",
		"\n  podSelector: {}\n  ingress: [{ports: [{port: 9, protocol: TCQ}]}]",
	} {
		if _, err := c.SetNetworkPolicy(policyFrom(t, "p", spec)); err == nil {
			t.Errorf("accepted:%s", spec)
		}
	}
	if diff := cmp.Diff(before, render(c, "uid-web")); diff != "" {
		t.Error(diff)
	}
}

func TestPodsWithTheSameRulesShareSets(t *testing.T) {
	c := cluster(t)
	for i := range 5 {
		c.SetPod(testPod("shop", fmt.Sprint("web", i), self, fmt.Sprint("10.0.0.", i+1), labels.Set{"n": fmt.Sprint(i)}))
	}
	apply(t, c, policyFrom(t, "p", "\n  podSelector: {}\n  ingress: [{}]"))
	state := c.Policy()
	if len(state.Sets) != 2 || len(state.Endpoints) != 5 {
		t.Errorf("%d sets for %d endpoints, want 2 for 5", len(state.Sets), len(state.Endpoints))
	}
}

// BenchmarkPolicyChange renders after one change at 1,000 policies and 10,000 pods, 250 of them here.
func BenchmarkPolicyChange(b *testing.B) {
	rules, _ := NewRuleTable("")
	c := NewCluster(self, rules)
	const namespaces, podsPer, policies = 50, 200, 1000
	for n := range namespaces {
		ns := fmt.Sprint("ns", n)
		c.SetNamespace(ns, labels.Set{"kubernetes.io/metadata.name": ns})
		for i := range podsPer {
			node := "node-b"
			if i%40 == 0 {
				node = self
			}
			p := testPod(ns, fmt.Sprint(ns, "-", i), node, fmt.Sprintf("10.%d.%d.%d", n, i/250, i%250+1), labels.Set{"app": fmt.Sprint("app", i%10), "tier": fmt.Sprint(i % 3)}, port("http", 8080))
			p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: fmt.Sprintf("fd00::%d:%d", n, i+1)})
			c.SetPod(p)
		}
	}
	mk := func(i int) *networkingv1.NetworkPolicy {
		p := &networkingv1.NetworkPolicy{}
		_ = yaml.Unmarshal([]byte(fmt.Sprintf(`{"spec":{"podSelector":{"matchLabels":{"app":"app%d"}},"ingress":[{"from":[{"podSelector":{"matchLabels":{"app":"app%d"}}},{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"ns%d"}}}],"ports":[{"port":%d}]}]}}`, i%10, i%7, i%namespaces, 1000+i)), p)
		p.Namespace, p.Name, p.UID = fmt.Sprint("ns", i%namespaces), fmt.Sprint("p", i), types.UID(fmt.Sprint("p", i))
		return p
	}
	for i := range policies {
		_, _ = c.SetNetworkPolicy(mk(i))
	}
	began := time.Now()
	c.Policy()
	b.Logf("first rendering took %v", time.Since(began))
	gen := int64(1)
	b.Run("policy", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			p := mk(i % policies)
			gen++
			p.Generation = gen
			p.Spec.Ingress[0].Ports[0].Port.IntVal = int32(gen%60000) + 1
			_, _ = c.SetNetworkPolicy(p)
			c.Policy()
		}
	})
	b.Run("pod", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			gen++
			c.SetPod(testPod("ns1", "changing", "node-b", fmt.Sprintf("11.0.%d.%d", gen%200, gen/200%200+1), labels.Set{"app": "app1"}))
			c.Policy()
		}
	})
}
