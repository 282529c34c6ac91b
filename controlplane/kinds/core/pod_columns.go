// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skep.dev/skep/controlplane/kinds"
)

var (
	podStatusDoc = corev1.PodStatus{}.SwaggerDoc()
	podSpecDoc   = corev1.PodSpec{}.SwaggerDoc()
	podColumns   = []metav1.TableColumnDefinition{
		kinds.NameColumn(),
		kinds.Column("Ready", "string", "The aggregate readiness state of this pod for accepting traffic."),
		kinds.Column("Status", "string", "The aggregate status of the containers in this pod."),
		kinds.Column("Restarts", "string", "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted."),
		kinds.AgeColumn(),
		kinds.WideColumn("IP", "string", podStatusDoc["podIP"]),
		kinds.WideColumn("Node", "string", podSpecDoc["nodeName"]),
		kinds.WideColumn("Nominated Node", "string", podStatusDoc["nominatedNodeName"]),
		kinds.WideColumn("Readiness Gates", "string", podSpecDoc["readinessGates"]),
	}
)

const none = "<none>"

func podRow(pod *corev1.Pod) []any {
	s := summarize(pod)
	restarts := strconv.Itoa(s.restarts)
	if s.restarts > 0 && !s.lastRestart.IsZero() {
		restarts = fmt.Sprintf("%d (%s ago)", s.restarts, kinds.Age(metav1.NewTime(s.lastRestart)))
	}
	ip := pod.Status.PodIP
	if len(pod.Status.PodIPs) > 0 {
		ip = pod.Status.PodIPs[0].IP
	}
	return []any{
		pod.Name,
		fmt.Sprintf("%d/%d", s.ready, s.total),
		s.status,
		restarts,
		kinds.Age(pod.CreationTimestamp),
		orNone(ip),
		orNone(pod.Spec.NodeName),
		orNone(pod.Status.NominatedNodeName),
		readinessGates(pod),
	}
}

func orNone(s string) string {
	if s == "" {
		return none
	}
	return s
}

func readinessGates(pod *corev1.Pod) string {
	if len(pod.Spec.ReadinessGates) == 0 {
		return none
	}
	met := 0
	for _, gate := range pod.Spec.ReadinessGates {
		if podConditionTrue(pod, gate.ConditionType) {
			met++
		}
	}
	return fmt.Sprintf("%d/%d", met, len(pod.Spec.ReadinessGates))
}

func podConditionTrue(pod *corev1.Pod, kind corev1.PodConditionType) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == kind {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// summary is a pod in the few words that fit a line.
type summary struct {
	status       string
	ready, total int
	restarts     int
	lastRestart  time.Time
}

// summarize looks for the one thing that a person would want to know: the first init container that is not done; then the
// first container that waits or has ended; then the phase.
func summarize(pod *corev1.Pod) summary {
	sidecars := map[string]bool{}
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			sidecars[c.Name] = true
		}
	}
	s := summary{status: string(pod.Status.Phase), total: len(pod.Spec.Containers) + len(sidecars)}
	if pod.Status.Reason != "" {
		s.status = pod.Status.Reason
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonSchedulingGated {
			s.status = corev1.PodReasonSchedulingGated
		}
	}
	if side, done := s.initContainers(pod, sidecars); done || podConditionTrue(pod, corev1.PodInitialized) {
		// What init containers needed to get through is history; only sidecars still count.
		s.restarts, s.lastRestart = side.restarts, side.lastRestart
		s.containers(pod)
	}
	switch {
	case pod.DeletionTimestamp == nil:
	case pod.Status.Reason == "NodeLost":
		s.status = "Unknown"
	case pod.Status.Phase != corev1.PodFailed && pod.Status.Phase != corev1.PodSucceeded:
		s.status = "Terminating"
	}
	return s
}

type restartCount struct {
	restarts    int
	lastRestart time.Time
}

// initContainers counts them and names the first one that is not done. It returns the restarts of sidecars and whether
// all are done.
func (s *summary) initContainers(pod *corev1.Pod, sidecars map[string]bool) (side restartCount, done bool) {
	for i := range pod.Status.InitContainerStatuses {
		c := &pod.Status.InitContainerStatuses[i]
		s.countRestarts(c)
		if sidecars[c.Name] {
			side.restarts += int(c.RestartCount)
			side.lastRestart = later(side.lastRestart, endOf(c))
		}
		if t := c.State.Terminated; t != nil && t.ExitCode == 0 {
			continue
		}
		if sidecars[c.Name] && c.Started != nil && *c.Started {
			if c.Ready {
				s.ready++
			}
			continue
		}
		s.status = initStatus(c, i, len(pod.Spec.InitContainers))
		return side, false
	}
	return side, true
}

func initStatus(c *corev1.ContainerStatus, index, total int) string {
	switch t, w := c.State.Terminated, c.State.Waiting; {
	case t != nil:
		return "Init:" + endReason(t)
	case w != nil && w.Reason != "" && w.Reason != "PodInitializing":
		return "Init:" + w.Reason
	}
	return fmt.Sprintf("Init:%d/%d", index, total)
}

func endReason(t *corev1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return fmt.Sprintf("Signal:%d", t.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", t.ExitCode)
}

// containers goes backwards so that the first container has the last word.
func (s *summary) containers(pod *corev1.Pod) {
	running := false
	for i := len(pod.Status.ContainerStatuses) - 1; i >= 0; i-- {
		c := &pod.Status.ContainerStatuses[i]
		s.countRestarts(c)
		switch {
		case c.State.Waiting != nil && c.State.Waiting.Reason != "":
			s.status = c.State.Waiting.Reason
		case c.State.Terminated != nil:
			s.status = endReason(c.State.Terminated)
		case c.Ready && c.State.Running != nil:
			running = true
			s.ready++
		}
	}
	if s.status == "Completed" && running {
		s.status = "NotReady"
		if podConditionTrue(pod, corev1.PodReady) {
			s.status = "Running"
		}
	}
}

func (s *summary) countRestarts(c *corev1.ContainerStatus) {
	s.restarts += int(c.RestartCount)
	s.lastRestart = later(s.lastRestart, endOf(c))
}

func endOf(c *corev1.ContainerStatus) time.Time {
	if t := c.LastTerminationState.Terminated; t != nil {
		return t.FinishedAt.Time
	}
	return time.Time{}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
