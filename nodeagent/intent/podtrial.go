// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"skep.dev/skep/nodeagent/ledger"
)

// A pod can fill a map too: by its address, which policies tell apart, or by labels that make a class of its own. It is then held back as
// policies are, at what was in force of it, and a pod that was not known before stays unknown: one of this node does not start.

// retriedPods is how many pods are tried again at once, so that what comes meanwhile has not to wait for long.
const retriedPods = 8

// podTrial is a pod on its way into the datapath, or held back.
type podTrial struct {
	// newest is what the API has, good what is in force; nil when nothing is.
	newest, good *corev1.Pod
	tries        int
	retry        time.Time
	fault        ledger.Fault
}

// podTrials are those of a Translator. Pods that are in force are in none.
type podTrials struct {
	pods        map[types.UID]*podTrial
	fresh, held map[types.UID]bool
}

func newPodTrials() podTrials {
	return podTrials{pods: map[types.UID]*podTrial{}, fresh: map[types.UID]bool{}, held: map[types.UID]bool{}}
}

// proposePod takes in a version of a pod; before is the one that came before it, or nil.
func (t *Translator) proposePod(before, pod *corev1.Pod) {
	all, uid := &t.trials.pods, pod.UID
	p := all.pods[uid]
	if p != nil && all.held[uid] {
		same := t.cluster.newPod(p.newest).same(t.cluster.newPod(pod))
		p.newest = pod
		if !same {
			p.tries = 0
			t.restorePod(uid)
		}
		return
	}
	changed := t.cluster.SetPod(pod)
	t.note(&t.pending.policy, changed)
	if !changed || !t.trials.taken {
		return
	}
	if p == nil {
		p = &podTrial{good: before}
		all.pods[uid] = p
	}
	p.newest = pod
	all.fresh[uid] = true
}

// withdrawPod takes in the end of a pod. Others may fit now.
func (t *Translator) withdrawPod(uid types.UID) {
	t.note(&t.pending.policy, t.cluster.DeletePod(uid))
	t.trials.pods.forget(uid)
	t.retrySoon()
}

func (all *podTrials) forget(uid types.UID) {
	delete(all.pods, uid)
	delete(all.fresh, uid)
	delete(all.held, uid)
}

// restorePod gives the cluster the newest version of a pod.
func (t *Translator) restorePod(uid types.UID) {
	all := &t.trials.pods
	delete(all.held, uid)
	all.fresh[uid] = true
	t.note(&t.pending.policy, t.cluster.SetPod(all.pods[uid].newest))
}

// revertPod gives the cluster what was in force of a pod.
func (t *Translator) revertPod(uid types.UID) {
	all := &t.trials.pods
	delete(all.fresh, uid)
	delete(all.held, uid)
	if good := all.pods[uid].good; good != nil {
		t.note(&t.pending.policy, t.cluster.SetPod(good))
		return
	}
	t.note(&t.pending.policy, t.cluster.DeletePod(uid))
}

func (t *Translator) holdPod(uid types.UID, why error) {
	t.revertPod(uid)
	all := &t.trials.pods
	p := all.pods[uid]
	all.held[uid] = true
	p.fault, p.retry = faultOf(why), time.Now().Add(pause(p.tries))
	if p.tries++; p.tries == 1 {
		t.log.Error("a pod has no room in the datapath; if it is this node's it does not start", "pod", podName(p.newest), "err", why)
	}
}

func podName(p *corev1.Pod) string { return p.Namespace + "/" + p.Name }

// tellHeldPods tells the ledger which pods are held back.
func (t *Translator) tellHeldPods() {
	var list []string
	var fault ledger.Fault
	for uid := range t.trials.pods.held {
		p := t.trials.pods.pods[uid]
		list, fault = append(list, podName(p.newest)), p.fault
	}
	if len(list) == 0 {
		t.cfg.Ledger.PodsRefused(ledger.Fault{})
		return
	}
	slices.Sort(list)
	more := ""
	if n := len(list) - shownNames; n > 0 {
		list, more = list[:shownNames], fmt.Sprintf(" and %d more", n)
	}
	fault.Message = fmt.Sprintf("pods %s%s: %s", list, more, fault.Message)
	t.cfg.Ledger.PodsRefused(fault)
}

// duePods are pods that have waited long enough, not all at once.
func (all *podTrials) duePods(now time.Time) []types.UID {
	var due []types.UID
	for uid := range all.held {
		if !all.pods[uid].retry.After(now) {
			due = append(due, uid)
		}
	}
	slices.Sort(due)
	return due[:min(len(due), retriedPods)]
}

// inForce takes note that the newest versions are.
func (all *podTrials) inForce() {
	for _, uid := range slices.Collect(maps.Keys(all.fresh)) {
		all.forget(uid)
	}
}
