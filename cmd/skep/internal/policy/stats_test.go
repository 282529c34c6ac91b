// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"
	"testing"
	"time"

	"skep.dev/skep/datapath"
	"skep.dev/skep/nodeagent/intent"
)

func stats(action datapath.Action, dir datapath.Direction, index int, count uint64, policies ...string) intent.RuleStats {
	info := intent.RuleInfo{ID: datapath.RuleID(count), Direction: dir, Index: index, Policies: policies}
	return intent.RuleStats{PolicyRule: intent.PolicyRule{RuleInfo: info, Action: action}, Connections: count, Packets: count, Bytes: 74 * count}
}

// twoNodes is what two nodes say, one after the other.
func twoNodes() []intent.RuleStats {
	first, second := stats(datapath.Allow, datapath.Ingress, 0, 5, "shop/web"), stats(datapath.Allow, datapath.Ingress, 0, 7, "shop/web")
	first.Since, second.Since = time.Unix(9, 0), time.Unix(5, 0)
	return []intent.RuleStats{
		first,
		stats(datapath.Allow, datapath.Ingress, 10, 0, "shop/web"),
		stats(datapath.Deny, datapath.Ingress, -1, 2, "shop/all", "shop/web"),
		stats(datapath.Deny, datapath.Egress, 0, 1, "tier"),
		second,
		stats(datapath.Allow, datapath.Ingress, 10, 0, "shop/web"),
		stats(datapath.Allow, datapath.Ingress, 2, 0, "shop/web"),
		stats(datapath.Allow, datapath.Egress, 0, 4, "shop/web"),
		stats(datapath.Deny, datapath.Ingress, -1, 3, "shop/all"),
		stats(datapath.Pass, datapath.Ingress, 1, 0, "tier"),
		stats(datapath.Allow, datapath.Ingress, 0, 9, "tier"),
		stats(datapath.Allow, datapath.Ingress, 0, 6, "ops/web"),
	}
}

func TestRulesAreSummedAndSorted(t *testing.T) {
	for _, c := range []struct{ name, namespace, want string }{
		{"everything", "", `
NAMESPACE   POLICY                      DIRECTION   RULE           ACTION   CONNECTIONS   PACKETS   BYTES   SINCE
-           ClusterNetworkPolicy/tier   ingress     0              Accept   9             9         666     -
-           ClusterNetworkPolicy/tier   ingress     1              Pass     -             -         -       -
-           ClusterNetworkPolicy/tier   egress      0              Deny     1             1         74      -
ops         web                         ingress     0              Allow    6             6         444     -
shop        all                         ingress     default deny   Deny     3             3         222     -
shop        all,web                     ingress     default deny   Deny     2             2         148     -
shop        web                         ingress     0              Allow    12            12        888     1970-01-01T00:00:05Z
shop        web                         ingress     2              Allow    0             0         0       -
shop        web                         ingress     10             Allow    0             0         0       -
shop        web                         egress      0              Allow    4             4         296     -
`},
		{"a namespace", "ops", `
NAMESPACE   POLICY                      DIRECTION   RULE   ACTION   CONNECTIONS   PACKETS   BYTES   SINCE
-           ClusterNetworkPolicy/tier   ingress     0      Accept   9             9         666     -
-           ClusterNetworkPolicy/tier   ingress     1      Pass     -             -         -       -
-           ClusterNetworkPolicy/tier   egress      0      Deny     1             1         74      -
ops         web                         ingress     0      Allow    6             6         444     -
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b strings.Builder
			if err := printRules(&b, ofNamespace(sum(twoNodes()), c.namespace), false); err != nil {
				t.Fatal(err)
			}
			if got := "\n" + b.String(); got != c.want {
				t.Errorf("got:%s\nwant:%s", got, c.want)
			}
		})
	}
}

func TestProgramsTellADefaultDenyFromRuleZero(t *testing.T) {
	var b strings.Builder
	lines := sum([]intent.RuleStats{stats(datapath.Allow, datapath.Ingress, 0, 0, "shop/web"), stats(datapath.Deny, datapath.Ingress, -1, 0, "shop/web")})
	if err := printRules(&b, lines, true); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); strings.Count(got, `"rule": 0`) != 1 || strings.Count(got, `"defaultDeny": true`) != 1 || strings.Count(got, `"connections": 0`) != 2 {
		t.Error(got)
	}
}

func TestAuditsHaveColumnsOfTheirOwn(t *testing.T) {
	deny, open := stats(datapath.Deny, datapath.Ingress, -1, 4, "shop/web"), stats(datapath.Allow, datapath.Egress, -1, 3, "tier")
	deny.Audit, deny.WouldDeny, open.Audit, open.WouldAllow = true, 3, true, 1
	var b strings.Builder
	if err := printRules(&b, sum([]intent.RuleStats{deny, open, stats(datapath.Allow, datapath.Ingress, 0, 1, "shop/web")}), false); err != nil {
		t.Fatal(err)
	}
	want := `
NAMESPACE   POLICY                      DIRECTION   RULE            ACTION   MODE      CONNECTIONS   PACKETS   BYTES   WOULD DENY   WOULD ALLOW   SINCE
-           ClusterNetworkPolicy/tier   egress      default allow   Accept   audit     3             3         222     0            1             -
shop        web                         ingress     0               Allow    enforce   1             1         74      -            -             -
shop        web                         ingress     default deny    Deny     audit     4             4         296     3            0             -
`
	if got := "\n" + b.String(); got != want {
		t.Errorf("got:%s\nwant:%s", got, want)
	}
}
