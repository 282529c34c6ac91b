// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"skep.dev/skep/datapath/progtest"
	"skep.dev/skep/nodeagent/policymodel"
)

// The fixture: namespaces x, w and z (y would be a boolean in YAML) with pods a, b, c of this node, labelled ns=… and pod=…; each serves "web" (80/TCP), "alt"
// (81/TCP), "dns" (53/UDP) and "sctp" (90/SCTP), but pods c have their "web" at 8080. kube-system/dns is the cluster's DNS.
func fixture(b *bench) map[string]policymodel.Pod {
	pods := map[string]policymodel.Pod{}
	number := byte(1)
	for i, ns := range []string{"x", "w", "z"} {
		b.setNamespace(policymodel.Namespace{Name: ns, Labels: map[string]string{"ns": ns}})
		for _, name := range []string{"a", "b", "c"} {
			web := 80
			if name == "c" {
				web = 8080
			}
			number++
			p := policymodel.Pod{
				UID: ns + "-" + name, Namespace: ns, Name: name, Node: thisNode, Created: epoch,
				Labels: map[string]string{"ns": ns, "pod": name},
				IPs:    []netip.Addr{netip.AddrFrom4([4]byte{10, 244, byte(i), number}), netip.AddrFrom16([16]byte{0: 0xfd, 7: byte(i), 15: number})},
				Ports:  []policymodel.NamedPort{{Name: "web", Protocol: "TCP", Number: web}, {Name: "alt", Protocol: "TCP", Number: 81}, {Name: "dns", Protocol: "UDP", Number: 53}, {Name: "sctp", Protocol: "SCTP", Number: 90}},
			}
			pods[ns+"/"+name] = p
			b.setPod(p)
		}
	}
	b.setNamespace(policymodel.Namespace{Name: "kube-system", Labels: map[string]string{"kubernetes.io/metadata.name": "kube-system"}})
	dns := policymodel.Pod{
		UID: "dns", Namespace: "kube-system", Name: "dns", Node: thisNode, Created: epoch, Labels: map[string]string{"k8s-app": "kube-dns"},
		IPs:   []netip.Addr{netip.MustParseAddr("10.244.9.9"), netip.MustParseAddr("fd00:9::9")},
		Ports: []policymodel.NamedPort{{Name: "dns", Protocol: "UDP", Number: 53}},
	}
	pods["kube-system/dns"] = dns
	b.setPod(dns)
	return pods
}

// A truth table: policies as namespace/name and spec, and lines "FROM -> TO PROTOCOL PORT: yes|no". An end is a pod, "node" (a
// process of this node) or a pair of addresses. Every line is tried over IPv4 and IPv6.
type truthTable struct {
	name     string
	policies map[string]string
	lines    string
}

var outsideWorld = map[string][2]string{
	"internet": {"192.0.2.7", "2001:db8::7"},
	"office":   {"198.51.100.9", "2001:db8:1::9"},
}

const denyAll = `{podSelector: {}, policyTypes: [Ingress, Egress]}`

var truthTables = []truthTable{
	{"without policies everything passes", nil, `
		x/a -> w/b TCP 80: yes
		x/a -> w/b UDP 53: yes
		x/a -> w/b SCTP 90: yes
		internet -> x/a TCP 80: yes
		x/a -> internet TCP 443: yes`},
	{"default deny of both directions", map[string]string{"x/deny": denyAll}, `
		x/a -> x/b TCP 80: no
		w/a -> x/b TCP 80: no
		x/b -> w/a TCP 80: no
		w/a -> w/b TCP 80: yes
		internet -> x/a TCP 80: no
		x/a -> internet TCP 443: no
		node -> x/a TCP 80: yes`},
	{"deny ingress leaves egress open", map[string]string{"x/deny": `{podSelector: {}}`}, `
		x/a -> w/b TCP 80: yes
		w/b -> x/a TCP 80: no`},
	{"an empty rule allows everything", map[string]string{"x/deny": denyAll, "x/allow": `{podSelector: {}, ingress: [{}], egress: [{}], policyTypes: [Ingress, Egress]}`}, `
		x/a -> w/b TCP 80: yes
		w/b -> x/a UDP 1: yes
		internet -> x/a SCTP 2: yes`},
	{"policies add up, in any order", map[string]string{
		"x/deny":   denyAll,
		"x/from-b": `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}`,
		"x/b-to-a": `{podSelector: {matchLabels: {pod: b}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {pod: a}}}]}]}`,
	}, `
		x/b -> x/a TCP 80: yes
		x/c -> x/a TCP 80: no
		x/b -> x/c TCP 80: no
		w/b -> x/a TCP 80: no`},
	{"both ends must agree", map[string]string{
		"x/out": `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {ns: w}}}]}]}`,
		"w/in":  `{podSelector: {matchLabels: {pod: b}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: z}}}]}]}`,
	}, `
		x/a -> w/a TCP 80: yes
		x/a -> w/b TCP 80: no
		x/a -> z/a TCP 80: no
		z/a -> w/b TCP 80: yes`},
	{"a podSelector means the policy's own namespace", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}`}, `
		x/b -> x/a TCP 80: yes
		w/b -> x/a TCP 80: no`},
	{"two selectors in one peer are an and", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}, podSelector: {matchLabels: {pod: b}}}]}]}`}, `
		w/b -> x/a TCP 80: yes
		w/a -> x/a TCP 80: no
		x/b -> x/a TCP 80: no`},
	{"two peers are an or", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}}, {podSelector: {matchLabels: {pod: b}}}]}]}`}, `
		w/b -> x/a TCP 80: yes
		w/a -> x/a TCP 80: yes
		x/b -> x/a TCP 80: yes
		x/c -> x/a TCP 80: no
		z/b -> x/a TCP 80: no`},
	{"expressions", map[string]string{"x/p": `{podSelector: {matchExpressions: [{key: pod, operator: NotIn, values: [c]}]}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: ns, operator: In, values: [w, z]}]}, podSelector: {matchExpressions: [{key: pod, operator: Exists}, {key: pod, operator: NotIn, values: [a]}]}}]}]}`}, `
		w/b -> x/a TCP 80: yes
		z/c -> x/a TCP 80: yes
		w/a -> x/a TCP 80: no
		x/b -> x/a TCP 80: no
		w/a -> x/c TCP 80: yes`},
	{"an empty namespaceSelector is every pod, but no address outside", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}`}, `
		w/b -> x/a TCP 80: yes
		internet -> x/a TCP 80: no`},
	{"ports and peers are an and", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}}], ports: [{port: 80}]}, {ports: [{port: 81}]}]}`}, `
		w/b -> x/a TCP 80: yes
		w/b -> x/a TCP 82: no
		z/b -> x/a TCP 80: no
		z/b -> x/a TCP 81: yes
		w/b -> x/a UDP 80: no`},
	{"a protocol without port is all its ports", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{protocol: UDP}, {protocol: SCTP, port: 90}]}]}`}, `
		w/b -> x/a UDP 53: yes
		w/b -> x/a UDP 65535: yes
		w/b -> x/a TCP 80: no
		w/b -> x/a SCTP 90: yes
		w/b -> x/a SCTP 91: no`},
	{"a range includes both ends", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 90}]}]}`}, `
		w/b -> x/a TCP 79: no
		w/b -> x/a TCP 80: yes
		w/b -> x/a TCP 85: yes
		w/b -> x/a TCP 90: yes
		w/b -> x/a TCP 91: no
		w/b -> x/a UDP 85: no`},
	{"a port name of ingress is the number of the pod that is asked", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{port: web}]}]}`}, `
		w/b -> x/a TCP 80: yes
		w/b -> x/a TCP 8080: no
		w/b -> x/c TCP 8080: yes
		w/b -> x/c TCP 80: no`},
	{"a port name of egress too", map[string]string{"x/p": `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {ns: w}}}], ports: [{port: web}]}]}`}, `
		x/a -> w/a TCP 80: yes
		x/a -> w/a TCP 8080: no
		x/a -> w/c TCP 8080: yes
		x/a -> w/c TCP 80: no
		x/a -> z/a TCP 80: no`},
	{"a port name needs a pod", map[string]string{"x/p": `{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: web}]}]}`}, `
		x/a -> w/a TCP 80: yes
		x/a -> internet TCP 80: no`},
	{"a port name that nobody has allows nothing", map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{port: gopher}]}]}`}, `
		w/b -> x/a TCP 80: no`},
	{"an ipBlock with an exception", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.0/29]}}, {ipBlock: {cidr: "2001:db8::/32", except: ["2001:db8::/125"]}}]}]}`}, `
		internet -> x/a TCP 80: no
		192.0.2.8,2001:db8::8 -> x/a TCP 80: yes
		192.0.3.8,2001:db9::8 -> x/a TCP 80: no`},
	{"exceptions of one block do not bind another", map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [192.0.2.0/24]}}, {ipBlock: {cidr: "::/0", except: ["2001:db8::/32"]}}]}, {from: [{ipBlock: {cidr: 192.0.2.7/32}}, {ipBlock: {cidr: "2001:db8::7/128"}}], ports: [{port: 80}]}]}`}, `
		internet -> x/a TCP 80: yes
		internet -> x/a TCP 81: no
		office -> x/a TCP 81: yes4no6`},
	{"an ipBlock holds for pods too", map[string]string{"x/p": `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.244.1.0/24}}, {ipBlock: {cidr: "fd00:0:0:1::/64"}}]}]}`}, `
		x/a -> w/a TCP 80: yes
		x/a -> z/a TCP 80: no
		x/a -> internet TCP 80: no`},
	{"::/0 does not contain IPv4", map[string]string{"x/p": `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: "::/0"}}]}]}`}, `
		x/a -> internet TCP 80: no4yes6
		x/a -> w/a TCP 80: no4yes6`},
	{"the DNS recipe", map[string]string{"x/deny": denyAll, "x/dns": `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [{port: dns, protocol: UDP}, {port: 53, protocol: TCP}]}]}`}, `
		x/a -> kube-system/dns UDP 53: yes
		x/a -> kube-system/dns TCP 53: yes
		x/a -> kube-system/dns UDP 54: no
		x/a -> w/a UDP 53: no`},
	{"a policy of another namespace does not matter", map[string]string{"w/deny": denyAll}, `
		x/a -> x/b TCP 80: yes
		x/a -> w/b TCP 80: no`},
	{"no rules under Egress alone do not isolate ingress", map[string]string{"x/p": `{podSelector: {}, policyTypes: [Egress]}`}, `
		w/a -> x/a TCP 80: yes
		x/a -> w/a TCP 80: no`},
	{"ingress rules without the Ingress type mean nothing", map[string]string{"x/p": `{podSelector: {}, policyTypes: [Egress], ingress: [{from: [{podSelector: {}}]}], egress: [{}]}`}, `
		w/a -> x/a TCP 80: yes
		x/a -> w/a TCP 80: yes`},
}

func TestTruthTables(t *testing.T) {
	h := progtest.New(t)
	for _, table := range truthTables {
		t.Run(table.name, func(t *testing.T) {
			b := newBench(t, h)
			defer b.close()
			pods := fixture(b)
			for name, spec := range table.policies {
				b.setPolicy(policyFrom(t, name, spec))
			}
			b.load()
			for _, line := range strings.Split(strings.TrimSpace(table.lines), "\n") {
				checkLine(t, b, pods, strings.TrimSpace(line))
			}
		})
	}
}

func checkLine(t *testing.T, b *bench, pods map[string]policymodel.Pod, line string) {
	t.Helper()
	words := strings.Fields(line)
	if len(words) != 6 {
		t.Fatalf("line %q is not FROM -> TO PROTOCOL PORT: yes|no", line)
	}
	port, err := strconv.Atoi(strings.TrimSuffix(words[4], ":"))
	if err != nil {
		t.Fatalf("line %q: %v", line, err)
	}
	for family := range 2 {
		p := probe{fromNode: words[0] == "node", Packet: progtest.Packet{
			Src: end(pods, words[0])[family], Dst: end(pods, words[2])[family],
			Protocol: numbers[words[3]], SrcPort: 40000, DstPort: uint16(port),
		}}
		want := expectation(t, words[5], family)
		verdict, difference := b.compare(p)
		if verdict.Allowed != want {
			t.Errorf("%s over IPv%d: the model says %+v", line, []int{4, 6}[family], verdict)
		}
		if difference != "" {
			t.Errorf("%s: %s", line, difference)
		}
	}
}

// expectation reads yes, no, or the two families' answers when they differ.
func expectation(t *testing.T, text string, family int) bool {
	t.Helper()
	switch text {
	case "yes":
		return true
	case "no":
		return false
	case "no4yes6":
		return family == 1
	case "yes4no6":
		return family == 0
	}
	t.Fatalf("expectation %q", text)
	return false
}

func end(pods map[string]policymodel.Pod, name string) [2]netip.Addr {
	if p, ok := pods[name]; ok {
		return [2]netip.Addr{p.IPs[0], p.IPs[1]}
	}
	pair, ok := outsideWorld[name]
	if name == "node" {
		pair, ok = [2]string{"172.29.0.2", "fd00:172:29::2"}, true
	}
	if !ok {
		v4, v6, _ := strings.Cut(name, ",")
		pair = [2]string{v4, v6}
	}
	return [2]netip.Addr{netip.MustParseAddr(pair[0]), netip.MustParseAddr(pair[1])}
}

func policyFrom(t *testing.T, name, spec string) networkingv1.NetworkPolicy {
	t.Helper()
	var p networkingv1.NetworkPolicy
	if err := yaml.UnmarshalStrict([]byte(fmt.Sprintf("spec: %s", spec)), &p); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	p.Namespace, p.Name, _ = strings.Cut(name, "/")
	p.UID, p.Generation = types.UID(name), 1
	return p
}
