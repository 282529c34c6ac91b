// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
	"sigs.k8s.io/yaml"

	"skep.dev/skep/datapath/progtest"
	"skep.dev/skep/nodeagent/policymodel"
)

// A clusterTable is a truth table whose cluster policies are given by name and spec; see truthTable.
type clusterTable struct {
	truthTable
	cluster map[string]string
}

const (
	everyPod = `subject: {namespaces: {}}`
	inX      = `subject: {namespaces: {matchLabels: {ns: x}}}`
)

var clusterTables = []clusterTable{
	{truthTable{"an Admin denial comes before NetworkPolicy", map[string]string{"x/allow": `{podSelector: {}, ingress: [{}]}`}, `
		w/a -> x/a TCP 80: no
		z/a -> x/a TCP 80: yes
		w/a -> z/a TCP 80: yes`}, map[string]string{
		"deny-w": `{tier: Admin, priority: 10, ` + inX + `, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {ns: w}}}]}]}`}},
	{truthTable{"an Admin acceptance comes before a default deny", map[string]string{"x/deny": denyAll}, `
		w/a -> x/a TCP 80: yes
		w/a -> x/a TCP 81: no
		z/a -> x/a TCP 80: no`}, map[string]string{
		"monitor": `{tier: Admin, priority: 10, ` + inX + `, ingress: [{action: Accept, from: [{namespaces: {matchLabels: {ns: w}}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]}`}},
	{truthTable{"Pass leaves it to NetworkPolicy", map[string]string{"x/from-b": `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}, podSelector: {matchLabels: {pod: b}}}]}]}`}, `
		w/b -> x/a TCP 80: yes
		w/a -> x/a TCP 80: no
		z/b -> x/a TCP 80: no
		x/a -> x/b TCP 80: no`}, map[string]string{
		"pass-w": `{tier: Admin, priority: 10, ` + inX + `, ingress: [{action: Pass, from: [{namespaces: {matchLabels: {ns: w}}}]}, {action: Deny, from: [{namespaces: {}}]}]}`}},
	{truthTable{"the smaller priority number decides", nil, `
		w/a -> x/a TCP 80: yes
		z/a -> x/a TCP 80: no`}, map[string]string{
		"second": `{tier: Admin, priority: 20, ` + inX + `, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`,
		"first":  `{tier: Admin, priority: 10, ` + inX + `, ingress: [{action: Accept, from: [{namespaces: {matchLabels: {ns: w}}}]}]}`}},
	{truthTable{"the first rule of a policy decides", nil, `
		w/a -> x/a TCP 80: no
		w/b -> x/a TCP 80: yes`}, map[string]string{
		"p": `{tier: Admin, priority: 0, ` + inX + `, ingress: [{action: Deny, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {pod: a}}}}]}, {action: Accept, from: [{namespaces: {}}]}, {action: Deny, from: [{namespaces: {}}]}]}`}},
	{truthTable{"Baseline is for pods that no NetworkPolicy isolates", map[string]string{"x/allow-all-a": `{podSelector: {matchLabels: {pod: a}}, ingress: [{}]}`}, `
		w/a -> x/a TCP 80: yes
		w/a -> x/b TCP 80: no
		w/a -> w/b TCP 80: no
		node -> x/b TCP 80: yes`}, map[string]string{
		"default-deny": `{tier: Baseline, priority: 0, ` + everyPod + `, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`}},
	{truthTable{"Baseline opens nothing that NetworkPolicy isolates", map[string]string{"x/deny": `{podSelector: {matchLabels: {pod: a}}}`}, `
		w/a -> x/a TCP 80: no
		w/a -> x/b TCP 80: yes`}, map[string]string{
		"allow": `{tier: Baseline, priority: 0, ` + everyPod + `, ingress: [{action: Accept, from: [{namespaces: {}}]}]}`}},
	{truthTable{"a NetworkPolicy of one direction leaves the other to Baseline", map[string]string{"x/in": `{podSelector: {}, ingress: [{}]}`}, `
		x/a -> w/a TCP 80: no
		w/a -> x/a TCP 80: yes`}, map[string]string{
		"no-egress": `{tier: Baseline, priority: 0, ` + inX + `, egress: [{action: Deny, to: [{namespaces: {}}]}]}`}},
	{truthTable{"a Pass of Baseline means the default", nil, `
		w/a -> x/a TCP 80: yes
		z/a -> x/a TCP 80: no`}, map[string]string{
		"b": `{tier: Baseline, priority: 0, ` + inX + `, ingress: [{action: Pass, from: [{namespaces: {matchLabels: {ns: w}}}]}, {action: Deny, from: [{namespaces: {}}]}]}`}},
	{truthTable{"networks mean pods too", nil, `
		x/a -> internet TCP 443: no
		x/a -> office TCP 443: yes
		x/a -> w/a TCP 80: no`}, map[string]string{
		"p": `{tier: Admin, priority: 0, ` + inX + `, egress: [{action: Deny, to: [{networks: [192.0.2.0/24, "2001:db8::/48", 10.244.1.0/24, "fd00:0:0:1::/64"]}]}]}`}},
	{truthTable{"nodes are their addresses", nil, `
		x/a -> node TCP 10250: no
		x/a -> internet TCP 443: yes
		w/a -> node TCP 10250: yes`}, map[string]string{
		"p": `{tier: Admin, priority: 0, ` + inX + `, egress: [{action: Deny, to: [{nodes: {}}]}]}`}},
	{truthTable{"nodes by label", nil, `
		x/a -> node TCP 10250: no
		x/a -> 172.29.0.3,fd00:172:29::3 TCP 10250: yes`}, map[string]string{
		"p": `{tier: Admin, priority: 0, ` + inX + `, egress: [{action: Deny, to: [{nodes: {matchLabels: {role: here}}}]}]}`}},
	{truthTable{"ports, ranges and names", nil, `
		w/a -> x/a TCP 80: no
		w/a -> x/a TCP 79: yes
		w/a -> x/a UDP 1000: no
		w/a -> x/a UDP 1999: no
		w/a -> x/a UDP 2001: yes
		w/a -> x/a SCTP 7: no
		w/a -> x/c TCP 8080: no
		w/a -> x/c TCP 80: yes`}, map[string]string{
		"p": `{tier: Admin, priority: 0, ` + inX + `, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{destinationNamedPort: web}, {udp: {destinationPort: {range: {start: 1000, end: 2000}}}}, {sctp: {}}]}]}`}},
	{truthTable{"a port name of egress means the peer's number", nil, `
		x/a -> w/a TCP 80: no
		x/a -> w/c TCP 8080: no
		x/a -> w/c TCP 80: yes
		x/a -> internet TCP 80: yes`}, map[string]string{
		"p": `{tier: Admin, priority: 0, ` + inX + `, egress: [{action: Deny, to: [{namespaces: {}}], protocols: [{destinationNamedPort: web}]}]}`}},
	{truthTable{"an unknown peer fails closed", nil, `
		w/a -> x/a TCP 80: no
		x/a -> w/a TCP 80: no
		internet -> x/a TCP 80: no`}, map[string]string{
		"p": `{tier: Admin, priority: 0, ` + inX + `, ingress: [{action: Pass, from: [{}]}], egress: [{action: Accept, to: [{domainNames: [example.com]}]}, {action: Deny, to: [{namespaces: {}}]}]}`}},
	{truthTable{"an unknown kind of port fails closed", nil, `
		w/a -> x/a TCP 80: no
		w/a -> x/a UDP 80: no
		x/a -> w/a TCP 80: no`}, map[string]string{
		"p": `{tier: Admin, priority: 0, ` + inX + `, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {}}}]}], egress: [{action: Accept, to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {}}}]}, {action: Deny, to: [{namespaces: {}}]}]}`}},
	{truthTable{"the node always reaches its pods", nil, `
		node -> x/a TCP 80: yes
		w/a -> x/a TCP 80: no`}, map[string]string{
		"p": `{tier: Admin, priority: 0, ` + everyPod + `, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`}},
}

func TestClusterTruthTables(t *testing.T) {
	h := progtest.New(t)
	for _, table := range clusterTables {
		t.Run(table.name, func(t *testing.T) {
			b := newBench(t, h)
			defer b.close()
			pods := fixture(b)
			nodes(b)
			for name, spec := range table.policies {
				b.setPolicy(policyFrom(t, name, spec))
			}
			for name, spec := range table.cluster {
				b.setClusterPolicy(clusterPolicyFrom(t, name, spec))
			}
			b.load()
			for _, line := range strings.Split(strings.TrimSpace(table.lines), "\n") {
				checkLine(t, b, pods, strings.TrimSpace(line))
			}
		})
	}
}

func nodes(b *bench) {
	for i, name := range []string{thisNode, "node-b"} {
		labels := map[string]string{}
		if name == thisNode {
			labels["role"] = "here"
		}
		b.setNode(policymodel.Node{Name: name, Labels: labels, IPs: []netip.Addr{
			netip.MustParseAddr(fmt.Sprintf("172.29.0.%d", i+2)), netip.MustParseAddr(fmt.Sprintf("fd00:172:29::%d", i+2)),
		}})
	}
}

func clusterPolicyFrom(t *testing.T, name, spec string) policyv1alpha2.ClusterNetworkPolicy {
	t.Helper()
	var p policyv1alpha2.ClusterNetworkPolicy
	if err := yaml.UnmarshalStrict([]byte(fmt.Sprintf("spec: %s", spec)), &p); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	p.Name, p.UID, p.Generation = name, types.UID(name), 1
	return p
}
