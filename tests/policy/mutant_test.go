// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var mutateFlag = flag.Bool("mutate", false, "check that the tests notice each of a list of broken lines; takes minutes")

// mutants are single broken lines. Each must make a differential test fail. The files themselves are never touched: the
// go command compiles a changed copy in their place.
var mutants = []struct{ what, file, line, broken string }{
	{"rules for any peer are left out of the rows of known classes", "datapath/compile/set.go", "v.or(s.anyPeer)", "v.or(nil)"},
	{"protocols run into each other", "datapath/compile/set.go", "protocol := uint32(r.Protocol) << 16", "protocol := uint32(0)"},
	{"the end of one range ends a rule's others", "datapath/compile/set.go", "ranges[edge.bit] > 0 {", "edge.delta > 0 {"},
	{"ranges end one too late", "datapath/compile/set.go", "uint32(r.Last) + 1, bit", "uint32(r.Last) + 2, bit"},
	{"rules for any port do not hold beside rules with ports", "datapath/compile/set.go", "included.set(bit)\n\t\t\tcontinue", "continue"},
	{"exceptions are ignored", "datapath/compile/class.go", "return slices.Contains(out, id)", "return false && slices.Contains(out, id)"},
	{"::/0 contains IPv4", "datapath/compile/class.go", "c.Prefixes[v4] = NoClass", "_ = v4"},
	{"blocks do not hold for pods", "datapath/compile/class.go", "slices.Concat(atoms, cidrs.atomsOf(addr))", "slices.Concat(atoms, nil)"},
	{"isolation does not deny", "nodeagent/intent/sets.go", "set.Default = datapath.Deny", "set.Default = datapath.Allow"},
	{"a default deny is attributed to the first policy alone", "nodeagent/intent/sets.go", "acquireIsolation(dir, isolating)", "acquireIsolation(dir, isolating[:1])"},
	{"port names of egress ignore which pod they are of", "nodeagent/intent/sets.go", "b.hold(peers, &podPort{np, number})", "b.hold(peers, nil)"},
	{"port names of ingress mean nothing", "nodeagent/intent/sets.go", "if slices.Contains(r.named, pp.namedPort) {", "if false {"},
	{"new numbers behind a port name go unnoticed", "nodeagent/intent/cluster.go", "c.staleByName(pp.namedPort)", "_ = pp"},
	{"the oldest pod owns an address", "nodeagent/intent/cluster.go", "p.created.After(best.created)", "p.created.Before(best.created)"},
	{"pods that ended own addresses", "nodeagent/intent/cluster.go", "if p.terminal {\n\t\treturn", "if false {\n\t\treturn"},
	{"a podSelector alone means every namespace", "nodeagent/intent/atom.go", "} else if a.namespace != pr.namespace {", "} else if false {"},
	{"an egress section alone does not isolate", "nodeagent/intent/policy.go", "return true, len(spec.Egress) > 0", "return true, false"},
	{"a new version of a policy leaves the sets as they are", "nodeagent/intent/policy.go", "pr.markStale()", "_ = pr"},
}

func TestABrokenCompilerOrTranslatorIsNoticed(t *testing.T) {
	if !*mutateFlag {
		t.Skip("only with -mutate")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		t.Run(m.what, func(t *testing.T) {
			path := filepath.Join(root, m.file)
			source, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Count(string(source), m.line) != 1 {
				t.Fatalf("%s does not contain this line once: %s", m.file, m.line)
			}
			overlay := overlayOf(t, path, strings.Replace(string(source), m.line, m.broken, 1))
			cmd := exec.Command("go", "test", "-count=1", "-overlay", overlay, "-run", "^Test(Random|Truth|ANew)", ".",
				"-cases", "40000", "-seed", "1")
			out, err := cmd.CombinedOutput()
			if err == nil {
				t.Fatal("nobody noticed")
			}
			if !strings.Contains(string(out), "--- FAIL: Test") {
				t.Fatalf("the mutant does not run:\n%s", out)
			}
			for _, line := range strings.Split(string(out), "\n") {
				if strings.HasPrefix(line, "--- FAIL") {
					t.Log(line)
				}
			}
		})
	}
}

// overlayOf writes a changed copy of a file and the list that makes the go command use it.
func overlayOf(t *testing.T, path, content string) string {
	t.Helper()
	dir := t.TempDir()
	copied := filepath.Join(dir, filepath.Base(path))
	list, err := json.Marshal(map[string]map[string]string{"Replace": {path: copied}})
	if err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(dir, "overlay.json")
	for name, text := range map[string]string{copied: content, overlay: string(list)} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return overlay
}
