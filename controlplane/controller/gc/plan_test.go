// SPDX-License-Identifier: Apache-2.0

package gc

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name       string
		owners     string // state by owner: lives, absent, waiting
		finalizers []string
		circle     bool
		want       string
	}{
		{"without owners it stays", "", nil, false, "keep"},
		{"with a living owner it stays", "lives", nil, false, "keep"},
		{"with two living owners it stays", "lives lives", nil, false, "keep"},
		{"an owner that is gone is unlinked while another lives", "lives absent", nil, false, "unlink [o0]"},
		{"an owner that waits is unlinked while another lives", "waiting lives", nil, false, "unlink [o1]"},
		{"without any owner left it goes", "absent absent", nil, false, "remove Background"},
		{"the orphan finalizer asks for orphaning", "absent", []string{"orphan"}, false, "remove Orphan"},
		{"the foreground finalizer asks for foreground", "absent", []string{"foregroundDeletion"}, false, "remove Foreground"},
		{"for an owner that waits it goes in the foreground", "absent waiting", nil, false, "remove Foreground"},
		{"a circle of waiting owners is broken", "waiting", nil, true, "remove Foreground unblock"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &metav1.PartialObjectMetadata{}
			m.Finalizers = c.finalizers
			states := map[types.UID]ownerState{}
			for i, word := range strings.Fields(c.owners) {
				uid := types.UID(fmt.Sprint("o", i))
				m.OwnerReferences = append(m.OwnerReferences, metav1.OwnerReference{UID: uid})
				states[uid] = map[string]ownerState{"lives": lives, "absent": absent, "waiting": waiting}[word]
			}
			v := judge(m, func(uid types.UID) ownerState { return states[uid] }, c.circle)
			if got := text(v); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func text(v verdict) string {
	switch v.action {
	case unlink:
		var kept []string
		for _, ref := range v.owners {
			kept = append(kept, string(ref.UID))
		}
		return fmt.Sprintf("unlink %v", kept)
	case remove:
		if v.unblock {
			return fmt.Sprintf("remove %s unblock", v.propagation)
		}
		return fmt.Sprintf("remove %s", v.propagation)
	}
	return "keep"
}

// thing makes an object; words are owners, with a * for those that it blocks.
func thing(uid string, words string) *object {
	o := &object{uid: types.UID(uid), name: uid}
	for _, word := range strings.Fields(words) {
		switch word {
		case "deleting":
			o.deleting = true
		case "foreground":
			o.deleting, o.foreground = true, true
		case "orphaning":
			o.deleting, o.orphaning = true, true
		default:
			owner, blocks := strings.CutSuffix(word, "*")
			o.owners = append(o.owners, metav1.OwnerReference{UID: types.UID(owner), BlockOwnerDeletion: &blocks})
		}
	}
	return o
}

func uids(in []types.UID) string {
	seen := map[types.UID]bool{}
	var out []string
	for _, uid := range in {
		if !seen[uid] {
			out = append(out, string(uid))
		}
		seen[uid] = true
	}
	return strings.Join(out, " ")
}

func TestGraphWakes(t *testing.T) {
	g := newGraph()
	step := func(what string, got []types.UID, want string) {
		t.Helper()
		if uids(got) != want {
			t.Errorf("%s: wakes %q, want %q", what, uids(got), want)
		}
	}
	step("an owner", g.set(thing("d", "")), "")
	step("its dependent", g.set(thing("r", "d*")), "")
	step("a dependent of something unknown", g.set(thing("p", "x r*")), "p")
	step("the unknown comes", g.set(thing("x", "")), "")
	step("the owner waits", g.set(thing("d", "foreground")), "d r")
	if released("d", g.children("d")) {
		t.Error("released while r blocks")
	}
	step("its dependent waits too", g.set(thing("r", "d* foreground")), "d r p")
	step("the last dependent goes", g.drop("p"), "r")
	if !released("r", g.children("r")) {
		t.Error("r is not released")
	}
	step("then the first", g.drop("r"), "d")
	step("and the owner", g.drop("d"), "")
	if !g.gone.has("d") || g.gone.has("x") {
		t.Error("remembers the wrong ones")
	}
	step("a dependent that comes late", g.set(thing("late", "d")), "late")
	step("an owner that orphans", g.set(thing("x", "orphaning")), "x")
	g.forget("x")
	if g.gone.has("x") {
		t.Error("what was forgotten is taken for deleted")
	}
}

func TestMemoryForgetsTheOldest(t *testing.T) {
	m := newMemory(2)
	for _, uid := range []types.UID{"a", "b", "b", "c"} {
		m.add(uid)
	}
	if m.has("a") || !m.has("b") || !m.has("c") {
		t.Errorf("%v", m.members)
	}
	m.add("d")
	m.add("e")
	if m.has("c") || !m.has("d") || !m.has("e") || len(m.members) != 2 {
		t.Errorf("%v", m.members)
	}
}
