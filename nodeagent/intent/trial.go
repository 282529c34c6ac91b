// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"skep.dev/skep/datapath"
	"skep.dev/skep/enforcement"
	"skep.dev/skep/nodeagent/ledger"
)

// The datapath takes the whole policy of a node or refuses it, and one policy that does not fit must not stop all others. So when it
// refuses, the policies and pods that have changed since it last took something go back to the versions that it took. If it takes those, the
// changes are to blame, and are tried again in halves until those are left that do not fit. They stay at their last good version, and
// are tried again from time to time. If it takes not even those, nobody is to blame, and all wait together.
//
// An agent that starts finds the last good versions of what was refused in files of the run before (LastGood), and goes on from those. Of a
// policy that it has to refuse and that no file is about it cannot say what was in force, and nothing may pass.

// Pauses between the tries of a policy that does not fit, which double from the first to the last.
const (
	firstTrial = time.Second
	lastTrial  = 30 * time.Second
)

// trial is a policy with its way into the datapath.
type trial struct {
	// newest is what the API has, good what is in force; nil when nothing is.
	newest, good metav1.Object
	// unknown says that it was there before this run had anything in force, and that nobody knows what of it was.
	unknown bool
	// tries counts refusals of newest. Before retry it is not tried again; zero is never.
	tries int
	retry time.Time
	// fault is why newest was refused last.
	fault ledger.Fault
}

type trials struct {
	policies map[ledger.ID]*trial
	// fresh are those that the cluster has in their newest version, which is not known to be in force; held are those that it has
	// in their good one, as the newest was refused.
	fresh, held map[ledger.ID]bool
	// began is when the caches were synced: since when versions were there before, nobody knows.
	began time.Time
	// taken says that the datapath has taken a policy of this run. Until then it goes by that of the run before, which is
	// better than one that lacks something.
	taken bool
	pods  podTrials
}

func newTrials() *trials {
	return &trials{policies: map[ledger.ID]*trial{}, fresh: map[ledger.ID]bool{}, held: map[ledger.ID]bool{}, pods: newPodTrials()}
}

// suspect is what a refusal may be due to: a pod if it names one, or else a policy.
type suspect struct {
	policy ledger.ID
	pod    types.UID
}

// suspects lists what has changed. Pods come first, so that they take room before policies do: they are there, whatever is said of them.
func (t *trials) suspects() []suspect {
	var out []suspect
	for _, uid := range slices.Sorted(maps.Keys(t.pods.fresh)) {
		out = append(out, suspect{pod: uid})
	}
	return append(out, t.suspectPolicies()...)
}

func (t *trials) suspectPolicies() []suspect {
	var out []suspect
	for id := range t.fresh {
		out = append(out, suspect{policy: id})
	}
	slices.SortFunc(out, func(a, b suspect) int {
		return cmp.Or(cmp.Compare(a.policy.Namespace, b.policy.Namespace), cmp.Compare(a.policy.Name, b.policy.Name))
	})
	return out
}

// next is how long it takes until something is tried again; false when none is.
func (t *trials) next(now time.Time) (time.Duration, bool) {
	var first time.Time
	earlier := func(at time.Time) {
		if !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	for id := range t.held {
		earlier(t.policies[id].retry)
	}
	for uid := range t.pods.held {
		earlier(t.pods.pods[uid].retry)
	}
	return max(first.Sub(now), 0), !first.IsZero()
}

func idOf(policy metav1.Object) ledger.ID {
	return ledger.ID{Namespace: policy.GetNamespace(), Name: policy.GetName()}
}

// propose takes in a version of a policy that came at a time.
func (t *Translator) propose(policy metav1.Object, at time.Time) {
	id, v := idOf(policy), enforcement.VersionOf(policy)
	p := t.trials.policies[id]
	first := p == nil
	if first {
		p = &trial{unknown: !t.trials.taken}
		t.trials.policies[id] = p
	}
	known := !first && enforcement.VersionOf(p.newest) == v
	if !first && p.newest.GetUID() != policy.GetUID() {
		t.drop(p.newest)
	}
	p.newest = policy
	if t.trials.began.IsZero() || at.Before(t.trials.began) {
		at = time.Time{}
	}
	t.cfg.Ledger.Heard(id, v, notUnderstood(policy), at)
	if known && t.trials.held[id] {
		return // what was refused has not changed
	}
	if first && t.resume(id) {
		return
	}
	p.tries = 0
	t.restorePolicy(id)
}

// withdraw takes in the end of a policy. What was refused may fit now.
func (t *Translator) withdraw(policy metav1.Object) {
	id := idOf(policy)
	t.put(id, nil)
	t.forget(id)
	if p := t.trials.policies[id]; p != nil {
		t.drop(p.newest)
	}
	delete(t.trials.policies, id)
	t.cfg.Ledger.Gone(id)
	t.retrySoon()
}

// retrySoon says that there may be room for what was refused.
func (t *Translator) retrySoon() {
	soon := time.Now().Add(firstTrial)
	for id := range t.trials.held {
		if p := t.trials.policies[id]; p.retry.After(soon) {
			p.retry = soon
		}
	}
	for uid := range t.trials.pods.held {
		if p := t.trials.pods.pods[uid]; p.retry.After(soon) {
			p.retry = soon
		}
	}
}

// forget ends what is going on about a policy.
func (t *Translator) forget(id ledger.ID) {
	delete(t.trials.fresh, id)
	delete(t.trials.held, id)
	t.cluster.admit(id.String())
}

// tryAgain restores what has waited long enough. It starts from something that the datapath has taken.
func (t *Translator) tryAgain(now time.Time) {
	if !t.trials.taken {
		return
	}
	var due []ledger.ID
	for id := range t.trials.held {
		if at := t.trials.policies[id].retry; !at.IsZero() && !at.After(now) {
			due = append(due, id)
		}
	}
	for _, id := range due {
		t.restorePolicy(id)
	}
	for _, uid := range t.trials.pods.duePods(now) {
		t.restorePod(uid)
	}
}

// settlePolicy hands the policy over, without what does not fit. Once begun it goes on when ctx ends: what is known of the last good
// versions is on disk before and after, but not in between.
func (t *Translator) settlePolicy(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	ctx = context.WithoutCancel(ctx)
	// Too many rules in a set are found without asking the datapath.
	_ = t.settle(ctx, t.fits, t.trials.suspectPolicies()) // what no policy is to blame for concerns some pods, and not the hand-over
	var suspects []suspect
	if t.trials.taken {
		suspects = t.trials.suspects()
	}
	err := t.settle(ctx, t.handOverPolicy, suspects)
	t.cfg.Ledger.Stuck(faultOf(err))
	t.tellHeldPods()
	if err == nil {
		t.keepGood()
	}
	return err
}

func (t *Translator) settle(ctx context.Context, try func(context.Context) error, suspects []suspect) error {
	err := try(ctx)
	if err == nil || len(suspects) == 0 {
		return err
	}
	t.revert(suspects)
	if try(ctx) != nil {
		t.restore(suspects)
		return err
	}
	t.admit(ctx, suspects, try, err)
	return try(ctx)
}

// admit restores those suspects that can be, which are not all, and holds the others back.
func (t *Translator) admit(ctx context.Context, suspects []suspect, try func(context.Context) error, why error) {
	if len(suspects) == 1 {
		if s := suspects[0]; s.pod != "" {
			t.holdPod(s.pod, why)
		} else {
			t.hold(s.policy, why)
		}
		return
	}
	for half := range slices.Chunk(suspects, (len(suspects)+1)/2) {
		t.restore(half)
		if err := try(ctx); err != nil {
			t.revert(half)
			t.admit(ctx, half, try, err)
		}
	}
}

func (t *Translator) restore(suspects []suspect) {
	for _, s := range suspects {
		if s.pod != "" {
			t.restorePod(s.pod)
		} else {
			t.restorePolicy(s.policy)
		}
	}
}

func (t *Translator) revert(suspects []suspect) {
	for _, s := range suspects {
		if s.pod != "" {
			t.revertPod(s.pod)
		} else {
			t.revertPolicy(s.policy)
		}
	}
}

// restorePolicy gives the cluster the newest version of a policy.
func (t *Translator) restorePolicy(id ledger.ID) {
	t.forget(id)
	if err := t.put(id, t.trials.policies[id].newest); err != nil {
		t.hold(id, err)
		return
	}
	t.trials.fresh[id] = true
}

// revertPolicy gives the cluster the good version of a policy, or takes one away that has none.
func (t *Translator) revertPolicy(id ledger.ID) {
	t.forget(id)
	_ = t.put(id, t.trials.policies[id].good) // it was good once
}

// put gives the cluster a version of a policy; nil is its end.
func (t *Translator) put(id ledger.ID, policy metav1.Object) error {
	var changed bool
	var err error
	switch p := policy.(type) {
	case *networkingv1.NetworkPolicy:
		changed, err = t.cluster.SetNetworkPolicy(p)
	case *policyv1alpha2.ClusterNetworkPolicy:
		changed, err = t.cluster.SetClusterPolicy(p)
	case nil:
		if id.Namespace == ofCluster {
			changed = t.cluster.DeleteClusterPolicy(id.Name)
		} else {
			changed = t.cluster.DeleteNetworkPolicy(id.Namespace, id.Name)
		}
	}
	t.note(&t.pending.policy, changed)
	if err != nil {
		return invalid{err}
	}
	return nil
}

// invalid is a policy that cannot be read, which trying again does not help.
type invalid struct{ error }

// hold keeps a policy at its good version for some time.
func (t *Translator) hold(id ledger.ID, why error) {
	p := t.trials.policies[id]
	var retry time.Time
	if _, hopeless := why.(invalid); !hopeless {
		retry = time.Now().Add(pause(p.tries))
	}
	if p.tries++; p.tries == 1 {
		t.log.Error("a policy cannot be enforced, its last good version stays in force", "policy", id.String(), "err", why)
	}
	t.holdUntil(id, retry, faultOf(why))
}

// pause is how long to wait after so many refusals before.
func pause(tries int) time.Duration { return min(firstTrial<<min(tries, 10), lastTrial) }

func (t *Translator) holdUntil(id ledger.ID, retry time.Time, f ledger.Fault) {
	t.revertPolicy(id)
	p := t.trials.policies[id]
	t.trials.held[id] = true
	p.retry, p.fault = retry, f
	if p.good == nil && enforcement.VersionOf(p.newest).Mode == enforcement.Enforce {
		if selects := subjectOf(p.newest); selects != nil {
			t.cluster.withhold(id.String(), selects, p.unknown)
		}
	}
	t.cfg.Ledger.Refused(id, f)
}

// resume goes on with a policy that the run before has refused: first what was in force comes into force, then the newest version is tried.
// It reports false when the policy was not among those.
func (t *Translator) resume(id ledger.ID) bool {
	p := t.trials.policies[id]
	if !p.unknown {
		return false
	}
	before, known := t.lastGood.recall(p.newest)
	if !known {
		return false
	}
	p.good, p.unknown = before.good(), false
	t.holdUntil(id, time.Now().Add(firstTrial), before.Fault)
	return true
}

// keepGood writes down what is in force of the policies that are refused.
func (t *Translator) keepGood() {
	for id := range t.trials.held {
		p := t.trials.policies[id]
		if p.unknown {
			continue
		}
		if err := t.lastGood.keep(p.newest, p.good, p.fault); err != nil {
			t.log.Error("the last good version of a policy is not saved; if it is refused at the next start too, its pods are cut off",
				"policy", id.String(), "err", err)
		}
	}
	if !t.trials.taken {
		t.trials.taken = true
		t.warnStale(t.lastGood.dropUnclaimed())
	}
}

// dropGood forgets what was written down of policies, because a newer version may be in force in a moment.
func (t *Translator) dropGood() {
	for id := range t.trials.fresh {
		t.drop(t.trials.policies[id].newest)
	}
}

func (t *Translator) drop(policy metav1.Object) { t.warnStale(t.lastGood.drop(policy.GetUID())) }

func (t *Translator) warnStale(err error) {
	if err != nil {
		t.log.Error("the last good version of a policy that may be out of date is still on disk", "err", err)
	}
}

// inForceNow takes note that everything that the cluster has is in force.
func (t *Translator) inForceNow(at time.Time) {
	for id := range t.trials.fresh {
		p := t.trials.policies[id]
		p.good, p.tries, p.unknown = p.newest, 0, false
		t.cfg.Ledger.Enforced(id, enforcement.VersionOf(p.good), at)
	}
	clear(t.trials.fresh)
	t.trials.pods.inForce()
	for id := range t.trials.held {
		if good := t.trials.policies[id].good; good != nil {
			t.cfg.Ledger.Enforced(id, enforcement.VersionOf(good), at)
		}
	}
	limited := map[ledger.ID]ledger.Fault{}
	for _, u := range t.cluster.unfit {
		for _, id := range u.policies {
			limited[id] = faultOf(u)
		}
	}
	t.cfg.Ledger.Limit(limited)
}

// fits says that no set is too large.
func (t *Translator) fits(context.Context) error {
	if misfits := t.cluster.misfits(); len(misfits) > 0 {
		return misfits[0]
	}
	return nil
}

// longestMessage bounds what goes into conditions and events.
const longestMessage = 600

func faultOf(err error) ledger.Fault {
	if err == nil {
		return ledger.Fault{}
	}
	f := ledger.Fault{Reason: enforcement.Failed, Message: err.Error()}
	if len(f.Message) > longestMessage {
		f.Message = f.Message[:longestMessage]
	}
	var large *unfit
	var unreadable invalid
	switch {
	case errors.As(err, &large):
		f.Reason = enforcement.TooManyRules
	case errors.As(err, &unreadable):
		f.Reason = enforcement.Invalid
	case errors.Is(err, datapath.ErrFull):
		f.Reason = enforcement.NoRoom
	}
	return f
}

// subjectOf says which pods a policy selects; nil when that cannot be read.
func subjectOf(policy metav1.Object) func(*profile) bool {
	switch o := policy.(type) {
	case *networkingv1.NetworkPolicy:
		if p, err := parsePolicy(o); err == nil {
			return func(pr *profile) bool { return pr.namespace == p.namespace && p.subject.Matches(pr.labels) }
		}
	case *policyv1alpha2.ClusterNetworkPolicy:
		if p, err := parseClusterPolicy(o); err == nil {
			return p.subject.selects
		}
	}
	return nil
}
