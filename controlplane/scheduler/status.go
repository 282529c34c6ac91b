// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"encoding/json"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skep.dev/skep/controlplane/scheduler/place"
)

// refuse tells why a pod has no node, by an event at each try and by its condition when that changes.
func (s *scheduler) refuse(ctx context.Context, pod *corev1.Pod, why *place.Unfit) {
	s.events.Event(pod, corev1.EventTypeWarning, "FailedScheduling", why.Error())
	patch := refusal(pod, why.Error(), time.Now())
	if patch == nil {
		return
	}
	_, err := s.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		s.log.Warn("write the condition of a pod", "pod", name(pod), "err", err)
	}
}

// refusal is the patch that sets PodScheduled to False; nil when the pod says so already.
func refusal(pod *corev1.Pod, message string, now time.Time) []byte {
	c := corev1.PodCondition{
		Type:               corev1.PodScheduled,
		Status:             corev1.ConditionFalse,
		Reason:             corev1.PodReasonUnschedulable,
		Message:            message,
		LastTransitionTime: metav1.NewTime(now),
		ObservedGeneration: pod.Generation,
	}
	for _, old := range pod.Status.Conditions {
		if old.Type != c.Type || old.Status != c.Status {
			continue
		}
		if old.Reason == c.Reason && old.Message == c.Message {
			return nil
		}
		c.LastTransitionTime = old.LastTransitionTime
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status":   map[string]any{"conditions": []corev1.PodCondition{c}},
	})
	if err != nil {
		return nil // a condition always encodes
	}
	return patch
}
