// SPDX-License-Identifier: Apache-2.0

// Package replicaset keeps the number of pods of each ReplicaSet as asked for.
package replicaset

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"skep.dev/skep/controlplane/controller/podstate"
)

// burst bounds what one pass creates or deletes, so that a typing error in spec.replicas cannot flood the API.
const burst = 500

// snapshot is what a decision is made from.
type snapshot struct {
	rs *appsv1.ReplicaSet
	// pods are all the pods that the ReplicaSet owns, finished and ending ones included.
	pods []*corev1.Pod
	// related are the active pods of all ReplicaSets of the same owner; they rank nodes when pods are deleted.
	related []*corev1.Pod
	// settled is false while requested creations or deletions have not been seen yet.
	settled bool
	now     time.Time
}

// plan is what should happen next.
type plan struct {
	create int
	remove []*corev1.Pod
	// status describes the pods of the snapshot. The ReplicaFailure condition is left to withFailure, because it
	// depends on how applying the plan went.
	status appsv1.ReplicaSetStatus
	// again is when a ready pod becomes available; zero when there is no such pod.
	again time.Duration
}

// decide compares wanted with actual.
func decide(s snapshot) plan {
	var active []*corev1.Pod
	for _, pod := range s.pods {
		if podstate.Active(pod) {
			active = append(active, pod)
		}
	}
	var p plan
	if s.settled && s.rs.DeletionTimestamp == nil {
		switch missing := int(wanted(s.rs)) - len(active); {
		case missing > 0:
			p.create = min(missing, burst)
		case missing < 0:
			p.remove = worst(active, s.related, min(-missing, burst), s.now)
		}
	}
	p.status, p.again = status(s, active)
	return p
}

func wanted(rs *appsv1.ReplicaSet) int32 {
	if rs.Spec.Replicas == nil {
		return 1
	}
	return *rs.Spec.Replicas
}

func status(s snapshot, active []*corev1.Pod) (appsv1.ReplicaSetStatus, time.Duration) {
	st := appsv1.ReplicaSetStatus{
		Replicas:           int32(len(active)),
		ObservedGeneration: s.rs.Generation,
		Conditions:         s.rs.Status.Conditions,
	}
	var again time.Duration
	template := labels.Set(s.rs.Spec.Template.Labels).AsSelectorPreValidated()
	minReady := time.Duration(s.rs.Spec.MinReadySeconds) * time.Second
	for _, pod := range active {
		if template.Matches(labels.Set(pod.Labels)) {
			st.FullyLabeledReplicas++
		}
		if !podstate.Ready(pod) {
			continue
		}
		st.ReadyReplicas++
		available, wait := podstate.Available(pod, minReady, s.now)
		if available {
			st.AvailableReplicas++
		} else if wait > 0 && (again == 0 || wait < again) {
			again = wait
		}
	}
	var ending int32
	for _, pod := range s.pods {
		if pod.DeletionTimestamp != nil && !podstate.Terminal(pod) {
			ending++
		}
	}
	st.TerminatingReplicas = &ending
	return st, again
}

// withFailure sets or clears the ReplicaFailure condition. reason is empty when applying the plan went well.
func withFailure(st appsv1.ReplicaSetStatus, reason, message string, now time.Time) appsv1.ReplicaSetStatus {
	var kept []appsv1.ReplicaSetCondition
	var old *appsv1.ReplicaSetCondition
	for i, c := range st.Conditions {
		if c.Type == appsv1.ReplicaSetReplicaFailure {
			old = &st.Conditions[i]
			continue
		}
		kept = append(kept, c)
	}
	if reason != "" {
		c := appsv1.ReplicaSetCondition{
			Type:               appsv1.ReplicaSetReplicaFailure,
			Status:             corev1.ConditionTrue,
			LastTransitionTime: metav1.NewTime(now),
			Reason:             reason,
			Message:            message,
		}
		// A failure that goes on keeps its first message: names of refused pods differ at each try, and a status that
		// changes each time would wake everybody who watches.
		if old != nil && old.Status == c.Status && old.Reason == c.Reason {
			c = *old
		}
		kept = append(kept, c)
	}
	st.Conditions = kept
	return st
}
