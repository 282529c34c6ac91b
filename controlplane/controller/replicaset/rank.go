// SPDX-License-Identifier: Apache-2.0

package replicaset

import (
	"cmp"
	"math/bits"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"skep.dev/skep/controlplane/controller/podstate"
)

// deletionCost is the annotation by which a user says which pods should go first.
const deletionCost = "controller.kubernetes.io/pod-deletion-cost"

// candidate is a pod with what its rank depends on, so that sorting does not work it out again for each comparison.
type candidate struct {
	pod                       *corev1.Pod
	placed, running, readyNow int
	cost, crowd, restarts     int
	readyAge, age             int
}

// worst picks the n pods that are missed least. In order: not placed on a node, not running, not ready, lower deletion
// cost, more siblings on the same node, ready for a shorter time, restarted more often, younger.
// (The API's documentation of scaling down a ReplicaSet lists these.)
func worst(active, related []*corev1.Pod, n int, now time.Time) []*corev1.Pod {
	if n >= len(active) {
		return active
	}
	crowd := map[string]int{}
	for _, pod := range related {
		if pod.Spec.NodeName != "" {
			crowd[pod.Spec.NodeName]++
		}
	}
	ranked := make([]candidate, 0, len(active))
	for _, pod := range active {
		ranked = append(ranked, rate(pod, crowd[pod.Spec.NodeName], now))
	}
	slices.SortFunc(ranked, compare)
	picked := make([]*corev1.Pod, 0, n)
	for _, c := range ranked[:n] {
		picked = append(picked, c.pod)
	}
	return picked
}

func compare(a, b candidate) int {
	return cmp.Or(
		cmp.Compare(a.placed, b.placed),
		cmp.Compare(a.running, b.running),
		cmp.Compare(a.readyNow, b.readyNow),
		cmp.Compare(a.cost, b.cost),
		cmp.Compare(b.crowd, a.crowd),
		cmp.Compare(a.readyAge, b.readyAge),
		cmp.Compare(b.restarts, a.restarts),
		cmp.Compare(a.age, b.age),
		cmp.Compare(a.pod.UID, b.pod.UID),
	)
}

func rate(pod *corev1.Pod, crowd int, now time.Time) candidate {
	c := candidate{pod: pod, crowd: crowd, age: magnitude(now.Sub(pod.CreationTimestamp.Time))}
	if pod.Spec.NodeName != "" {
		c.placed = 1
	}
	switch pod.Status.Phase {
	case corev1.PodRunning:
		c.running = 2
	case corev1.PodUnknown:
		c.running = 1
	}
	if ready := podstate.Condition(pod, corev1.PodReady); ready != nil && ready.Status == corev1.ConditionTrue {
		c.readyNow = 1
		c.readyAge = magnitude(now.Sub(ready.LastTransitionTime.Time))
	}
	// The API refuses values that are not numbers; an unreadable one counts as absent.
	c.cost, _ = strconv.Atoi(pod.Annotations[deletionCost])
	for _, s := range pod.Status.ContainerStatuses {
		c.restarts = max(c.restarts, int(s.RestartCount))
	}
	return c
}

// magnitude puts ages into buckets that double in size, so that a second of difference between pods that are days old
// does not decide, and the choice among them is spread instead.
func magnitude(age time.Duration) int {
	return bits.Len64(uint64(max(age, 0) / time.Second))
}
