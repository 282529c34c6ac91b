// SPDX-License-Identifier: Apache-2.0

package deployment

import (
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of conditions, which kubectl and other clients read.
const (
	reasonEnough     = "MinimumReplicasAvailable"
	reasonTooFew     = "MinimumReplicasUnavailable"
	reasonAvailable  = "NewReplicaSetAvailable"
	reasonUpdated    = "ReplicaSetUpdated"
	reasonCreated    = "NewReplicaSetCreated"
	reasonFound      = "FoundNewReplicaSet"
	reasonDeadline   = "ProgressDeadlineExceeded"
	reasonPaused     = "DeploymentPaused"
	reasonResumed    = "DeploymentResumed"
	reasonCreateFail = "ReplicaSetCreateError"
)

// counts are the numbers of the status, without conditions.
func (v view) counts() appsv1.DeploymentStatus {
	d := v.deployment
	st := appsv1.DeploymentStatus{
		ObservedGeneration: d.Generation,
		CollisionCount:     d.Status.CollisionCount,
		Conditions:         slices.Clone(d.Status.Conditions),
	}
	var ending, wanted int32
	for _, set := range v.sets {
		wanted += replicas(set)
		st.Replicas += set.Status.Replicas
		st.ReadyReplicas += set.Status.ReadyReplicas
		st.AvailableReplicas += set.Status.AvailableReplicas
		if set.Status.TerminatingReplicas != nil {
			ending += *set.Status.TerminatingReplicas
		}
	}
	if v.current != nil {
		st.UpdatedReplicas = v.current.Status.Replicas
	}
	st.UnavailableReplicas = max(wanted-st.AvailableReplicas, 0)
	st.TerminatingReplicas = &ending
	return st
}

// status adds the conditions that do not depend on progress.
func (v view) status() appsv1.DeploymentStatus {
	st := v.counts()
	b := boundsOf(v.deployment)
	c := condition(appsv1.DeploymentAvailable, corev1.ConditionFalse, reasonTooFew, "Deployment does not have minimum availability.")
	if st.AvailableReplicas >= b.want-b.maxUnavailable {
		c = condition(appsv1.DeploymentAvailable, corev1.ConditionTrue, reasonEnough, "Deployment has minimum availability.")
	}
	v.set(&st, c)
	if failure := v.failure(); failure != nil {
		v.set(&st, *failure)
	} else {
		remove(&st, appsv1.DeploymentReplicaFailure)
	}
	return st
}

// failure is the ReplicaFailure condition of the current set, or else of an old one.
func (v view) failure() *appsv1.DeploymentCondition {
	sets := v.old
	if v.current != nil {
		sets = append([]*appsv1.ReplicaSet{v.current}, v.old...)
	}
	for _, set := range sets {
		for _, c := range set.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue {
				out := condition(appsv1.DeploymentReplicaFailure, c.Status, c.Reason, c.Message)
				return &out
			}
		}
	}
	return nil
}

// complete reports whether nothing of an old template runs and all of the new one serves.
func (v view) complete(st appsv1.DeploymentStatus) bool {
	want := wanted(v.deployment)
	return v.current != nil && st.UpdatedReplicas == want && st.Replicas == want && st.AvailableReplicas == want
}

// progress fills in the status with the Progressing condition, and when its deadline ends.
func (v view) progress(p plan) plan {
	p.status = v.status()
	d := v.deployment
	if !hasDeadline(d) {
		remove(&p.status, appsv1.DeploymentProgressing)
		return p
	}
	if c := v.progressing(p); c != nil {
		v.set(&p.status, *c)
	}
	p.again = v.untilDeadline(p.status)
	return p
}

func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

// progressing is the Progressing condition as it should become; nil leaves it as it is.
func (v view) progressing(p plan) *appsv1.DeploymentCondition {
	old := find(v.deployment.Status.Conditions, appsv1.DeploymentProgressing)
	name := fmt.Sprintf("Deployment %q", v.deployment.Name)
	if v.current != nil {
		name = fmt.Sprintf("ReplicaSet %q", v.current.Name)
	}
	yes := func(reason, format string, args ...any) *appsv1.DeploymentCondition {
		c := condition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reason, fmt.Sprintf(format, args...))
		return &c
	}
	switch {
	case p.create != nil:
		return yes(reasonCreated, "Created new replica set %q", p.create.Name)
	case old != nil && old.Reason == reasonAvailable && p.status.Replicas == p.status.UpdatedReplicas && v.sameRevision():
		return nil // it was complete, and pods that come and go do not start a new rollout
	case v.complete(p.status):
		return yes(reasonAvailable, "%s has successfully progressed.", name)
	case old == nil && v.current != nil:
		return yes(reasonFound, "Found new replica set %q", v.current.Name)
	case old == nil || v.advanced(p.status) || !v.sameRevision():
		return yes(reasonUpdated, "%s is progressing.", name)
	case old.Reason == reasonPaused:
		c := condition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonResumed, "Deployment is resumed")
		return &c
	case v.late(*old):
		c := condition(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonDeadline, name+" has timed out progressing.")
		return &c
	}
	return nil
}

// sameRevision reports whether the Deployment already carries the revision of its current set, if it has one.
func (v view) sameRevision() bool {
	return v.current == nil || v.deployment.Annotations[revisionKey] == v.current.Annotations[revisionKey]
}

// advanced reports whether pods were created, ended or became ready since the last status.
func (v view) advanced(st appsv1.DeploymentStatus) bool {
	was := v.deployment.Status
	return st.UpdatedReplicas > was.UpdatedReplicas ||
		st.Replicas-st.UpdatedReplicas < was.Replicas-was.UpdatedReplicas ||
		st.ReadyReplicas > was.ReadyReplicas ||
		st.AvailableReplicas > was.AvailableReplicas
}

// late reports whether the last progress is longer ago than the deadline allows.
func (v view) late(c appsv1.DeploymentCondition) bool {
	switch c.Reason {
	case reasonDeadline:
		return true
	case reasonAvailable, reasonPaused:
		return false
	}
	deadline := time.Duration(*v.deployment.Spec.ProgressDeadlineSeconds) * time.Second
	return c.LastUpdateTime.Add(deadline).Before(v.now)
}

// untilDeadline is when to look again; nothing else wakes a Deployment whose pods are stuck.
func (v view) untilDeadline(st appsv1.DeploymentStatus) time.Duration {
	c := find(st.Conditions, appsv1.DeploymentProgressing)
	if c == nil || c.Reason == reasonDeadline || c.Reason == reasonAvailable || c.Reason == reasonPaused {
		return 0
	}
	deadline := time.Duration(*v.deployment.Spec.ProgressDeadlineSeconds) * time.Second
	// One second more, because condition times are cut to whole seconds.
	return max(c.LastUpdateTime.Add(deadline+time.Second).Sub(v.now), time.Second)
}

// pausedStatus stops the deadline's clock while the rollout is paused.
func (v view) pausedStatus(st appsv1.DeploymentStatus) appsv1.DeploymentStatus {
	old := find(st.Conditions, appsv1.DeploymentProgressing)
	if !hasDeadline(v.deployment) || old != nil && (old.Reason == reasonDeadline || old.Reason == reasonPaused) {
		return st
	}
	v.set(&st, condition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused"))
	return st
}

// createFailed is the status when the new ReplicaSet was refused.
func (v view) createFailed(st appsv1.DeploymentStatus, name string, err error) appsv1.DeploymentStatus {
	if hasDeadline(v.deployment) {
		message := fmt.Sprintf("Failed to create new replica set %q: %v", name, err)
		st.Conditions = slices.Clone(v.deployment.Status.Conditions)
		v.set(&st, condition(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonCreateFail, message))
	}
	return st
}

func condition(t appsv1.DeploymentConditionType, s corev1.ConditionStatus, reason, message string) appsv1.DeploymentCondition {
	return appsv1.DeploymentCondition{Type: t, Status: s, Reason: reason, Message: message}
}

func find(conditions []appsv1.DeploymentCondition, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range conditions {
		if conditions[i].Type == t {
			return &conditions[i]
		}
	}
	return nil
}

func remove(st *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) {
	st.Conditions = slices.DeleteFunc(st.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == t })
}

// set writes a condition. The transition time moves only with the status; the update time is that of the last progress,
// so the same reason again moves it only where that is what the caller saw.
func (v view) set(st *appsv1.DeploymentStatus, c appsv1.DeploymentCondition) {
	now := metav1.NewTime(v.now)
	c.LastUpdateTime, c.LastTransitionTime = now, now
	old := find(st.Conditions, c.Type)
	if old == nil {
		st.Conditions = append(st.Conditions, c)
		return
	}
	if old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	sameText := old.Status == c.Status && old.Reason == c.Reason && old.Message == c.Message
	if sameText && (c.Type != appsv1.DeploymentProgressing || c.Reason != reasonUpdated) {
		return
	}
	*old = c
}
