// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"skep.dev/skep/datapath"
)

// journalVersion is the layout of the rule journal.
const journalVersion = 1

// keptRules bounds how many retired rules stay known by name, in memory and over a restart. Conntrack entries and
// counters that are older than that many policy changes lose their names, never get a wrong one.
const keptRules = 16384

// reserveStep is how many numbers the journal's head reserves ahead. A run that ends leaves the rest of them unused, so
// uniqueness does not depend on the last lines having been written.
const reserveStep = 4096

// lostHeadGap is where numbers start when the head of the journal is unreadable, which a rename does not leave behind.
const lostHeadGap = 1 << 24

// RuleInfo says what a rule number stands for.
type RuleInfo struct {
	ID        datapath.RuleID    `json:"id"`
	Direction datapath.Direction `json:"direction"`
	// Policies are "namespace/name", or "name" of a ClusterNetworkPolicy: the policy of the rule, or all that isolate the
	// pod for a default deny.
	Policies []string `json:"policies"`
	// Index is the position in spec.ingress or spec.egress, or -1 for a default deny.
	Index int `json:"index"`
	// Generation is that of the policy, 0 for a default deny.
	Generation int64 `json:"generation,omitempty"`
	// Audit says that the rule decides nothing: its policy, or one of those of a default, is in audit mode. What it would decide is
	// counted.
	Audit bool `json:"audit,omitempty"`
}

// DefaultDeny says that the number does not stand for a rule but for "isolated by these policies and allowed by none", or, if none of them
// is a NetworkPolicy, for "let through by these policies in audit mode and denied by none".
func (i RuleInfo) DefaultDeny() bool { return i.Index < 0 }

// PolicyRule is a rule of a policy that is there now, or a default deny that pods of this node have.
type PolicyRule struct {
	// RuleInfo has no ID when the rule judges no pod of this node.
	RuleInfo
	Action datapath.Action
}

// RuleTable hands out rule numbers and remembers what they mean. Numbers only grow, also over restarts when the table has
// a journal, so a number that a conntrack entry holds never comes to name another rule. It is safe for concurrent use.
type RuleTable struct {
	path string

	mu   sync.Mutex // guards all below
	next datapath.RuleID
	// reserved is the first number that the journal does not reserve.
	reserved datapath.RuleID
	entries  map[datapath.RuleID]*ruleEntry
	byKey    map[string]*ruleEntry
	retired  []datapath.RuleID // oldest first
	// declared are the policies that are there now, whether or not they select a pod of this node.
	declared map[types.UID]declaration
	unsaved  []*ruleEntry
}

type ruleEntry struct {
	Key  string   `json:"key"`
	Info RuleInfo `json:"info"`
	refs int
}

// declaration is a policy's list of rules, by direction.
type declaration struct {
	source
	rules [2][]*rule
}

// journalHeader is the first line of the journal; the entries follow, one per line.
type journalHeader struct {
	Version int `json:"version"`
	// Reserved is the first number that has not been given out, for sure.
	Reserved datapath.RuleID `json:"reserved"`
}

// NewRuleTable returns a table that continues the journal at path, or one that lives in memory only when path is empty.
// A damaged journal is not an error: what can be read is kept, and numbers go on behind it.
func NewRuleTable(path string) (*RuleTable, error) {
	t := &RuleTable{path: path, next: 1, entries: map[datapath.RuleID]*ruleEntry{}, byKey: map[string]*ruleEntry{}, declared: map[types.UID]declaration{}}
	if path == "" {
		return t, nil
	}
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read rule journal: %w", err)
	}
	if err == nil {
		t.load(b)
	}
	return t, t.rewrite()
}

// Lookup returns what a rule number stands for.
func (t *RuleTable) Lookup(id datapath.RuleID) (RuleInfo, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.entries[id]
	if !ok {
		return RuleInfo{}, false
	}
	return e.Info, true
}

// List returns every rule that is known by name, by number.
func (t *RuleTable) List() []RuleInfo {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]RuleInfo, 0, len(t.entries))
	for _, e := range t.entries {
		out = append(out, e.Info)
	}
	slices.SortFunc(out, func(a, b RuleInfo) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Current returns every rule of every policy that is there now, so that those that no pod here has are seen too, and the default
// denies of this node's pods. The order is that of policies, directions and rules; default denies come behind their direction's rules.
func (t *RuleTable) Current() []PolicyRule {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []PolicyRule
	for _, d := range t.declared {
		for dir, rules := range d.rules {
			for i, r := range rules {
				out = append(out, t.current(d.source, datapath.Direction(dir), i, r.action))
			}
		}
	}
	for _, e := range t.entries {
		if !e.Info.DefaultDeny() || e.refs == 0 {
			continue
		}
		action := datapath.Deny
		if strings.HasPrefix(e.Key, openDefault) {
			action = datapath.Allow
		}
		out = append(out, PolicyRule{RuleInfo: e.Info, Action: action})
	}
	slices.SortFunc(out, func(a, b PolicyRule) int { return a.compare(b.RuleInfo) })
	return out
}

func (t *RuleTable) current(s source, dir datapath.Direction, index int, action datapath.Action) PolicyRule {
	out := PolicyRule{RuleInfo: RuleInfo{Direction: dir, Policies: []string{s.name}, Index: index, Generation: s.generation, Audit: s.audit}, Action: action}
	if e := t.byKey[ruleKey(s, dir, index)]; e != nil {
		out.ID = e.Info.ID
	}
	return out
}

func (i RuleInfo) compare(o RuleInfo) int {
	return cmp.Or(
		slices.Compare(i.Policies, o.Policies), cmp.Compare(i.Direction, o.Direction),
		cmp.Compare(uint(i.Index), uint(o.Index)), // -1 comes last
		cmp.Compare(i.ID, o.ID),
	)
}

// declare says that a policy has taken another's place. Either may be nil.
func (t *RuleTable) declare(before, after *declaration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if before != nil {
		delete(t.declared, before.uid)
	}
	if after != nil {
		t.declared[after.uid] = *after
	}
}

// Flush brings the journal up to date. It must return before the datapath learns the numbers.
func (t *RuleTable) Flush() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.path == "" || len(t.unsaved) == 0 {
		t.unsaved = nil
		return nil
	}
	if t.next > t.reserved {
		return t.rewrite()
	}
	var b bytes.Buffer
	if err := encodeLines(&b, t.unsaved); err != nil {
		return err
	}
	f, err := os.OpenFile(t.path, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open rule journal: %w", err)
	}
	_, err = f.Write(b.Bytes())
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write rule journal: %w", err)
	}
	t.unsaved = nil
	return nil
}

// ruleID numbers one rule of one version of a policy.
func (t *RuleTable) ruleID(s source, dir datapath.Direction, index int) datapath.RuleID {
	e := t.acquire(ruleKey(s, dir, index), func() RuleInfo {
		return RuleInfo{Direction: dir, Policies: []string{s.name}, Index: index, Generation: s.generation, Audit: s.audit}
	})
	return e.Info.ID
}

func ruleKey(s source, dir datapath.Direction, index int) string {
	mode := ""
	if s.audit {
		mode = "/audit" // a number of its own: what it counts means something else
	}
	return fmt.Sprintf("rule/%s/%d/%d/%d%s", s.uid, dir, index, s.generation, mode)
}

// retire gives up the numbers that the rules of a version of a policy used.
func (t *RuleTable) retire(rules []*rule) {
	for _, r := range rules {
		t.release(r.id)
	}
}

// acquireIsolation numbers the default deny of pods that exactly these policies isolate. Those in audit mode may be among them.
func (t *RuleTable) acquireIsolation(dir datapath.Direction, isolating []source) datapath.RuleID {
	return t.acquireDefault("isolation", dir, isolating)
}

// openDefault begins the keys of defaults that allow.
const openDefault = "open"

// acquireOpen numbers what policies in audit mode would let through because nothing behind them denies it.
func (t *RuleTable) acquireOpen(dir datapath.Direction, passing []source) datapath.RuleID {
	return t.acquireDefault(openDefault, dir, passing)
}

func (t *RuleTable) acquireDefault(kind string, dir datapath.Direction, policies []source) datapath.RuleID {
	names := make([]string, len(policies))
	audit := false
	h := sha256.New()
	for i, p := range policies {
		names[i] = p.name
		fmt.Fprintf(h, "%s %t\n", p.uid, p.audit)
		audit = audit || p.audit
	}
	key := fmt.Sprintf("%s/%d/%s", kind, dir, hex.EncodeToString(h.Sum(nil)[:16]))
	e := t.acquire(key, func() RuleInfo { return RuleInfo{Direction: dir, Policies: names, Index: -1, Audit: audit} })
	return e.Info.ID
}

func (t *RuleTable) releaseDefault(id datapath.RuleID) { t.release(id) }

func (t *RuleTable) acquire(key string, info func() RuleInfo) *ruleEntry {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byKey[key]
	if e == nil {
		e = &ruleEntry{Key: key, Info: info()}
		e.Info.ID = t.next
		t.next++
		t.entries[e.Info.ID], t.byKey[key] = e, e
		t.unsaved = append(t.unsaved, e)
	}
	e.refs++
	return e
}

func (t *RuleTable) release(id datapath.RuleID) {
	if id == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[id]
	if e == nil {
		return
	}
	if e.refs--; e.refs == 0 {
		t.retired = append(t.retired, id)
		t.prune()
	}
}

// prune forgets the names that were given up the longest ago. An entry may have come back into use since, or be in the
// list twice.
func (t *RuleTable) prune() {
	for len(t.retired) > keptRules {
		if e := t.entries[t.retired[0]]; e != nil && e.refs <= 0 {
			delete(t.entries, e.Info.ID)
			delete(t.byKey, e.Key)
		}
		t.retired = t.retired[1:]
	}
}

// load reads a journal. Nothing in it is in use yet: policies that are still there take their numbers up again by key.
func (t *RuleTable) load(b []byte) {
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, len(b)+1)
	var head journalHeader
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &head) != nil || head.Version != journalVersion {
		t.next = lostHeadGap
		return
	}
	t.next = max(head.Reserved, 1)
	for lines.Scan() {
		e := &ruleEntry{}
		if json.Unmarshal(lines.Bytes(), e) != nil || e.Info.ID == 0 || e.Key == "" {
			break
		}
		t.entries[e.Info.ID], t.byKey[e.Key] = e, e
		t.retired = append(t.retired, e.Info.ID)
	}
	t.prune()
}

// rewrite starts the journal anew with what is known, so that it does not grow over restarts.
func (t *RuleTable) rewrite() error {
	var b bytes.Buffer
	reserved := t.next + reserveStep
	if err := json.NewEncoder(&b).Encode(journalHeader{Version: journalVersion, Reserved: reserved}); err != nil {
		return fmt.Errorf("encode rule journal: %w", err)
	}
	known := make([]*ruleEntry, 0, len(t.entries))
	for _, e := range t.entries {
		known = append(known, e)
	}
	slices.SortFunc(known, func(a, b *ruleEntry) int { return cmp.Compare(a.Info.ID, b.Info.ID) })
	if err := encodeLines(&b, known); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(t.path), 0o755); err != nil {
		return fmt.Errorf("write rule journal: %w", err)
	}
	if err := os.WriteFile(t.path+".new", b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write rule journal: %w", err)
	}
	if err := os.Rename(t.path+".new", t.path); err != nil {
		return fmt.Errorf("write rule journal: %w", err)
	}
	t.reserved, t.unsaved = reserved, nil
	return nil
}

func encodeLines(b *bytes.Buffer, entries []*ruleEntry) error {
	enc := json.NewEncoder(b)
	for _, e := range entries {
		if err := enc.Encode(e); err != nil {
			return fmt.Errorf("encode rule journal: %w", err)
		}
	}
	return nil
}
