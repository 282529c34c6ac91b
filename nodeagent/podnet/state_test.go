// SPDX-License-Identifier: Apache-2.0

package podnet

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func ranged(t *testing.T, cidrs ...string) *state {
	t.Helper()
	s := newState()
	var list []netip.Prefix
	for _, c := range cidrs {
		list = append(list, netip.MustParsePrefix(c))
	}
	if err := s.setRanges(list); err != nil {
		t.Fatal(err)
	}
	return &s
}

func mustAllocate(t *testing.T, s *state, uid string, now time.Time) string {
	t.Helper()
	rec, err := s.allocate(Pod{UID: uid}, now)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(rec.Addrs)
}

func TestRangesLeaveOutReservedAddresses(t *testing.T) {
	cases := []struct{ cidr, first, last string }{
		{"10.244.1.0/24", "10.244.1.2", "10.244.1.254"},
		{"10.244.1.77/24", "10.244.1.2", "10.244.1.254"},
		{"10.0.0.0/30", "10.0.0.2", "10.0.0.2"},
		{"fd00:1::/64", "fd00:1::2", "fd00:1::ffff:ffff:ffff:ffff"},
		{"fd00:1::4/126", "fd00:1::6", "fd00:1::7"},
	}
	for _, tc := range cases {
		r, err := newRange(netip.MustParsePrefix(tc.cidr))
		if err != nil {
			t.Fatal(err)
		}
		if r.first.String() != tc.first || r.last.String() != tc.last {
			t.Errorf("%s holds %s to %s, want %s to %s", tc.cidr, r.first, r.last, tc.first, tc.last)
		}
	}
	for _, bad := range []string{"10.0.0.0/31", "10.0.0.0/32", "fd00::/127"} {
		if _, err := newRange(netip.MustParsePrefix(bad)); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}

func TestEveryAddressIsHandedOutOnceAndComesBackLate(t *testing.T) {
	s := ranged(t, "10.0.0.0/29", "fd00::/120") // five IPv4 addresses
	now := time.Unix(1000, 0)
	seen := map[string]bool{}
	for i := range 5 {
		got := mustAllocate(t, s, fmt.Sprint("pod", i), now)
		if seen[got] {
			t.Fatalf("%s is handed out twice", got)
		}
		seen[got] = true
	}
	if _, err := s.allocate(Pod{UID: "one too many"}, now); !errors.Is(err, ErrExhausted) {
		t.Fatalf("a sixth pod gets %v, want ErrExhausted", err)
	}
	s.release("pod1", now)
	s.release("pod3", now.Add(time.Second))
	if got := mustAllocate(t, s, "pressed", now.Add(2*time.Second)); got != "[10.0.0.3 fd00::7]" {
		t.Errorf("with only cooling addresses left the pod gets %s, want that which cools the longest", got)
	}
	s.release("pod0", now.Add(3*time.Second))
	if got := mustAllocate(t, s, "later", now.Add(4*time.Second+reuseDelay)); got != "[10.0.0.5 fd00::8]" && got != "[10.0.0.2 fd00::8]" {
		t.Errorf("after the delay the pod gets %s", got)
	}
}

func TestAllocationGoesOnBehindTheLast(t *testing.T) {
	s := ranged(t, "10.0.0.0/24")
	now := time.Unix(1000, 0)
	mustAllocate(t, s, "a", now)
	s.release("a", now)
	if got := mustAllocate(t, s, "b", now.Add(time.Hour)); got != "[10.0.0.3]" {
		t.Errorf("the next pod gets %s although 10.0.0.3 has rested longer", got)
	}
}

func TestTheCheckpointSurvivesARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "podnet.json")
	s := ranged(t, "10.0.0.0/24", "fd00::/64")
	now := time.Unix(1000, 0)
	first := mustAllocate(t, s, "a", now)
	mustAllocate(t, s, "b", now)
	s.release("b", now)
	if err := s.save(path); err != nil {
		t.Fatal(err)
	}
	again, err := loadState(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.setRanges([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("fd00::/64")}); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(again.Pods["a"].Addrs); got != first {
		t.Errorf("pod a has %s, had %s", got, first)
	}
	if got := mustAllocate(t, &again, "c", now.Add(time.Second)); got != "[10.0.0.4 fd00::4]" {
		t.Errorf("a new pod gets %s, want neither a live nor a cooling address", got)
	}
}

func TestADamagedCheckpointIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "podnet.json")
	for name, content := range map[string]string{
		"cut off":             `{"version":1,"pods":{"a"`,
		"of a later version":  `{"version":2}`,
		"one address, two":    `{"version":1,"pods":{"a":{"uid":"a","addrs":["10.0.0.2"]},"b":{"uid":"b","addrs":["10.0.0.2"]}}}`,
		"a path for a name":   `{"version":1,"pods":{"../a":{"uid":"../a"}}}`,
		"inconsistent record": `{"version":1,"pods":{"a":{"uid":"b"}}}`,
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadState(path); err == nil {
			t.Errorf("accepted: %s", name)
		}
	}
}

func TestSetRangesRefusesTwoOfAFamily(t *testing.T) {
	s := newState()
	if err := s.setRanges([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("10.0.1.0/24")}); err == nil {
		t.Error("two IPv4 ranges are accepted")
	}
}
