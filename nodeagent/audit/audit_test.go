// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"skep.dev/skep/datapath"
	"skep.dev/skep/nodeagent/intent"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func event(host byte, at time.Duration) datapath.AuditEvent {
	return datapath.AuditEvent{
		Time: noon.Add(at), Protocol: datapath.TCP, WouldRule: 7,
		Src: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, host, 1}), 40000+uint16(host)),
		Dst: netip.MustParseAddrPort("10.1.0.1:80"),
	}
}

func TestEqualConnectionsAreRememberedOnce(t *testing.T) {
	l := NewLog()
	l.Add(event(1, 0))
	l.Add(event(2, time.Second))
	again := event(1, 2*time.Second)
	again.Src = netip.AddrPortFrom(again.Src.Addr(), 50000)
	l.Add(again)
	seen, forgot := l.Last()
	if len(seen) != 2 || forgot != 0 {
		t.Fatalf("remembers %+v, forgot %d", seen, forgot)
	}
	if s := seen[0]; s.Count != 2 || !s.First.Equal(noon) || !s.Last.Equal(noon.Add(2*time.Second)) || s.From != again.Src.Addr() {
		t.Errorf("the last one heard of is %+v", s)
	}
}

func TestWhatWasNotHeardOfForTheLongestTimeGoes(t *testing.T) {
	l := NewLog()
	for i := range Kept {
		e := event(0, time.Duration(i))
		e.Dst = netip.AddrPortFrom(e.Dst.Addr(), uint16(i))
		l.Add(e)
	}
	first := event(0, time.Hour)
	first.Dst = netip.AddrPortFrom(first.Dst.Addr(), 0)
	l.Add(first) // the oldest is heard of again
	l.Add(event(9, 2*time.Hour))
	seen, forgot := l.Last()
	if len(seen) != Kept || forgot != 1 {
		t.Fatalf("remembers %d, forgot %d", len(seen), forgot)
	}
	for _, s := range seen {
		if s.Port == 1 {
			t.Error("port 1, not heard of since the second event, is still there")
		}
	}
	if seen[1].Port != 0 || seen[1].Count != 2 {
		t.Errorf("port 0, heard of again, is %+v", seen[1])
	}
}

func rule(id datapath.RuleID, index int, policies ...string) intent.PolicyRule {
	return intent.PolicyRule{RuleInfo: intent.RuleInfo{ID: id, Policies: policies, Index: index, Audit: true}}
}

func TestReports(t *testing.T) {
	enforced := rule(9, 0, "shop/enforced")
	enforced.Audit = false
	rules := []intent.PolicyRule{rule(1, 0, "shop/web"), rule(2, -1, "shop/web", "shop/db"), rule(3, 0, "guard"), enforced}
	counters := []datapath.RuleCounter{
		{Rule: 1, Since: noon, WouldAllow: 1},
		{Rule: 2, Since: noon.Add(time.Minute), WouldDeny: 12},
		{Rule: 3, Since: noon, Connections: 5}, // would have decided the same
		{Rule: 9, Since: noon, WouldDeny: 3},   // not in audit mode: what it would decide is due to another
	}
	l := NewLog()
	for i, e := range []datapath.AuditEvent{event(1, 0), event(2, 0), event(3, 0)} {
		e.WouldRule, e.WouldAllow = datapath.RuleID(i), i == 1
		l.Add(e)
	}
	seen, _ := l.Last()
	r := Reporter{Node: "n1", Describe: func(s Seen) string { return fmt.Sprintf("%v to %v port %d", s.From, s.To, s.Port) }}
	reports := func(after time.Duration) []string {
		var out []string
		for _, report := range r.Reports(noon.Add(after), rules, counters, seen) {
			out = append(out, strings.Join([]string{report.Policy, report.Reason, report.Message}, "|"))
		}
		return out
	}
	want := []string{
		"shop/web|WouldAllow|in audit mode: would have allowed 1 connection on node n1 since 2026-03-01T12:00:00Z; the last: 10.0.2.1 to 10.1.0.1 port 80",
		"shop/web|WouldDeny|in audit mode: would have denied 12 connections on node n1 since 2026-03-01T12:01:00Z; the last: 10.0.3.1 to 10.1.0.1 port 80",
		"shop/db|WouldDeny|in audit mode: would have denied 12 connections on node n1 since 2026-03-01T12:01:00Z; the last: 10.0.3.1 to 10.1.0.1 port 80",
	}
	if d := cmp.Diff(want, reports(0)); d != "" {
		t.Error(d)
	}
	if got := reports(time.Hour); got != nil {
		t.Errorf("told again though nothing happened: %q", got)
	}
	counters[1].WouldDeny++
	if got := reports(time.Minute); got != nil {
		t.Errorf("told again at once: %q", got)
	}
	if got := reports(tellInterval); len(got) != 2 || !strings.Contains(got[0], "denied 13 connections") {
		t.Errorf("after a while: %q", got)
	}
}
