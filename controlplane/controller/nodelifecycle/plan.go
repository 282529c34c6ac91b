// SPDX-License-Identifier: Apache-2.0

// Package nodelifecycle notices nodes that have fallen silent: it sets their conditions to Unknown, keeps the taints that
// stand for a node's conditions, and marks the pods of a node that is not ready as not ready.
package nodelifecycle

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skep.dev/skep/controlplane/controller/podstate"
)

// Grace is how long a node may be silent.
const Grace = 40 * time.Second

// Messages and reasons that clients read.
const (
	reasonSilent = "NodeStatusUnknown"
	reasonNever  = "NodeStatusNeverUpdated"
	saysSilent   = "Kubelet stopped posting node status."
	saysNever    = "Kubelet never posted node status."
)

// watched are the conditions that only the node itself can know.
var watched = []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure}

// silence turns the conditions of a silent node to Unknown; nil if they are that already.
func silence(node *corev1.Node, now time.Time) []corev1.NodeCondition {
	conditions := slices.Clone(node.Status.Conditions)
	changed := false
	for _, t := range watched {
		at := slices.IndexFunc(conditions, func(c corev1.NodeCondition) bool { return c.Type == t })
		if at < 0 {
			changed = true
			conditions = append(conditions, corev1.NodeCondition{
				Type: t, Status: corev1.ConditionUnknown, Reason: reasonNever, Message: saysNever,
				LastHeartbeatTime: node.CreationTimestamp, LastTransitionTime: metav1.NewTime(now),
			})
			continue
		}
		c := &conditions[at]
		if c.Status == corev1.ConditionUnknown {
			continue
		}
		changed = true
		c.Status, c.Reason, c.Message = corev1.ConditionUnknown, reasonSilent, saysSilent
		c.LastTransitionTime = metav1.NewTime(now)
	}
	if !changed {
		return nil
	}
	return conditions
}

// unsaid is the status of a condition that nobody has ever set.
const unsaid corev1.ConditionStatus = ""

func status(node *corev1.Node, t corev1.NodeConditionType) corev1.ConditionStatus {
	for _, c := range node.Status.Conditions {
		if c.Type == t {
			return c.Status
		}
	}
	return unsaid
}

// conditionTaints are the taints that keep new pods away while a condition is True.
var conditionTaints = map[corev1.NodeConditionType]string{
	corev1.NodeMemoryPressure:     corev1.TaintNodeMemoryPressure,
	corev1.NodeDiskPressure:       corev1.TaintNodeDiskPressure,
	corev1.NodePIDPressure:        corev1.TaintNodePIDPressure,
	corev1.NodeNetworkUnavailable: corev1.TaintNodeNetworkUnavailable,
}

// ours reports whether we alone set and remove the taint.
func ours(t corev1.Taint) bool {
	switch t.Key {
	case corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable:
		return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
	case corev1.TaintNodeUnschedulable, corev1.TaintNodeMemoryPressure, corev1.TaintNodeDiskPressure,
		corev1.TaintNodePIDPressure, corev1.TaintNodeNetworkUnavailable:
		return t.Effect == corev1.TaintEffectNoSchedule
	}
	return false
}

// taints are the node's taints as they should be; same is true if they are that already. With evict false the taints that
// end pods are left out.
func taints(node *corev1.Node, evict bool, now time.Time) (want []corev1.Taint, same bool) {
	var needed []corev1.Taint
	need := func(key string, effect corev1.TaintEffect) {
		needed = append(needed, corev1.Taint{Key: key, Effect: effect})
	}
	ready := status(node, corev1.NodeReady)
	key := corev1.TaintNodeNotReady
	if ready == corev1.ConditionUnknown {
		key = corev1.TaintNodeUnreachable
	}
	if ready != corev1.ConditionTrue {
		need(key, corev1.TaintEffectNoSchedule)
		// A node that is just being set up has no pods to lose but those that help it up.
		if evict && ready != unsaid {
			need(key, corev1.TaintEffectNoExecute)
		}
	}
	if node.Spec.Unschedulable {
		need(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)
	}
	for _, c := range node.Status.Conditions {
		if key, known := conditionTaints[c.Type]; known && c.Status == corev1.ConditionTrue {
			need(key, corev1.TaintEffectNoSchedule)
		}
	}
	return reconcileTaints(node.Spec.Taints, needed, now)
}

// reconcileTaints keeps the taints of others, and ours that are still needed with the time at which they were added: how long
// a pod may stay is counted from it.
func reconcileTaints(has, needed []corev1.Taint, now time.Time) (want []corev1.Taint, same bool) {
	same = true
	for _, t := range has {
		if ours(t) && !slices.ContainsFunc(needed, func(n corev1.Taint) bool { return n.MatchTaint(&t) }) {
			same = false
			continue
		}
		want = append(want, t)
	}
	for _, t := range needed {
		if slices.ContainsFunc(has, func(old corev1.Taint) bool { return old.MatchTaint(&t) }) {
			continue
		}
		same = false
		at := metav1.NewTime(now)
		t.TimeAdded = &at
		want = append(want, t)
	}
	return want, same
}

// unready is the pod's Ready condition as it should be on a node that is not ready; nil if it is not True now.
func unready(pod *corev1.Pod, now time.Time) *corev1.PodCondition {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			c.Status = corev1.ConditionFalse
			c.LastTransitionTime = metav1.NewTime(now)
			return &c
		}
	}
	return nil
}

// readyAgain is the pod's Ready condition as it should be once its node is back, where unready has changed it; nil otherwise. The
// node itself says that a pod is not ready only when its containers or its gates are not.
func readyAgain(pod *corev1.Pod, now time.Time) *corev1.PodCondition {
	if pod.DeletionTimestamp != nil || pod.Status.Phase != corev1.PodRunning || !isTrue(pod, corev1.ContainersReady) {
		return nil
	}
	for _, gate := range pod.Spec.ReadinessGates {
		if !isTrue(pod, gate.ConditionType) {
			return nil
		}
	}
	c := podstate.Condition(pod, corev1.PodReady)
	if c == nil || c.Status != corev1.ConditionFalse {
		return nil
	}
	back := *c
	back.Status, back.LastTransitionTime = corev1.ConditionTrue, metav1.NewTime(now)
	return &back
}

func isTrue(pod *corev1.Pod, kind corev1.PodConditionType) bool {
	c := podstate.Condition(pod, kind)
	return c != nil && c.Status == corev1.ConditionTrue
}
