// SPDX-License-Identifier: Apache-2.0

// Package disruption counts, for every PodDisruptionBudget, how many of its pods may be evicted now. The eviction subresource
// takes from that number, so without it nothing under a budget could ever be drained.
package disruption

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skep.dev/skep/controlplane/controller/podstate"
)

// evictionTimeout is how long a pod whose eviction was allowed counts as gone before it is deleted. After that the
// deletion is taken to have failed.
const evictionTimeout = 2 * time.Minute

// scale says who in the end decides how many pods there are, and how many it wants; false for an owner that nobody knows.
type scale func(owner *metav1.OwnerReference) (controller types.UID, want int, known bool)

// decide returns the budget's status and when it must be looked at again, zero for when something changes. pods are
// all those that the budget selects.
func decide(b *policyv1.PodDisruptionBudget, pods []*corev1.Pod, of scale, now time.Time) (policyv1.PodDisruptionBudgetStatus, time.Duration) {
	expected, desired, err := needs(b, pods, of)
	if err != nil {
		return failed(b, err, now), 0
	}
	leaving, again := leaving(b.Status.DisruptedPods, pods, now)
	healthy := 0
	for _, pod := range pods {
		if _, going := leaving[pod.Name]; !going && podstate.Active(pod) && podstate.Ready(pod) {
			healthy++
		}
	}
	allowed := max(0, healthy-desired)
	if expected == 0 {
		allowed = 0
	}
	s := *b.Status.DeepCopy()
	s.ObservedGeneration = b.Generation
	s.DisruptedPods = leaving
	s.ExpectedPods, s.DesiredHealthy, s.CurrentHealthy, s.DisruptionsAllowed = int32(expected), int32(desired), int32(healthy), int32(allowed)
	condition := metav1.Condition{Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionTrue, Reason: policyv1.SufficientPodsReason}
	if allowed == 0 {
		condition.Status, condition.Reason = metav1.ConditionFalse, policyv1.InsufficientPodsReason
	}
	set(&s, b, condition, now)
	return s, again
}

// needs says how many pods there should be and how many of them healthy.
func needs(b *policyv1.PodDisruptionBudget, pods []*corev1.Pod, of scale) (expected, desired int, err error) {
	switch least, most := b.Spec.MinAvailable, b.Spec.MaxUnavailable; {
	case most != nil:
		expected = wanted(pods, of)
		unavailable, err := intstr.GetScaledValueFromIntOrPercent(most, expected, true)
		return expected, max(0, expected-unavailable), err
	case least != nil && least.Type == intstr.String:
		expected = wanted(pods, of)
		desired, err = intstr.GetScaledValueFromIntOrPercent(least, expected, true)
		return expected, desired, err
	case least != nil:
		return len(pods), least.IntValue(), nil
	}
	return len(pods), 0, nil
}

// wanted adds up what the pods' controllers want. A pod without one will not be replaced, so it is no part of any share; a
// controller that nobody knows is taken to want what it has.
func wanted(pods []*corev1.Pod, of scale) int {
	total := 0
	counted := map[types.UID]bool{}
	for _, pod := range pods {
		owner := metav1.GetControllerOfNoCopy(pod)
		if owner == nil {
			continue
		}
		controller, want, known := of(owner)
		switch {
		case !known:
			total++
		case !counted[controller]:
			counted[controller] = true
			total += want
		}
	}
	return total
}

// leaving keeps the pods whose eviction was allowed and has not begun yet.
func leaving(disrupted map[string]metav1.Time, pods []*corev1.Pod, now time.Time) (still map[string]metav1.Time, again time.Duration) {
	for _, pod := range pods {
		since, ok := disrupted[pod.Name]
		left := since.Add(evictionTimeout).Sub(now)
		if !ok || pod.DeletionTimestamp != nil || left <= 0 {
			continue
		}
		if still == nil {
			still = map[string]metav1.Time{}
		}
		still[pod.Name] = since
		if again == 0 || left < again {
			again = left
		}
	}
	return still, again
}

// failed allows nothing and says why.
func failed(b *policyv1.PodDisruptionBudget, err error, now time.Time) policyv1.PodDisruptionBudgetStatus {
	s := *b.Status.DeepCopy()
	s.DisruptionsAllowed = 0
	set(&s, b, metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason,
		Message: fmt.Sprintf("count the budget's pods: %v", err),
	}, now)
	return s
}

func set(s *policyv1.PodDisruptionBudgetStatus, b *policyv1.PodDisruptionBudget, c metav1.Condition, now time.Time) {
	c.ObservedGeneration, c.LastTransitionTime = b.Generation, metav1.NewTime(now)
	meta.SetStatusCondition(&s.Conditions, c)
}
