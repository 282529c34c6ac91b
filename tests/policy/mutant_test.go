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
// go command compiles a changed copy in their place, and takes programs that were made of a changed copy of bpf/.
var mutants = []struct{ what, file, line, broken string }{
	{"rules for any peer are left out of the rows of known classes", "datapath/compile/set.go", "v.or(s.anyPeer)", "v.or(nil)"},
	{"protocols run into each other", "datapath/compile/set.go", "protocol := uint32(r.Protocol) << 16", "protocol := uint32(0)"},
	{"the end of one range ends a rule's others", "datapath/compile/set.go", "ranges[edge.bit] > 0 {", "edge.delta > 0 {"},
	{"ranges end one too late", "datapath/compile/set.go", "uint32(r.Last) + 1, bit", "uint32(r.Last) + 2, bit"},
	{"rules for any port do not hold beside rules with ports", "datapath/compile/set.go", "included.set(bit)\n\t\t\tcontinue", "continue"},
	{"tiers run into each other", "datapath/compile/set.go", "next = (next + BlockBits - 1) / BlockBits * BlockBits", "next += 0"},
	{"the would-be view has the enforced default", "datapath/compile/set.go", "if from.Audit != nil {\n\t\twould =", "if false {\n\t\twould ="},
	{"rules in audit mode are enforced", "datapath/compile/set.go", "if rule.View != datapath.AuditOnly {", "if true {"},
	{"the would-be view keeps what would no longer be asked", "datapath/compile/set.go", "if rule.View != datapath.EnforcedOnly {", "if true {"},
	{"exceptions are ignored", "datapath/compile/cidr.go", "return slices.Contains(out, id)", "return false && slices.Contains(out, id)"},
	{"::/0 contains IPv4", "datapath/compile/class.go", "len(u.cidrs.boundaries) > 0)", "false)"},
	{"blocks do not hold for pods", "datapath/compile/class.go", "now := ClassKey{Group: group, CIDRs: u.cidrs.of(addr)}", "now := ClassKey{Group: group}"},
	{"a new block leaves pods in their classes", "datapath/compile/class.go", "if moved.contain(addr.Unmap()) {", "if false {"},
	{"a new block leaves the blocks inside it", "datapath/compile/cidr.go", "if now := c.join(prefix); now != before {", "if now := c.join(prefix); now != before && before == \"\" {"},
	{"a group's new atoms go unnoticed", "datapath/compile/class.go", "if changed[key.Group] {", "if false {"},
	{"a class with other atoms keeps its rows in sets that tell", "datapath/reconcile/class.go", "if known && !p.tellsApart(c, before.atoms, atoms) {", "if known {"},
	{"pods keep their old egress set", "datapath/bpfmap/change.go", "EgressSet: to.EgressSet", "EgressSet: to.IngressSet"},
	{"addresses keep their old classes", "datapath/reconcile/address.go", "n.addressMap.changeAll(keys, entries)", "error(nil)"},
	{"what moves while sets change passes through nothing", "datapath/reconcile/passage.go", "return p.numberPassage(c, passage{from, to}) }", "return to }"},
	{"all pass in the class that they leave", "datapath/reconcile/passage.go", "return goals[way.from] == 1", "return true"},
	{"what passes in its class has no rows in new sets", "datapath/reconcile/policy.go", "if set.peers[way.from] == nil {", "if false {"},
	{"atoms that nobody names stay with pods", "nodeagent/intent/atom.go", "slices.BinarySearchFunc(pr.selected, a, compareAtoms); ok {", "slices.BinarySearchFunc(pr.selected, a, compareAtoms); ok && false {"},
	{"pods of a group that splits stay together", "nodeagent/intent/group.go", "case len(members) == len(gr.addrs):", "case true:"},
	{"isolation does not deny", "nodeagent/intent/sets.go", "set.Default = datapath.Deny", "set.Default = datapath.Allow"},
	{"a default deny is attributed to the first policy alone", "nodeagent/intent/sets.go", "acquireIsolation(dir, isolating)", "acquireIsolation(dir, isolating[:1])"},
	{"policies in audit mode isolate", "nodeagent/intent/sets.go", "if !p.audit {\n\t\t\tisolating", "if true {\n\t\t\tisolating"},
	{"what only an audit isolates would keep its Baseline", "nodeagent/intent/sets.go", "b.baseline, datapath.EnforcedOnly)", "b.baseline, datapath.BothViews)"},
	{"cluster policies in audit mode bite", "nodeagent/intent/sets.go", "return datapath.AuditOnly, within == datapath.BothViews", "return within, true"},
	{"the would-be default deny is forgotten", "nodeagent/intent/sets.go", "if len(would) > isolating {", "if false {"},
	{"another mode is no change", "nodeagent/intent/policy.go", "old.source == sourceOf(obj, old.name)", "old.uid == obj.UID && old.generation == obj.Generation"},
	{"any annotation means audit mode", "enforcement/enforcement.go", "if Mode(annotations[Annotation]) == Audit {", "if annotations[Annotation] != \"\" {"},
	{"port names of egress ignore which pod they are of", "nodeagent/intent/sets.go", "b.hold(peers, &podPort{np, number})", "b.hold(peers, nil)"},
	{"port names of ingress mean nothing", "nodeagent/intent/sets.go", "if slices.Contains(r.named, pp.namedPort) {", "if false {"},
	{"new numbers behind a port name go unnoticed", "nodeagent/intent/cluster.go", "c.staleByName(pp.namedPort)", "_ = pp"},
	{"the oldest pod owns an address", "nodeagent/intent/cluster.go", "p.created.After(best.created)", "p.created.Before(best.created)"},
	{"pods that ended own addresses", "nodeagent/intent/cluster.go", "if p.terminal {\n\t\treturn", "if false {\n\t\treturn"},
	{"a podSelector alone means every namespace", "nodeagent/intent/atom.go", "return p.namespace == namespace", "return true"},
	{"an egress section alone does not isolate", "nodeagent/intent/policy.go", "return true, len(spec.Egress) > 0", "return true, false"},
	{"cluster policies go by name before priority", "nodeagent/intent/clusterpolicy.go", "cmp.Or(cmp.Compare(a.priority, b.priority), cmp.Compare(a.name, b.name))", "cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.priority, b.priority))"},
	{"an unknown peer opens", "nodeagent/intent/clusterpolicy.go", "return &rule{action: datapath.Deny, anyPeer: true, anyPort: true}, nil", "return r, nil"},

	{"both views are one", "bpf/lib/policy.h", "a->words[i] & b->words[i] & c->words[i]", "a->words[i] & b->words[i]"},
	{"bits are off by one", "bpf/lib/policy.h", "BIT_WINDOWS) >> 58];", "BIT_WINDOWS) >> 58] & ~1;"},
	{"Pass decides", "bpf/lib/policy.h", "if (rule->action != ACTION_PASS)", "if (1)"},
	{"nothing follows a Pass", "bpf/lib/policy.h", "common &= rule->next_block < SKEP_MAX_BLOCKS ? ~0U << rule->next_block : 0;", "common = 0;"},
	{"Pass leaves out a tier", "bpf/lib/policy.h", "? ~0U << rule->next_block : 0", "? ~1U << rule->next_block : 0"},
	{"both views have one default", "bpf/lib/policy.h", "set->first_rule + set->rules + view", "set->first_rule + set->rules"},
	{"ports mean nothing", "bpf/lib/policy.h", "if (set->flags & SET_HAS_PORTS && peer->blocks) {", "if (0) {"},
	{"the first port of a range is outside of it", "bpf/lib/policy.h", "(__s64)service - 1;", "(__s64)service;"},
	{"a packed row is found by the wrong count", "bpf/lib/policy.h", "((1U << block) - 1)", "(1U << block)"},
	{"no prefix has a class", "bpf/lib/policy.h", "return class ? *class : SKEP_CLASS_NONE;", "return SKEP_CLASS_NONE;"},
	{"a class without a row of its own has none", "bpf/lib/policy.h", "if (!peer && class != SKEP_CLASS_NONE) {", "if (0) {"},
	{"egress is judged by the ingress set", "bpf/lib/judge.h", "return direction == SKEP_EGRESS ? *(const volatile __u32 *)&ep->egress_set : ", "return "},
	{"the responder is judged by its own class", "bpf/lib/judge.h", "judge_side(to, SKEP_INGRESS, ingress_of(to, from, initiator, flips)", "judge_side(to, SKEP_INGRESS, judged_now(to, SKEP_INGRESS, responder)"},
	{"ingress is not asked when egress was", "bpf/lib/judge.h", "	if (to)\n", "	if (to && !from)\n"},
	{"nothing differs", "bpf/lib/judge.h", "differs = (would->action == ACTION_ALLOW) != !!(how & AUDIT_ALLOWED);", "differs = false;"},
	{"IPv4 senders have the class of their IPv6 address", "bpf/lib/judge.h", "return from->class4;", "return from->class6;"},
	{"replies are judged by their own port", "bpf/lib/flow.h", "service_of(p, p->sport), entry, true", "service_of(p, p->dport), entry, true"},
	{"open connections keep what an older policy allowed", "bpf/lib/flow.h", "if (entry->generation != policy_generation()) {", "if (0) {"},
	{"what a later policy forbids is not remembered", "bpf/lib/flow.h", "(verdict_reason(v) ? CT_DENIED : 0)", "0"},
	{"whoever was sent to may open connections", "bpf/lib/flow.h", "return forward && !ct_closed(entry);", "return true;"},
}

func repository(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// TestEveryMutantHasItsLine keeps the list true: breaking what is not there any more would prove nothing.
func TestEveryMutantHasItsLine(t *testing.T) {
	for _, m := range mutants {
		source, err := os.ReadFile(filepath.Join(repository(t), m.file))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(string(source), m.line) != 1 {
			t.Errorf("%s: %s does not contain this line once: %s", m.what, m.file, m.line)
		}
	}
}

func TestABrokenCompilerOrTranslatorIsNoticed(t *testing.T) {
	if !*mutateFlag {
		t.Skip("only with -mutate")
	}
	for _, m := range mutants {
		t.Run(m.what, func(t *testing.T) {
			path := filepath.Join(repository(t), m.file)
			source, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			broken := strings.Replace(string(source), m.line, m.broken, 1)
			dir := t.TempDir()
			var overlay string
			if strings.HasPrefix(m.file, "bpf/") {
				overlay = overlayOf(t, dir, filepath.Join(repository(t), "datapath/bpfobj/pod_bpfel.o"), compiled(t, dir, m.file, broken))
			} else {
				overlay = overlayOf(t, dir, path, []byte(broken))
			}
			// The tests stop at the first difference.
			cmd := exec.Command("go", "test", "-count=1", "-overlay", overlay, "-run", "^Test(Random|Truth|Cluster|ANew|Changes|Verdicts)", ".",
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

// compiled makes the programs of a pod's device from bpf/ with one file changed, as go generate does.
func compiled(t *testing.T, dir, file, content string) []byte {
	t.Helper()
	tree := filepath.Join(dir, "bpf")
	if err := os.CopyFS(tree, os.DirFS(filepath.Join(repository(t), "bpf"))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	object := filepath.Join(dir, "pod.o")
	for _, command := range [][]string{
		{"clang-19", "-target", "bpfel", "-O2", "-g", "-mcpu=v3", "-I" + tree, "-I" + filepath.Join(tree, "include"), "-c", filepath.Join(tree, "tc_pod.c"), "-o", object},
		{"llvm-strip-19", "-g", object},
	} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", command, err, out)
		}
	}
	out, err := os.ReadFile(object)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// overlayOf writes another content of a file and the list that makes the go command use it.
func overlayOf(t *testing.T, dir, path string, content []byte) string {
	t.Helper()
	copied := filepath.Join(dir, filepath.Base(path))
	list, err := json.Marshal(map[string]map[string]string{"Replace": {path: copied}})
	if err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(dir, "overlay.json")
	for name, text := range map[string][]byte{copied: content, overlay: list} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return overlay
}
