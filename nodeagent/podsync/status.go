// SPDX-License-Identifier: Apache-2.0

package podsync

import (
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// status is the pod's status as the API should have it.
func (d *decision) status() v1.PodStatus {
	s := *d.pod.Status.DeepCopy()
	s.ObservedGeneration = d.pod.Generation
	s.InitContainerStatuses = d.containerStatuses(d.pod.Spec.InitContainers, true)
	s.ContainerStatuses = d.containerStatuses(d.pod.Spec.Containers, false)
	s.Phase = d.phase()
	if d.failed != nil {
		s.Reason, s.Message = d.failed.reason, d.failed.message
	}
	if !d.obs.StartTime.IsZero() {
		t := metav1.NewTime(d.obs.StartTime.Truncate(time.Second))
		s.StartTime = &t
	}
	s.HostIPs, s.HostIP = nil, ""
	for _, ip := range d.obs.HostIPs {
		s.HostIPs = append(s.HostIPs, v1.HostIP{IP: ip})
	}
	if len(d.obs.HostIPs) > 0 {
		s.HostIP = d.obs.HostIPs[0]
	}
	if len(d.obs.PodIPs) > 0 {
		s.PodIPs = nil
		for _, ip := range d.obs.PodIPs {
			s.PodIPs = append(s.PodIPs, v1.PodIP{IP: ip})
		}
		s.PodIP = d.obs.PodIPs[0]
	}
	s.QOSClass = QOSClass(d.pod)
	d.conditions(&s)
	return s
}

// phase sums the containers up.
func (d *decision) phase() v1.PodPhase {
	if terminal(d.pod.Status.Phase) {
		return d.pod.Status.Phase
	}
	allStopped := !d.busy()
	if d.failed != nil && allStopped {
		return v1.PodFailed
	}
	if d.deleted() && allStopped && d.anyRan() {
		return d.outcome()
	}
	if phase, decided := d.initPhase(); decided {
		return phase
	}
	var waiting, running, ended int
	for i := range d.pod.Spec.Containers {
		c := d.obs.Containers[d.pod.Spec.Containers[i].Name]
		switch {
		case c.Phase == Running || c.Phase == Stopping:
			running++
		case c.Current != nil:
			ended++
		default:
			waiting++
		}
	}
	switch {
	case waiting > 0 && running == 0 && ended == 0, waiting > 0:
		return v1.PodPending
	case running > 0 || !d.finished():
		return v1.PodRunning
	default:
		return d.outcome()
	}
}

func (d *decision) initPhase() (v1.PodPhase, bool) {
	if d.anyStarted() {
		return "", false
	}
	for i := range d.pod.Spec.InitContainers {
		c := &d.pod.Spec.InitContainers[i]
		state := d.obs.Containers[c.Name]
		if restartable(c) {
			if !state.Started {
				return v1.PodPending, true
			}
			continue
		}
		if d.initDone(c.Name) {
			continue
		}
		if d.endedForGood(c.Name) && !d.busy() {
			return v1.PodFailed, true
		}
		return v1.PodPending, true
	}
	return "", false
}

func (d *decision) busy() bool {
	for _, c := range allContainers(d.pod) {
		switch d.obs.Containers[c.Name].Phase {
		case Starting, Running, Stopping:
			return true
		}
	}
	return false
}

func (d *decision) anyRan() bool {
	for _, c := range allContainers(d.pod) {
		if d.obs.Containers[c.Name].Current != nil {
			return true
		}
	}
	return false
}

// outcome of a pod whose containers have all ended.
func (d *decision) outcome() v1.PodPhase {
	for i := range d.pod.Spec.Containers {
		c := d.obs.Containers[d.pod.Spec.Containers[i].Name]
		if c.Current == nil || c.Current.Code != 0 {
			return v1.PodFailed
		}
	}
	return v1.PodSucceeded
}

func (d *decision) containerStatuses(containers []v1.Container, init bool) []v1.ContainerStatus {
	if len(containers) == 0 {
		return nil
	}
	out := make([]v1.ContainerStatus, 0, len(containers))
	for i := range containers {
		out = append(out, d.containerStatus(&containers[i], init))
	}
	return out
}

func (d *decision) containerStatus(c *v1.Container, init bool) v1.ContainerStatus {
	obs := d.obs.Containers[c.Name]
	started := obs.Phase == Running && obs.Started
	s := v1.ContainerStatus{
		Name: c.Name, Image: c.Image, ImageID: obs.ImageID, RestartCount: int32(obs.Attempt), Started: &started,
	}
	if obs.Image != "" {
		s.Image = obs.Image
	}
	if obs.ID != "" {
		s.ContainerID = "containerd://" + obs.ID
	}
	s.Ready = obs.Phase == Running && obs.Ready && !(d.deleted())
	if init && !restartable(c) {
		s.Ready = obs.Phase == Exited && obs.Current != nil && obs.Current.Code == 0
	}
	s.State, s.LastTerminationState = d.states(c, obs, init)
	return s
}

func (d *decision) states(c *v1.Container, obs Container, init bool) (now, last v1.ContainerState) {
	last.Terminated = terminated(obs.Last)
	if obs.Phase == Running || obs.Phase == Stopping {
		now.Running = &v1.ContainerStateRunning{StartedAt: metav1.NewTime(obs.StartedAt.Truncate(time.Second))}
		return now, last
	}
	waiting := d.waiting(c, obs, init)
	switch {
	case obs.Current == nil:
		now.Waiting = waiting
	case waiting != nil && !d.stopping():
		now.Waiting = waiting
		last.Terminated = terminated(obs.Current)
	default:
		now.Terminated = terminated(obs.Current)
	}
	return now, last
}

// waiting says why a container that does not run does not, or nil when it has ended and nothing holds up its next attempt.
func (d *decision) waiting(c *v1.Container, obs Container, init bool) *v1.ContainerStateWaiting {
	switch {
	case obs.WaitingReason != "":
		return &v1.ContainerStateWaiting{Reason: obs.WaitingReason, Message: obs.WaitingMessage}
	case obs.Current != nil:
		if (!init && d.endedForGood(c.Name)) || (init && !restartable(c) && obs.Current.Code == 0) || obs.Backoff == 0 {
			return nil
		}
		if d.obs.Now.Before(obs.Current.FinishedAt.Add(obs.Backoff)) {
			return &v1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: BackoffMessage(d.pod, c.Name, obs.Backoff)}
		}
		return nil
	case len(d.pod.Spec.InitContainers) > 0 && (!init || obs.Phase == None):
		return &v1.ContainerStateWaiting{Reason: "PodInitializing"}
	default:
		return &v1.ContainerStateWaiting{Reason: "ContainerCreating"}
	}
}

// BackoffMessage is the message of CrashLoopBackOff as clients know it.
func BackoffMessage(pod *v1.Pod, container string, wait time.Duration) string {
	return fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)", wait, container, pod.Name, pod.Namespace, pod.UID)
}

func terminated(e *Exit) *v1.ContainerStateTerminated {
	if e == nil {
		return nil
	}
	t := &v1.ContainerStateTerminated{
		ExitCode: int32(e.Code), Reason: e.Reason, Message: e.Message,
		StartedAt: metav1.NewTime(e.StartedAt.Truncate(time.Second)), FinishedAt: metav1.NewTime(e.FinishedAt.Truncate(time.Second)),
	}
	if e.ContainerID != "" {
		t.ContainerID = "containerd://" + e.ContainerID
	}
	return t
}

// conditions sets the conditions that the node owns.
func (d *decision) conditions(s *v1.PodStatus) {
	d.setCondition(s, v1.PodReadyToStartContainers, boolStatus(d.obs.SandboxReady), "", "")
	status, reason, message := d.initialized(s)
	d.setCondition(s, v1.PodInitialized, status, reason, message)
	status, reason, message = d.containersReady(s)
	d.setCondition(s, v1.ContainersReady, status, reason, message)
	if status == v1.ConditionTrue {
		status, reason, message = gates(d.pod, s)
	}
	d.setCondition(s, v1.PodReady, status, reason, message)
}

func boolStatus(b bool) v1.ConditionStatus {
	if b {
		return v1.ConditionTrue
	}
	return v1.ConditionFalse
}

func (d *decision) initialized(s *v1.PodStatus) (v1.ConditionStatus, string, string) {
	if s.Phase == v1.PodSucceeded {
		return v1.ConditionTrue, "PodCompleted", ""
	}
	if d.anyStarted() {
		return v1.ConditionTrue, "", ""
	}
	var missing []string
	for i := range d.pod.Spec.InitContainers {
		c := &d.pod.Spec.InitContainers[i]
		if restartable(c) && d.obs.Containers[c.Name].Started || !restartable(c) && d.initDone(c.Name) {
			continue
		}
		missing = append(missing, c.Name)
	}
	if len(missing) == 0 {
		return v1.ConditionTrue, "", ""
	}
	return v1.ConditionFalse, "ContainersNotInitialized", fmt.Sprintf("containers with incomplete status: [%s]", strings.Join(missing, " "))
}

func (d *decision) containersReady(s *v1.PodStatus) (v1.ConditionStatus, string, string) {
	switch s.Phase {
	case v1.PodSucceeded:
		return v1.ConditionFalse, "PodCompleted", ""
	case v1.PodFailed:
		return v1.ConditionFalse, "PodFailed", ""
	}
	var unready []string
	for i, c := range s.InitContainerStatuses {
		if restartable(&d.pod.Spec.InitContainers[i]) && !c.Ready {
			unready = append(unready, c.Name)
		}
	}
	for _, c := range s.ContainerStatuses {
		if !c.Ready {
			unready = append(unready, c.Name)
		}
	}
	if len(unready) == 0 {
		return v1.ConditionTrue, "", ""
	}
	return v1.ConditionFalse, "ContainersNotReady", fmt.Sprintf("containers with unready status: [%s]", strings.Join(unready, " "))
}

// gates is the Ready condition of a pod whose containers are ready.
func gates(pod *v1.Pod, s *v1.PodStatus) (v1.ConditionStatus, string, string) {
	var messages []string
	for _, gate := range pod.Spec.ReadinessGates {
		c := condition(s, gate.ConditionType)
		switch {
		case c == nil:
			messages = append(messages, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", string(gate.ConditionType)))
		case c.Status != v1.ConditionTrue:
			messages = append(messages, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", string(gate.ConditionType), c.Status))
		}
	}
	if len(messages) > 0 {
		return v1.ConditionFalse, "ReadinessGatesNotReady", strings.Join(messages, ", ")
	}
	return v1.ConditionTrue, "", ""
}

func condition(s *v1.PodStatus, t v1.PodConditionType) *v1.PodCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

func (d *decision) setCondition(s *v1.PodStatus, t v1.PodConditionType, status v1.ConditionStatus, reason, message string) {
	c := condition(s, t)
	if c == nil {
		s.Conditions = append(s.Conditions, v1.PodCondition{Type: t})
		c = &s.Conditions[len(s.Conditions)-1]
	}
	if c.Status != status {
		c.LastTransitionTime = metav1.NewTime(d.obs.Now.Truncate(time.Second))
	}
	c.Status, c.Reason, c.Message = status, reason, message
	c.ObservedGeneration = d.pod.Generation
}
