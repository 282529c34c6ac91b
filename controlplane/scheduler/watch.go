// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
)

// podChanged keeps the cache and the queue, and wakes waiting pods when room was made or rules about pods changed.
func (s *scheduler) podChanged(old, pod *corev1.Pod) {
	if pod == nil {
		s.queue.Remove(old.UID)
		s.cache.removePod(old.UID)
		if old.Spec.NodeName != "" {
			s.queue.Wake()
		}
		return
	}
	switch {
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		s.queue.Remove(pod.UID)
		s.cache.removePod(pod.UID)
		if old == nil || old.Status.Phase != pod.Status.Phase {
			s.queue.Wake()
		}
	case pod.Spec.NodeName != "":
		s.queue.Remove(pod.UID)
		s.cache.setPod(pod)
		if podMatters(old, pod) {
			s.queue.Wake()
		}
	case s.mine(pod):
		s.queue.Put(pod)
	default:
		s.queue.Remove(pod.UID)
	}
}

// podMatters reports whether the change of a running pod can help a waiting one: it was placed (somebody may want to be
// near it), is ending, or has other labels or needs.
func podMatters(old, pod *corev1.Pod) bool {
	return old == nil || old.Spec.NodeName == "" ||
		(old.DeletionTimestamp == nil) != (pod.DeletionTimestamp == nil) ||
		!apiequality.Semantic.DeepEqual(old.Labels, pod.Labels) ||
		!apiequality.Semantic.DeepEqual(old.Spec, pod.Spec)
}

// mine reports whether this scheduler is to place the pod now.
func (s *scheduler) mine(pod *corev1.Pod) bool {
	return pod.Spec.SchedulerName == s.name && len(pod.Spec.SchedulingGates) == 0 && pod.DeletionTimestamp == nil
}

func (s *scheduler) nodeChanged(old, node *corev1.Node) {
	if node == nil {
		s.cache.removeNode(old.Name)
		return
	}
	s.cache.setNode(node)
	if nodeMatters(old, node) {
		s.queue.Wake()
	}
}

// nodeMatters reports whether the change of a node can help a waiting pod; heartbeats do not.
func nodeMatters(old, node *corev1.Node) bool {
	return old == nil || old.Spec.Unschedulable != node.Spec.Unschedulable ||
		!apiequality.Semantic.DeepEqual(old.Spec.Taints, node.Spec.Taints) ||
		!apiequality.Semantic.DeepEqual(old.Labels, node.Labels) ||
		!apiequality.Semantic.DeepEqual(old.Status.Allocatable, node.Status.Allocatable)
}
