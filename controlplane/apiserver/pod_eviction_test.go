// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
)

func TestUnreadyPodsUnderABudget(t *testing.T) {
	always, healthy := policyv1.AlwaysAllow, policyv1.IfHealthyBudget
	for _, c := range []struct {
		name             string
		ready            corev1.ConditionStatus
		policy           *policyv1.UnhealthyPodEvictionPolicyType
		desired, current int32
		observed         int64
		want             bool
	}{
		{"ready", corev1.ConditionTrue, &always, 2, 3, 1, false},
		{"unready, enough others", corev1.ConditionFalse, nil, 2, 2, 1, true},
		{"unready, enough others, said so", corev1.ConditionFalse, &healthy, 2, 2, 1, true},
		{"unready, too few others", corev1.ConditionFalse, nil, 2, 1, 1, false},
		{"unready, nothing desired yet", corev1.ConditionFalse, nil, 0, 0, 1, false},
		{"unready, counts are old", corev1.ConditionFalse, nil, 2, 2, 0, false},
		{"unready, always", corev1.ConditionFalse, &always, 2, 0, 0, true},
	} {
		pod := &corev1.Pod{Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: c.ready}}}}
		b := &policyv1.PodDisruptionBudget{
			Spec:   policyv1.PodDisruptionBudgetSpec{UnhealthyPodEvictionPolicy: c.policy},
			Status: policyv1.PodDisruptionBudgetStatus{ObservedGeneration: c.observed, DesiredHealthy: c.desired, CurrentHealthy: c.current},
		}
		b.Generation = 1
		if got := spares(b, pod); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
