// SPDX-License-Identifier: Apache-2.0

package netdev

import (
	"os"
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestForwardDropsAreSeen(t *testing.T) {
	if os.Getenv(insideEnv) == "" {
		t.Skip("needs root, to make a network namespace")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft to write rules")
	}
	h, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for _, step := range []struct {
		rules string
		want  []string
	}{
		{"add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy accept; }", nil},
		{"add chain ip filter INPUT { type filter hook input priority 0; policy drop; }", nil},
		{"add chain ip filter other", nil},
		{"chain ip filter FORWARD { policy drop; }", []string{"ip filter/FORWARD"}},
		{"add table inet fw; add chain inet fw f { type filter hook forward priority 0; policy drop; }", []string{"ip filter/FORWARD", "inet fw/f"}},
	} {
		if out, err := exec.Command("nft", step.rules).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", step.rules, err, out)
		}
		got, err := h.ForwardDrops()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(step.want, got); diff != "" {
			t.Errorf("after %q:\n%s", step.rules, diff)
		}
	}
}
