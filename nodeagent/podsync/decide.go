// SPDX-License-Identifier: Apache-2.0

package podsync

import (
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Decide returns what to do next for pod. previous is the status as the API has it; what other writers put there is kept.
func Decide(pod *v1.Pod, obs Observed) Plan {
	d := decision{pod: pod, obs: obs}
	d.failed = d.failure()
	switch {
	case d.stopping():
		d.shutDown()
	default:
		d.run()
	}
	d.plan.Status = d.status()
	return d.plan
}

type decision struct {
	pod    *v1.Pod
	obs    Observed
	plan   Plan
	failed *failure
}

// failure is a reason of the whole pod, not of a container, to end.
type failure struct{ reason, message string }

func (d *decision) failure() *failure {
	if d.obs.RejectedReason != "" {
		return &failure{d.obs.RejectedReason, d.obs.RejectedMessage}
	}
	// A pod that the API knows as failed for a reason of its own (evicted, past its deadline) stays failed after a restart of the agent.
	if s := d.pod.Status; s.Phase == v1.PodFailed && s.Reason != "" {
		return &failure{s.Reason, s.Message}
	}
	if limit := d.pod.Spec.ActiveDeadlineSeconds; limit != nil && !d.obs.StartTime.IsZero() {
		end := d.obs.StartTime.Add(time.Duration(*limit) * time.Second)
		if !d.obs.Now.Before(end) {
			return &failure{"DeadlineExceeded", "Pod was active on the node longer than the specified deadline"}
		}
		d.wakeAt(end)
	}
	return nil
}

func (d *decision) wakeAt(t time.Time) {
	if d.plan.Wake.IsZero() || t.Before(d.plan.Wake) {
		d.plan.Wake = t
	}
}

func (d *decision) add(a Action) { d.plan.Actions = append(d.plan.Actions, a) }

func (d *decision) deleted() bool { return d.obs.Gone || d.pod.DeletionTimestamp != nil }

// stopping says that no container may start any more.
func (d *decision) stopping() bool {
	return d.deleted() || d.failed != nil || d.finished()
}

func terminal(p v1.PodPhase) bool { return p == v1.PodSucceeded || p == v1.PodFailed }

// finished says that all containers have ended and the restart policy lets them rest.
func (d *decision) finished() bool {
	if d.pod.Spec.RestartPolicy == v1.RestartPolicyAlways || d.pod.Spec.RestartPolicy == "" {
		return false
	}
	if terminal(d.pod.Status.Phase) {
		return true
	}
	for i := range d.pod.Spec.InitContainers {
		c := &d.pod.Spec.InitContainers[i]
		if !restartable(c) && d.endedForGood(c.Name) && d.obs.Containers[c.Name].Current.Code != 0 {
			return true
		}
	}
	for i := range d.pod.Spec.Containers {
		if !d.endedForGood(d.pod.Spec.Containers[i].Name) {
			return false
		}
	}
	return true
}

// restartable says that an init container runs beside the others (a sidecar).
func restartable(c *v1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
}

// endedForGood says that a container has ended and will not be started again.
func (d *decision) endedForGood(name string) bool {
	c := d.obs.Containers[name]
	if c.Phase != Exited || c.Current == nil {
		return false
	}
	switch d.pod.Spec.RestartPolicy {
	case v1.RestartPolicyNever:
		return true
	case v1.RestartPolicyOnFailure:
		return c.Current.Code == 0
	default:
		return false
	}
}

// run brings the pod forward.
func (d *decision) run() {
	d.restartUnfit()
	for i := range d.pod.Spec.InitContainers {
		c := &d.pod.Spec.InitContainers[i]
		state := d.obs.Containers[c.Name]
		if restartable(c) {
			d.startIfDue(c.Name)
			if !state.Started || state.Phase != Running {
				if !d.anyStarted() {
					return
				}
			}
			continue
		}
		if d.initDone(c.Name) {
			continue
		}
		d.startIfDue(c.Name)
		return
	}
	for i := range d.pod.Spec.Containers {
		c := &d.pod.Spec.Containers[i]
		if !d.endedForGood(c.Name) {
			d.startIfDue(c.Name)
		}
	}
}

// anyStarted says that the init stage is behind: a restartable init container that crashes later holds up nobody.
func (d *decision) anyStarted() bool {
	for i := range d.pod.Spec.Containers {
		c := d.obs.Containers[d.pod.Spec.Containers[i].Name]
		if c.ID != "" || c.Current != nil {
			return true
		}
	}
	return false
}

// initDone says that an init container has done its work. Once a main container has run that is taken for granted: init
// containers do not run again when their records are gone.
func (d *decision) initDone(name string) bool {
	c := d.obs.Containers[name]
	if c.Phase == Exited && c.Current != nil && c.Current.Code == 0 {
		return true
	}
	return c.Phase == None && d.anyStarted()
}

// startIfDue starts a container that is not running, unless it has to wait.
func (d *decision) startIfDue(name string) {
	c := d.obs.Containers[name]
	switch c.Phase {
	case None:
		if d.obs.Now.Before(c.RetryAt) {
			d.wakeAt(c.RetryAt)
			return
		}
		d.add(Action{Kind: Start, Container: name, Attempt: nextAttempt(c)})
	case Exited:
		due := c.Current.FinishedAt.Add(c.Backoff)
		if c.RetryAt.After(due) {
			due = c.RetryAt
		}
		if d.obs.Now.Before(due) {
			d.wakeAt(due)
			return
		}
		d.add(Action{Kind: Start, Container: name, Attempt: nextAttempt(c)})
	}
}

func nextAttempt(c Container) int {
	if c.Current != nil {
		return c.Current.Attempt + 1
	}
	return c.Attempt
}

// restartUnfit stops running containers that a probe condemned or whose definition has changed.
func (d *decision) restartUnfit() {
	for _, c := range allContainers(d.pod) {
		state := d.obs.Containers[c.Name]
		if state.Phase != Running {
			continue
		}
		want := d.obs.SpecHash[c.Name]
		switch {
		case state.Unhealthy != "":
			d.add(Action{Kind: Stop, Container: c.Name, Grace: d.probeGrace(c, state.Unhealthy),
				Reason: fmt.Sprintf("Container %s failed %s probe, will be restarted", c.Name, state.Unhealthy)})
		case want != "" && state.SpecHash != "" && want != state.SpecHash:
			d.add(Action{Kind: Stop, Container: c.Name, Grace: d.grace(),
				Reason: fmt.Sprintf("Container %s definition changed, will be restarted", c.Name)})
		}
	}
}

func allContainers(pod *v1.Pod) []*v1.Container {
	out := make([]*v1.Container, 0, len(pod.Spec.InitContainers)+len(pod.Spec.Containers))
	for i := range pod.Spec.InitContainers {
		out = append(out, &pod.Spec.InitContainers[i])
	}
	for i := range pod.Spec.Containers {
		out = append(out, &pod.Spec.Containers[i])
	}
	return out
}

// minGrace is what even a forced deletion gives a process to hear of it.
const minGrace = time.Second

func (d *decision) grace() time.Duration {
	if d.obs.Gone {
		// Nobody has waited for this stop: the object was removed without it.
		return minGrace
	}
	seconds := int64(30)
	if s := d.pod.Spec.TerminationGracePeriodSeconds; s != nil {
		seconds = *s
	}
	if s := d.pod.DeletionGracePeriodSeconds; d.pod.DeletionTimestamp != nil && s != nil {
		seconds = *s
	}
	return max(time.Duration(seconds)*time.Second, minGrace)
}

func (d *decision) probeGrace(c *v1.Container, kind string) time.Duration {
	probe := c.LivenessProbe
	if kind == "startup" {
		probe = c.StartupProbe
	}
	if probe != nil && probe.TerminationGracePeriodSeconds != nil {
		return max(time.Duration(*probe.TerminationGracePeriodSeconds)*time.Second, minGrace)
	}
	return d.grace()
}

// shutDown stops containers, then the pod.
func (d *decision) shutDown() {
	if d.stopAll() || d.obs.TornDown && !d.deleted() {
		return
	}
	if !d.obs.TornDown {
		d.add(Action{Kind: Teardown})
		return
	}
	if !d.obs.Gone {
		d.add(Action{Kind: Finish})
	}
}

// stopAll stops the main containers, then restartable init containers last first. It returns whether any is still there.
func (d *decision) stopAll() bool {
	busy := false
	for i := range d.pod.Spec.Containers {
		busy = d.stop(d.pod.Spec.Containers[i].Name) || busy
	}
	for i := range d.pod.Spec.InitContainers {
		if c := &d.pod.Spec.InitContainers[i]; !restartable(c) {
			busy = d.stop(c.Name) || busy
		}
	}
	for i := len(d.pod.Spec.InitContainers) - 1; i >= 0 && !busy; i-- {
		busy = d.stop(d.pod.Spec.InitContainers[i].Name)
	}
	return busy
}

func (d *decision) stop(name string) bool {
	c, stop := d.obs.Containers[name], Action{Kind: Stop, Container: name, Grace: d.grace(), Reason: "Stopping container " + name}
	switch c.Phase {
	case Running:
		d.add(stop)
		return true
	case Stopping:
		// Deleted once more with less time, or for good: what counts is the time from now.
		if d.obs.Now.Add(stop.Grace).Before(c.StopBy) {
			d.add(stop)
		}
		return true
	case Starting:
		return true
	default:
		return false
	}
}
