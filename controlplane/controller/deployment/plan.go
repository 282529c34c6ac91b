// SPDX-License-Identifier: Apache-2.0

// Package deployment rolls Deployments out through ReplicaSets, one per pod template.
//
// Each pass takes one step: the plan changes the template's ReplicaSet, or the old ones, and the watch on what it
// changed causes the next pass. The state of a rollout is nowhere but in the objects, so a restart loses nothing.
package deployment

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// snapshot is what a decision is made from.
type snapshot struct {
	deployment *appsv1.Deployment
	// sets are the ReplicaSets that the Deployment owns.
	sets []*appsv1.ReplicaSet
	// pods maps each ReplicaSet's UID to its pods; filled in only for the Recreate strategy.
	pods map[string][]*corev1.Pod
	now  time.Time
}

// plan is what should happen next, in this order: update, create, remove, then the Deployment itself.
type plan struct {
	// update are changed copies of existing ReplicaSets.
	update []change
	// create is the ReplicaSet of a template that has none yet.
	create *appsv1.ReplicaSet
	// remove are old revisions beyond the history limit.
	remove []*appsv1.ReplicaSet
	// revision is the Deployment's revision annotation as it should be; empty leaves it alone.
	revision string
	status   appsv1.DeploymentStatus
	// again is when the progress deadline ends; zero when none is running.
	again time.Duration
}

// change is a ReplicaSet as it should be, with what it was.
type change struct {
	old, set *appsv1.ReplicaSet
}

// scaled reports whether the number of replicas changes, which is worth an event.
func (c change) scaled() bool { return replicas(c.old) != replicas(c.set) }

// view is the snapshot seen by revision.
type view struct {
	snapshot
	current *appsv1.ReplicaSet   // of the present template; nil when there is none
	old     []*appsv1.ReplicaSet // all others, oldest first
}

// decide works out the next step of a Deployment.
func decide(s snapshot) plan {
	v := look(s)
	d := s.deployment
	if d.DeletionTimestamp != nil {
		return plan{status: v.status()}
	}
	if d.Spec.Paused || v.resized() {
		return v.hold()
	}
	p := v.revise()
	if p.create == nil && len(p.update) == 0 {
		p = v.step(p)
	}
	if p.create == nil && len(p.update) == 0 && v.complete(v.counts()) {
		p.remove = v.beyondHistory()
	}
	return v.progress(p)
}

// step moves replicas from the old ReplicaSets to the current one.
func (v view) step(p plan) plan {
	if v.deployment.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return v.recreate(p)
	}
	return v.roll(p)
}

// hold keeps the rollout where it is: it resizes what there is in proportion and touches no template.
func (v view) hold() plan {
	p := plan{update: v.resize()}
	if v.current != nil {
		p.revision = v.current.Annotations[revisionKey]
	}
	if v.deployment.Spec.Paused && len(p.update) == 0 && len(v.sets) > 0 {
		p.remove = v.beyondHistory()
	}
	p.status = v.status()
	if v.deployment.Spec.Paused {
		p.status = v.pausedStatus(p.status)
	}
	return p
}

// recreate ends all old pods before the first new one starts.
func (v view) recreate(p plan) plan {
	for _, set := range v.old {
		if replicas(set) > 0 {
			p.update = append(p.update, v.scale(set, 0))
		}
	}
	if len(p.update) > 0 || v.oldPodsRun() {
		return p
	}
	want := wanted(v.deployment)
	if v.current == nil {
		p.create = v.newSet(want)
		p.revision = p.create.Annotations[revisionKey]
	} else if replicas(v.current) != want {
		p.update = append(p.update, v.scale(v.current, want))
	}
	return p
}

// oldPodsRun reports whether a pod of an old revision may still have a running process.
func (v view) oldPodsRun() bool {
	for _, set := range v.old {
		for _, pod := range v.pods[string(set.UID)] {
			if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
				return true
			}
		}
	}
	return false
}

// roll takes one step of a rolling update: first up with the new, and if it is as large as allowed, down with the old.
func (v view) roll(p plan) plan {
	b := boundsOf(v.deployment)
	if v.current == nil {
		p.create = v.newSet(b.room(0, v.old))
		p.revision = p.create.Annotations[revisionKey]
		return p
	}
	if target := b.newReplicas(v.current, v.old); target != replicas(v.current) {
		p.update = append(p.update, v.scale(v.current, target))
		return p
	}
	for _, shrink := range b.shrinkOld(v.current, v.old) {
		p.update = append(p.update, v.scale(shrink.set, shrink.to))
	}
	return p
}

// scale is a set with another number of replicas and the annotations by which a later resize knows its share.
func (v view) scale(set *appsv1.ReplicaSet, to int32) change {
	c := set.DeepCopy()
	c.Spec.Replicas = &to
	v.annotateSize(c)
	return change{old: set, set: c}
}
