// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/fake"
	"skep.dev/skep/nodeagent/intent"
	"skep.dev/skep/nodeagent/ledger"
)

func ruleStats(id datapath.RuleID, index int, action datapath.Action, connections uint64, policies ...string) intent.RuleStats {
	return intent.RuleStats{PolicyRule: intent.PolicyRule{RuleInfo: intent.RuleInfo{ID: id, Index: index, Policies: policies}, Action: action}, Connections: connections}
}

func TestSeriesOfRules(t *testing.T) {
	many := []string{"shop/a", "shop/b", "shop/c", "shop/d", "shop/e", "shop/f"}
	others := append(many[:5:5], "shop/g")
	audit := ruleStats(6, 0, datapath.Deny, 6, "guard")
	audit.Audit, audit.Direction, audit.WouldDeny, audit.WouldAllow = true, datapath.Egress, 2, 1
	got, dropped := ruleSeries([]intent.RuleStats{
		ruleStats(1, 0, datapath.Allow, 1, "shop/web"), ruleStats(0, 1, datapath.Allow, 0, "shop/web"), ruleStats(2, 0, datapath.Pass, 0, "guard"),
		ruleStats(3, -1, datapath.Deny, 3, many...), ruleStats(4, -1, datapath.Deny, 4, others...), audit,
	}, 10)
	var lines []string
	for _, s := range got {
		line := fmt.Sprint(strings.Join(s.labels[:], " "), ": ", s.connections)
		if s.audit {
			line += fmt.Sprintf(", would deny %d and allow %d", s.wouldDeny, s.wouldAllow)
		}
		lines = append(lines, line)
	}
	want := "NetworkPolicy shop web ingress 0 allow: 1\nNetworkPolicy shop a,b,c,d,e+1 ingress default deny: 7\n" +
		"ClusterNetworkPolicy  guard egress 0 audit-deny: 6, would deny 2 and allow 1"
	if text := strings.Join(lines, "\n"); text != want || dropped != 0 {
		t.Errorf("%d dropped and\n%s\nwant\n%s", dropped, text, want)
	}
}

func TestSeriesOfRulesAreBounded(t *testing.T) {
	var stats []intent.RuleStats
	for i := range 30 {
		stats = append(stats, ruleStats(datapath.RuleID(i+1), i, datapath.Allow, uint64(i%3), "shop/web"))
	}
	got, dropped := ruleSeries(stats, 20)
	unused := 0
	for _, s := range got {
		if s.connections == 0 {
			unused++
		}
	}
	if len(got) != 20 || dropped != 10 || unused != 0 {
		t.Errorf("%d series, %d dropped, %d of those that stay were never used", len(got), dropped, unused)
	}
}

// TestMetricsAreWellFormed has the registry check the series of all parts.
func TestMetricsAreWellFormed(t *testing.T) {
	rules, err := intent.NewRuleTable("")
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{podsKnown: make(chan struct{})}
	a.parts = []part{podCounts{a}, ledger.New(), datapathMetrics{dp: fake.New(), rules: rules}}
	answer := httptest.NewRecorder()
	promhttp.HandlerFor(a.metrics(), promhttp.HandlerOpts{}).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, want := range []string{"skep_policy_rule_series_dropped 0", `skep_policy_failures{reason="NoRoom"} 0`, "skep_policy_enforcement_latency_seconds_count 0"} {
		if !strings.Contains(answer.Body.String(), want) {
			t.Errorf("no %q in:\n%s", want, answer.Body)
		}
	}
}
