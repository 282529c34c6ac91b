// SPDX-License-Identifier: Apache-2.0

// Package podgc removes pods that nobody else will: finished ones beyond a number, those of nodes that are gone, and
// those that were deleted before they had a node.
package podgc

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"skep.dev/skep/controlplane/controller/podstate"
)

const (
	// keepFinished is how many finished pods may stay for people to look at.
	keepFinished = 12500
	// quarantine is how long a node must be missing before its pods are given up; it may only be coming back.
	quarantine = 40 * time.Second
)

// verdict is a pod to delete at once, without waiting for its node.
type verdict struct {
	pod *corev1.Pod
	// fail marks the pod Failed first: its node is gone and will not say how it ended.
	fail bool
	// message tells why, for the condition.
	message string
}

// decide picks the pods to remove. missing tells since when a node has been missing, and false for one that exists.
func decide(pods []*corev1.Pod, finishedLimit int, missing func(node string) (time.Time, bool), outOfService func(node string) bool, now time.Time) []verdict {
	var out []verdict
	var finished []*corev1.Pod
	for _, pod := range pods {
		node := pod.Spec.NodeName
		switch {
		case node == "" && pod.DeletionTimestamp != nil:
			out = append(out, verdict{pod: pod})
			continue
		case node != "" && pod.DeletionTimestamp != nil && outOfService(node):
			out = append(out, verdict{pod: pod, fail: !podstate.Terminal(pod), message: "PodGC: node is out of service"})
			continue
		case node != "":
			if since, gone := missing(node); gone {
				if now.Sub(since) >= quarantine {
					out = append(out, verdict{pod: pod, fail: !podstate.Terminal(pod), message: "PodGC: node no longer exists"})
				}
				continue
			}
		}
		if podstate.Terminal(pod) {
			finished = append(finished, pod)
		}
	}
	if excess := len(finished) - finishedLimit; excess > 0 {
		slices.SortFunc(finished, func(a, b *corev1.Pod) int {
			return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
		})
		for _, pod := range finished[:excess] {
			out = append(out, verdict{pod: pod})
		}
	}
	return out
}
