// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"fmt"
	"testing"

	"k8s.io/client-go/tools/record"

	"skep.dev/skep/enforcement"
	"skep.dev/skep/nodeagent/ledger"
)

func TestEventsOfPolicies(t *testing.T) {
	recorder := record.NewFakeRecorder(100)
	e := newPolicyEvents(ledger.New(), recorder)
	version := func(n int64) enforcement.Version {
		return enforcement.Version{UID: "u", Generation: n, Mode: enforcement.Enforce}
	}
	policy := func(newest, inForce enforcement.Version, reason enforcement.Reason) enforcement.Policy {
		return enforcement.Policy{Namespace: "shop", Name: "web", Newest: newest, InForce: inForce, Reason: reason, Message: "m"}
	}
	none := enforcement.Version{}
	for _, c := range []struct {
		name string
		now  []enforcement.Policy
		want string
	}{
		{"in force", []enforcement.Policy{policy(version(1), version(1), "")}, ""},
		{"refused", []enforcement.Policy{policy(version(2), version(1), enforcement.NoRoom)}, "Warning NotEnforced not in force on this node, which keeps to the version before: NoRoom: m"},
		{"the same again", []enforcement.Policy{policy(version(2), version(1), enforcement.NoRoom)}, ""},
		{"another reason", []enforcement.Policy{policy(version(2), version(1), enforcement.TooManyRules)}, "Warning NotEnforced not in force on this node, which keeps to the version before: TooManyRules: m"},
		{"on its way", []enforcement.Policy{policy(version(3), version(1), "")}, ""},
		{"in force at last", []enforcement.Policy{policy(version(3), version(3), "")}, "Normal Enforced in force on this node again (generation 3)"},
		{"in force still", []enforcement.Policy{policy(version(3), version(3), "")}, ""},
		{"some pods lack it", []enforcement.Policy{policy(version(3), version(3), enforcement.TooManyRules)}, "Warning NotEnforced not in force on this node, not for all pods: TooManyRules: m"},
		{"gone", nil, ""},
		{"a new one of the name", []enforcement.Policy{policy(version(4), none, enforcement.NoRoom)}, "Warning NotEnforced not in force on this node, and no version was: NoRoom: m"},
	} {
		e.tell(c.now)
		got := ""
		select {
		case got = <-recorder.Events:
		default:
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestEventsOfPoliciesAreBounded(t *testing.T) {
	recorder := record.NewFakeRecorder(1000)
	e := newPolicyEvents(ledger.New(), recorder)
	var all []enforcement.Policy
	for i := range 500 {
		all = append(all, enforcement.Policy{Namespace: "shop", Name: fmt.Sprint(i), Reason: enforcement.NoRoom})
	}
	e.tell(all)
	if n := len(recorder.Events); n != policyEventBurst {
		t.Errorf("%d events at once", n)
	}
}
