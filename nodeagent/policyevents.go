// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"

	v1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"skep.dev/skep/enforcement"
	"skep.dev/skep/nodeagent/ledger"
)

// Events about policies: so many at once, and so many in a second after that. A node with more trouble says so in its condition.
const (
	policyEventBurst = 25
	policyEventRate  = 0.2
)

// policyEvents tells the users of policies what is not in force on this node, and when it is again.
type policyEvents struct {
	ledger   *ledger.Ledger
	recorder record.EventRecorder
	limit    flowcontrol.RateLimiter
	// told are the faults that were last told, by policy.
	told map[ledger.ID]enforcement.Policy
}

func newPolicyEvents(l *ledger.Ledger, recorder record.EventRecorder) *policyEvents {
	return &policyEvents{
		ledger: l, recorder: recorder, told: map[ledger.ID]enforcement.Policy{},
		limit: flowcontrol.NewTokenBucketRateLimiter(policyEventRate, policyEventBurst),
	}
}

// run tells until ctx ends. changed is called when there may be something new for the node's conditions.
func (e *policyEvents) run(ctx context.Context, changed func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.ledger.Changed():
		}
		changed()
		e.tell(e.ledger.Policies())
	}
}

// tell compares what is with what was told. A policy that is on its way to another version is neither one nor the other.
func (e *policyEvents) tell(all []enforcement.Policy) {
	there := map[ledger.ID]bool{}
	for _, p := range all {
		id := ledger.ID{Namespace: p.Namespace, Name: p.Name}
		there[id] = true
		before, told := e.told[id]
		switch {
		case p.Reason != "" && (!told || before.Reason != p.Reason || before.Newest != p.Newest):
			if e.event(p, v1.EventTypeWarning, "NotEnforced", "not in force on this node, %s: %s: %s", lastGood(p), p.Reason, p.Message) {
				e.told[id] = p
			}
		case p.Enforced(p.Newest) && told:
			if e.event(p, v1.EventTypeNormal, "Enforced", "in force on this node again (generation %d)", p.InForce.Generation) {
				delete(e.told, id)
			}
		}
	}
	for id := range e.told {
		if !there[id] {
			delete(e.told, id)
		}
	}
}

func lastGood(p enforcement.Policy) string {
	switch {
	case p.InForce == enforcement.Version{}:
		return "and no version was"
	case p.InForce == p.Newest:
		return "not for all pods"
	}
	return "which keeps to the version before"
}

// event says whether there was room for the event.
func (e *policyEvents) event(p enforcement.Policy, kind, reason, format string, args ...any) bool {
	if !e.limit.TryAccept() {
		return false
	}
	e.recorder.Eventf(policyReference(p.Namespace, p.Name, types.UID(p.Newest.UID)), kind, reason, format, args...)
	return true
}

// policyReference is what an event is about. A policy without a namespace is a ClusterNetworkPolicy.
func policyReference(namespace, name string, uid types.UID) *v1.ObjectReference {
	ref := &v1.ObjectReference{
		Kind: "NetworkPolicy", APIVersion: networkingv1.SchemeGroupVersion.String(), Namespace: namespace, Name: name, UID: uid,
	}
	if namespace == "" {
		ref.Kind, ref.APIVersion = "ClusterNetworkPolicy", policyv1alpha2.GroupVersion.String()
	}
	return ref
}
