// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"skep.dev/skep/datapath"
)

func openTable(t *testing.T, path string) *RuleTable {
	t.Helper()
	table, err := NewRuleTable(path)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func numbered(name string, generation int64) source {
	return source{uid: types.UID("uid-" + name), name: "shop/" + name, generation: generation}
}

func TestRuleNumbersAreStableAndNeverReused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rules")
	table := openTable(t, path)
	first := table.ruleID(numbered("p", 1), datapath.Ingress, 0)
	seen := map[datapath.RuleID]string{first: "p generation 1"}
	for name, id := range map[string]datapath.RuleID{
		"another index":      table.ruleID(numbered("p", 1), datapath.Ingress, 1),
		"another direction":  table.ruleID(numbered("p", 1), datapath.Egress, 0),
		"another generation": table.ruleID(numbered("p", 2), datapath.Ingress, 0),
		"another policy":     table.ruleID(numbered("q", 1), datapath.Ingress, 0),
		"a default deny":     table.acquireIsolation(datapath.Ingress, []source{numbered("p", 1)}),
		"a default deny too": table.acquireIsolation(datapath.Ingress, []source{numbered("p", 1), numbered("q", 1)}),
	} {
		if other, taken := seen[id]; taken || id == 0 {
			t.Errorf("%s has number %d, which is %q", name, id, other)
		}
		seen[id] = name
	}
	if id := table.ruleID(numbered("p", 1), datapath.Ingress, 0); id != first {
		t.Errorf("the same rule has number %d, then %d", first, id)
	}
	if err := table.Flush(); err != nil {
		t.Fatal(err)
	}

	again := openTable(t, path)
	if id := again.ruleID(numbered("p", 1), datapath.Ingress, 0); id != first {
		t.Errorf("after a restart the rule has number %d, before %d", id, first)
	}
	if id := again.ruleID(numbered("r", 1), datapath.Ingress, 0); seen[id] != "" {
		t.Errorf("after a restart number %d is given out again", id)
	}
	info, ok := again.Lookup(first)
	if !ok || fmt.Sprint(info.Policies, info.Direction, info.Index) != "[shop/p] ingress 0" {
		t.Errorf("after a restart %d stands for %+v", first, info)
	}
}

func TestADamagedJournalCostsNamesNotUniqueness(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rules")
	table := openTable(t, path)
	var last datapath.RuleID
	for i := range 10 {
		last = table.ruleID(numbered("p", 1), datapath.Ingress, i)
	}
	if err := table.Flush(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range whole {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		if id := openTable(t, path).ruleID(numbered("new", 1), datapath.Ingress, 0); id <= last {
			t.Fatalf("cut at byte %d: number %d is given out again", cut, id)
		}
	}
}

func TestNamesOfOldRulesAreForgottenInTheEnd(t *testing.T) {
	table := openTable(t, "")
	for i := range 2 * keptRules {
		id := table.ruleID(numbered("p", int64(i)), datapath.Ingress, 0)
		table.release(id)
	}
	if n := len(table.entries); n > keptRules+1 {
		t.Errorf("%d names are kept, the bound is %d", n, keptRules)
	}
}

func TestCurrentRulesIncludeThoseOfNoPodHere(t *testing.T) {
	c := cluster(t)
	c.SetPod(testPod("shop", "web", self, "10.0.0.1", labels.Set{"app": "web"}))
	both := policyFrom(t, "web", "\n  podSelector: {matchLabels: {app: web}}\n  policyTypes: [Ingress, Egress]\n  ingress: [{}, {ports: [{port: 80}]}]")
	apply(t, c, both)
	apply(t, c, policyFrom(t, "dead", "\n  podSelector: {matchLabels: {app: nobody}}\n  ingress: [{}]"))
	tier := parse[policyv1alpha2.ClusterNetworkPolicy](t, "metadata: {name: tier, uid: uid-tier}\nspec:\n  tier: Admin\n  priority: 1\n  subject: {namespaces: {}}\n  egress: [{action: Deny, to: [{networks: [10.9.0.0/16]}]}]")
	if _, err := c.SetClusterPolicy(tier); err != nil {
		t.Fatal(err)
	}
	c.Policy()
	check := func(want string) {
		t.Helper()
		var b strings.Builder
		for _, r := range c.rules.Current() {
			fmt.Fprintln(&b, r.Policies, r.Direction, r.Index, r.Action, r.ID != 0)
		}
		if b.String() != want {
			t.Errorf("got:\n%swant:\n%s", b.String(), want)
		}
	}
	check("[shop/dead] ingress 0 0 false\n[shop/web] ingress 0 0 true\n[shop/web] ingress 1 0 true\n[shop/web] ingress -1 1 true\n" +
		"[shop/web] egress -1 1 true\n[tier] egress 0 1 true\n")

	smaller := both.DeepCopy()
	smaller.Generation++
	smaller.Spec.Ingress, smaller.Spec.PolicyTypes = smaller.Spec.Ingress[:1], smaller.Spec.PolicyTypes[:1]
	apply(t, c, smaller)
	c.DeleteClusterPolicy("tier")
	c.DeleteNetworkPolicy("shop", "dead")
	c.Policy()
	check("[shop/web] ingress 0 0 true\n[shop/web] ingress -1 1 true\n")
}
