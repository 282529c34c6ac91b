// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"fmt"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"skep.dev/skep/enforcement"
)

func version(generation int64) enforcement.Version {
	return enforcement.Version{UID: "u", Generation: generation, Mode: enforcement.Enforce}
}

func TestLatenciesAreBounded(t *testing.T) {
	l, id, now := New(), ID{"shop", "web"}, time.Unix(1000, 0)
	for i := range int64(2 * keptLatencies) {
		l.Heard(id, version(i), nil, now)
		l.Heard(id, version(i), nil, now.Add(time.Hour)) // the same again, as when its labels change
		l.Enforced(id, version(i), now.Add(time.Duration(i)))
	}
	got := l.Policies()[0].Latencies
	if len(got) != keptLatencies || got[0] != keptLatencies || got[keptLatencies-1] != 2*keptLatencies-1 {
		t.Errorf("%d are kept: %v", len(got), got)
	}
}

func TestAVersionThatWasOvertakenHasNoLatency(t *testing.T) {
	l, id, now := New(), ID{"", "guard"}, time.Unix(1000, 0)
	l.Heard(id, version(1), nil, now)
	l.Heard(id, version(2), nil, now)
	l.Enforced(id, version(1), now.Add(time.Second))
	p := l.Policies()[0]
	if len(p.Latencies) != 0 || p.InForce != version(1) || p.Enforced(version(2)) || !p.Enforced(version(1)) {
		t.Errorf("%+v", p)
	}
}

func TestNodeCondition(t *testing.T) {
	faulty := func(n int) []enforcement.Policy {
		var out []enforcement.Policy
		for i := range n {
			out = append(out, enforcement.Policy{Namespace: "shop", Name: fmt.Sprint("p", i), Reason: enforcement.NoRoom, Message: "m"})
		}
		return out
	}
	for _, c := range []struct {
		name            string
		node, pods      Fault
		faulty          []enforcement.Policy
		status          v1.ConditionStatus
		reason, message string
	}{
		{"all is well", Fault{}, Fault{}, nil, v1.ConditionFalse, "PoliciesEnforced", "every policy is in force as the node has heard of it"},
		{"one policy", Fault{}, Fault{}, faulty(1), v1.ConditionTrue, "NoRoom", "the last good version stays in force of shop/p0 (NoRoom: m)"},
		{"many", Fault{}, Fault{}, faulty(7), v1.ConditionTrue, "NoRoom", "the last good version stays in force of shop/p0 (NoRoom: m), " +
			"shop/p1 (NoRoom: m), shop/p2 (NoRoom: m), shop/p3 (NoRoom: m), shop/p4 (NoRoom: m) and 2 more"},
		{"the node", Fault{enforcement.Failed, "broken"}, Fault{}, faulty(1), v1.ConditionTrue, "Failed", "the last good state of all policies stays in force: broken"},
		{"pods", Fault{}, Fault{enforcement.NoRoom, "pods [shop/web]: full"}, nil, v1.ConditionTrue, "NoRoom", "no room for pods [shop/web]: full"},
		{"pods and policies", Fault{}, Fault{enforcement.NoRoom, "pods [shop/web]: full"}, faulty(1), v1.ConditionTrue, "NoRoom",
			"the last good version stays in force of shop/p0 (NoRoom: m); no room for pods [shop/web]: full"},
	} {
		got := condition(c.node, c.pods, c.faulty)
		if got.Type != enforcement.NodeCondition || got.Status != c.status || got.Reason != c.reason || got.Message != c.message {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

func TestWhatTheNodeStandsInTheWayOf(t *testing.T) {
	l, now := New(), time.Unix(1000, 0)
	done, waiting := ID{"shop", "done"}, ID{"shop", "waiting"}
	l.Heard(done, version(1), nil, now)
	l.Enforced(done, version(1), now)
	l.Heard(waiting, version(1), nil, now)
	l.Stuck(Fault{enforcement.NoRoom, "full"})
	if got := l.Faulty(); len(got) != 1 || got[0].Name != "waiting" || got[0].Reason != enforcement.NoRoom {
		t.Errorf("%+v", got)
	}
	l.Stuck(Fault{})
	l.Limit(map[ID]Fault{done: {enforcement.TooManyRules, "some pods"}})
	if got := l.Faulty(); len(got) != 1 || got[0].Name != "done" || got[0].Enforced(version(1)) {
		t.Errorf("%+v", got)
	}
}
