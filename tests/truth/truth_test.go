// SPDX-License-Identifier: Apache-2.0

package truth

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

// TestPersonAndModelAgree reads every case about SCTP, which there is no cluster for. About the other protocols tests/cluster does so.
func TestPersonAndModelAgree(t *testing.T) {
	w := exampleWorld()
	cells := w.Cells("SCTP")
	for _, c := range slices.Concat(Cases, SCTPCases) {
		network, cluster, err := w.Parse(c.Policies)
		if err != nil {
			t.Fatal(err)
		}
		w.Model.Policies, w.Model.ClusterPolicies = network, cluster
		if _, err := w.Expect(c, cells); err != nil {
			t.Error(err)
		}
	}
	// What a person says can be wrong.
	w.Model.Policies, w.Model.ClusterPolicies = nil, nil
	if _, err := w.Expect(Case{"everything is closed", nil, func(Cell) bool { return false }}, cells); err == nil {
		t.Error("model and person agree that everything is closed without policies")
	}
}

// exampleWorld is one whose addresses nobody has.
func exampleWorld() *World {
	w := &World{Ends: NewEnds(2)}
	for n := 1; n <= 2; n++ {
		w.Hosts = append(w.Hosts, fmt.Sprint("host-", n))
		w.Blocks = append(w.Blocks, []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", n)), netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:%d::/64", n)),
		})
	}
	for i, e := range w.Ends {
		for _, block := range w.Blocks[e.Node-1] {
			if !e.IsPod() {
				block = netip.MustParsePrefix(map[bool]string{true: "172.29.0.0/24", false: "fd00:172:29::/64"}[block.Addr().Is4()])
			}
			addr := block.Addr()
			for range i + 2 {
				addr = addr.Next()
			}
			e.SetAddr(addr)
		}
	}
	w.Know()
	return w
}

func TestPoliciesAreReadAsTheyAreNamed(t *testing.T) {
	w := exampleWorld()
	network, cluster, err := w.Parse(map[string]string{
		"x/p (audit)": `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: $x/b.4/32}}, {ipBlock: {cidr: "$pods-2.6"}}]}]}`,
		"q":           `{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{nodes: {matchLabels: {kubernetes.io/hostname: $host-1}}}]}]}`,
	})
	if err != nil || len(network) != 1 || len(cluster) != 1 {
		t.Fatal(network, cluster, err)
	}
	from := network[0].Spec.Ingress[0].From
	got := fmt.Sprintln(network[0].Namespace, network[0].Name, network[0].Annotations, from[0].IPBlock.CIDR, from[1].IPBlock.CIDR, cluster[0].Name,
		cluster[0].Annotations, cluster[0].Spec.Egress[0].To[0].Nodes.MatchLabels)
	want := fmt.Sprintln("truth-x", "p", "map[skep.dev/enforcement:audit]", "10.244.2.3/32", "fd00:10:244:2::/64", "q", "map[]", "map[kubernetes.io/hostname:host-1]")
	if got != want {
		t.Errorf("got  %swant %s", got, want)
	}
	if _, _, err := w.Parse(map[string]string{"x/p": `{podSelector: {}, ingres: []}`}); err == nil {
		t.Error("a misspelt field is read over")
	}
}
