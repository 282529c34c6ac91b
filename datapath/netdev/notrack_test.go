// SPDX-License-Identifier: Apache-2.0

package netdev

import (
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skep.dev/skep/datapath"
)

func TestNotrackFollowsTheNodes(t *testing.T) {
	if os.Getenv(insideEnv) == "" {
		t.Skip("needs root, to make a network namespace")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft to read the rules back")
	}
	a := node("a", true, "172.29.0.2", "fd00:29::2", "10.244.1.0/24", "fd00:1::/64")
	b := node("b", false, "172.29.0.3", "fd00:29::3", "10.244.2.0/24", "fd00:2::/64")
	h, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for _, nodes := range [][]datapath.Node{{a}, {a, b}, nil, {b, a}} { // the last one is looked at
		if err := h.SyncNotrack(nodes); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command("nft", "list", "table", "inet", notrackTable).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got := strings.Join(strings.Fields(string(out)), " ")
	for _, want := range []string{
		"elements = { 10.244.1.0/24, 10.244.2.0/24 }",
		"elements = { 172.29.0.2, 172.29.0.3 }",
		"elements = { fd00:1::/64, fd00:2::/64 }",
		"hook prerouting priority raw; policy accept;",
		"hook output priority raw; policy accept;",
		"ip saddr @pods4 ip daddr @pods4 notrack",
		"ip saddr @pods4 ip daddr @nodes4 notrack",
		"ip saddr @nodes4 ip daddr @pods4 notrack",
		"ip6 saddr @nodes6 ip6 daddr @pods6 notrack",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if n := strings.Count(got, "notrack"); n != 12 {
		t.Errorf("%d rules, want 12", n)
	}
}

func TestNotrackThatWasFlushedIsMissed(t *testing.T) {
	if os.Getenv(insideEnv) == "" {
		t.Skip("needs root, to make a network namespace")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft to flush the rules")
	}
	h, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for _, flush := range [][]string{{"flush", "ruleset"}, {"flush", "table", "inet", notrackTable}, {"flush", "chain", "inet", notrackTable, "output"}} {
		if err := h.SyncNotrack([]datapath.Node{node("a", true, "172.29.0.2", "fd00:29::2", "10.244.1.0/24", "fd00:1::/64")}); err != nil {
			t.Fatal(err)
		}
		if there, err := h.HasNotrack(); !there || err != nil {
			t.Errorf("just written: %v, %v", there, err)
		}
		if out, err := exec.Command("nft", flush...).CombinedOutput(); err != nil {
			t.Fatalf("nft %v: %s", flush, out)
		}
		if there, err := h.HasNotrack(); there || err != nil {
			t.Errorf("after nft %v: %v, %v", flush, there, err)
		}
	}
}

func TestDisjointPrefixes(t *testing.T) {
	var in, want []netip.Prefix
	for _, s := range []string{"10.2.0.0/16", "10.0.0.0/8", "10.2.3.0/24", "11.0.0.0/8", "10.0.0.0/16", "11.0.0.0/8"} {
		in = append(in, netip.MustParsePrefix(s))
	}
	for _, s := range []string{"10.0.0.0/8", "11.0.0.0/8"} {
		want = append(want, netip.MustParsePrefix(s))
	}
	if diff := cmp.Diff(want, disjoint(in), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}
