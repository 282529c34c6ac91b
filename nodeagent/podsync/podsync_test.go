// SPDX-License-Identifier: Apache-2.0

package podsync

import (
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func pod(policy v1.RestartPolicy, change ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"},
		Spec:       v1.PodSpec{RestartPolicy: policy, Containers: []v1.Container{{Name: "a"}, {Name: "b"}}},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func withInit(p *v1.Pod) { p.Spec.InitContainers = []v1.Container{{Name: "i"}, {Name: "j"}} }

func withSidecar(p *v1.Pod) {
	always := v1.ContainerRestartPolicyAlways
	p.Spec.InitContainers = []v1.Container{{Name: "side", RestartPolicy: &always}, {Name: "i"}}
}

func deleted(p *v1.Pod) {
	t := metav1.NewTime(now)
	grace := int64(7)
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &t, &grace
}

func running() Container {
	return Container{Phase: Running, ID: "x", Started: true, Ready: true, StartedAt: now.Add(-time.Hour)}
}

func stopping(left time.Duration) Container {
	return Container{Phase: Stopping, ID: "x", StopBy: now.Add(left)}
}

func exited(code, attempt int, ago, backoff time.Duration) Container {
	return Container{Phase: Exited, ID: "x", Attempt: attempt, Backoff: backoff,
		Current: &Exit{Code: code, Attempt: attempt, FinishedAt: now.Add(-ago), Reason: "Error"}}
}

type states map[string]Container

// text is a plan in one line: actions, phase, and states of containers that are not running.
func text(p Plan) string {
	var parts []string
	for _, a := range p.Actions {
		s := []string{"start", "stop", "teardown", "finish"}[a.Kind]
		if a.Container != "" {
			s += " " + a.Container
		}
		if a.Kind == Start && a.Attempt > 0 {
			s += fmt.Sprintf("#%d", a.Attempt)
		}
		if a.Kind == Stop {
			s += fmt.Sprintf(" %s", a.Grace)
		}
		parts = append(parts, s)
	}
	out := strings.Join(parts, ", ") + " | " + string(p.Status.Phase)
	for _, c := range append(append([]v1.ContainerStatus{}, p.Status.InitContainerStatuses...), p.Status.ContainerStatuses...) {
		switch {
		case c.State.Waiting != nil:
			out += " " + c.Name + ":" + c.State.Waiting.Reason
		case c.State.Terminated != nil:
			out += fmt.Sprintf(" %s:%d", c.Name, c.State.Terminated.ExitCode)
		case c.Ready:
			out += " " + c.Name + ":ready"
		default:
			out += " " + c.Name + ":running"
		}
	}
	return out
}

func TestDecide(t *testing.T) {
	always, onFailure, never := v1.RestartPolicyAlways, v1.RestartPolicyOnFailure, v1.RestartPolicyNever
	sec := time.Second
	for _, c := range []struct {
		name string
		pod  *v1.Pod
		obs  states
		more func(*Observed)
		want string
	}{
		{"a new pod starts all containers at once", pod(always), nil, nil, "start a, start b | Pending a:ContainerCreating b:ContainerCreating"},
		{"what is starting is not started twice", pod(always), states{"a": {Phase: Starting}}, nil, "start b | Pending a:ContainerCreating b:ContainerCreating"},
		{"all running needs nothing", pod(always), states{"a": running(), "b": running()}, nil, " | Running a:ready b:ready"},
		{"init containers come one by one", pod(always, withInit), nil, nil, "start i | Pending i:PodInitializing j:PodInitializing a:PodInitializing b:PodInitializing"},
		{"the second init container follows the first", pod(always, withInit), states{"i": exited(0, 0, sec, 0)}, nil, "start j | Pending i:0 j:PodInitializing a:PodInitializing b:PodInitializing"},
		{"after the last init container the others start", pod(always, withInit), states{"i": exited(0, 0, sec, 0), "j": exited(0, 0, sec, 0)}, nil, "start a, start b | Pending i:0 j:0 a:PodInitializing b:PodInitializing"},
		{"a failed init container is tried again at once, the first time", pod(always, withInit), states{"i": exited(1, 0, sec, 0)}, nil, "start i#1 | Pending i:1 j:PodInitializing a:PodInitializing b:PodInitializing"},
		{"a failed init container fails a pod that never restarts", pod(never, withInit), states{"i": exited(1, 0, sec, 0)}, nil, "teardown | Failed i:1 j:PodInitializing a:PodInitializing b:PodInitializing"},
		{"a crash is restarted at once the first time", pod(always), states{"a": exited(1, 0, sec, 0), "b": running()}, nil, "start a#1 | Running a:1 b:ready"},
		{"a second crash waits", pod(always), states{"a": exited(1, 1, sec, 10*sec), "b": running()}, nil, " | Running a:CrashLoopBackOff b:ready"},
		{"and goes on when the wait is over", pod(always), states{"a": exited(1, 1, 10*sec, 10*sec), "b": running()}, nil, "start a#2 | Running a:1 b:ready"},
		{"success is restarted, too, when the policy is Always", pod(always), states{"a": exited(0, 0, sec, 0), "b": running()}, nil, "start a#1 | Running a:0 b:ready"},
		{"OnFailure leaves success alone", pod(onFailure), states{"a": exited(0, 0, sec, 0), "b": running()}, nil, " | Running a:0 b:ready"},
		{"OnFailure restarts failure", pod(onFailure), states{"a": exited(2, 0, sec, 0), "b": running()}, nil, "start a#1 | Running a:2 b:ready"},
		{"Never and all well is success", pod(never), states{"a": exited(0, 0, sec, 0), "b": exited(0, 0, sec, 0)}, nil, "teardown | Succeeded a:0 b:0"},
		{"Never and one bad is failure", pod(never), states{"a": exited(0, 0, sec, 0), "b": exited(3, 0, sec, 0)}, nil, "teardown | Failed a:0 b:3"},
		{"a container that cannot be made waits for its retry", pod(always), states{"a": {WaitingReason: "ErrImagePull", RetryAt: now.Add(sec)}, "b": running()}, nil, " | Pending a:ErrImagePull b:ready"},
		{"a pod past its deadline is stopped", pod(always, func(p *v1.Pod) { s := int64(60); p.Spec.ActiveDeadlineSeconds = &s }), states{"a": running(), "b": running()},
			func(o *Observed) { o.StartTime = now.Add(-time.Minute) }, "stop a 30s, stop b 30s | Running a:ready b:ready"},
		{"and has failed when all is stopped", pod(always, func(p *v1.Pod) { s := int64(60); p.Spec.ActiveDeadlineSeconds = &s }), states{"a": exited(137, 0, sec, 0), "b": exited(137, 0, sec, 0)},
			func(o *Observed) { o.StartTime = now.Add(-time.Hour) }, "teardown | Failed a:137 b:137"},
		{"deletion stops with the grace of the deletion", pod(always, deleted), states{"a": running(), "b": {Phase: Stopping, ID: "y"}}, nil, "stop a 7s | Running a:running b:running"},
		{"a shorter grace period shortens a stop under way", pod(always, deleted), states{"a": stopping(20 * sec), "b": stopping(7 * sec)}, nil, "stop a 7s | Running a:running b:running"},
		{"a longer one does not lengthen it", pod(always, deleted), states{"a": stopping(5 * sec), "b": exited(0, 0, sec, 0)}, nil, " | Running a:running b:0"},
		{"an object that is gone leaves a second, whatever its pod asked for", pod(always), states{"a": stopping(20 * sec), "b": running()}, func(o *Observed) { o.Gone = true }, "stop a 1s, stop b 1s | Running a:running b:running"},
		{"a start under way is waited for", pod(always, deleted), states{"a": {Phase: Starting}}, nil, " | Pending a:ContainerCreating b:ContainerCreating"},
		{"stopped containers, then teardown", pod(always, deleted), states{"a": exited(0, 0, sec, 0), "b": exited(143, 0, sec, 0)}, nil, "teardown | Failed a:0 b:143"},
		{"teardown, then the object", pod(always, deleted), states{"a": exited(0, 0, sec, 0), "b": exited(0, 0, sec, 0)}, func(o *Observed) { o.TornDown = true }, "finish | Succeeded a:0 b:0"},
		{"an object that is gone is not finished again", pod(always), states{"a": exited(0, 0, sec, 0), "b": exited(0, 0, sec, 0)}, func(o *Observed) { o.TornDown, o.Gone = true, true }, " | Succeeded a:0 b:0"},
		{"an unhealthy container is stopped", pod(always), states{"a": func() Container { c := running(); c.Unhealthy = "liveness"; return c }(), "b": running()}, nil, "stop a 30s | Running a:ready b:ready"},
		{"a changed definition restarts", pod(always), states{"a": func() Container { c := running(); c.SpecHash = "1"; return c }(), "b": running()},
			func(o *Observed) { o.SpecHash = map[string]string{"a": "2"} }, "stop a 30s | Running a:ready b:ready"},
		{"a sidecar must have started before the next", pod(always, withSidecar), states{"side": {Phase: Running, ID: "s"}}, nil, " | Pending side:running i:PodInitializing a:PodInitializing b:PodInitializing"},
		{"and keeps running beside the others", pod(always, withSidecar), states{"side": running(), "i": exited(0, 0, sec, 0)}, nil, "start a, start b | Pending side:ready i:0 a:PodInitializing b:PodInitializing"},
		{"a sidecar stops after the others", pod(always, withSidecar, deleted), states{"side": running(), "i": exited(0, 0, sec, 0), "a": running(), "b": exited(0, 0, sec, 0)}, nil, "stop a 7s | Running side:running i:0 a:running b:0"},
		{"last of all", pod(always, withSidecar, deleted), states{"side": running(), "i": exited(0, 0, sec, 0), "a": exited(0, 0, sec, 0), "b": exited(0, 0, sec, 0)}, nil, "stop side 7s | Running side:running i:0 a:0 b:0"},
		{"init containers whose records are gone do not run again", pod(always, withInit), states{"a": running(), "b": running()}, nil, " | Running i:PodInitializing j:PodInitializing a:ready b:ready"},
		{"a pod that the API calls evicted stops", pod(always, func(p *v1.Pod) { p.Status.Phase, p.Status.Reason = v1.PodFailed, "Evicted" }), states{"a": running(), "b": exited(0, 0, sec, 0)}, nil, "stop a 30s | Failed a:ready b:0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			obs := Observed{Now: now, StartTime: now.Add(-time.Second), SandboxReady: true, Containers: c.obs}
			if c.more != nil {
				c.more(&obs)
			}
			if got := text(Decide(c.pod, obs)); got != c.want {
				t.Errorf("\n got %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestConditions(t *testing.T) {
	p := pod(v1.RestartPolicyAlways, func(p *v1.Pod) {
		p.Spec.ReadinessGates = []v1.PodReadinessGate{{ConditionType: "example.com/gate"}}
		p.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionTrue}, {Type: v1.PodReady, Status: v1.ConditionFalse, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))}}
	})
	obs := Observed{Now: now, Containers: states{"a": running(), "b": {Phase: Running, ID: "y", Started: true}}}
	for _, c := range []struct {
		name string
		do   func()
		want string
	}{
		{"one container is not ready", func() {}, "False ContainersNotReady containers with unready status: [b]"},
		{"the gate is missing", func() { obs.Containers["b"] = running() }, `False ReadinessGatesNotReady corresponding condition of pod readiness gate "example.com/gate" does not exist.`},
		{"the gate opens", func() {
			p.Status.Conditions = append(p.Status.Conditions, v1.PodCondition{Type: "example.com/gate", Status: v1.ConditionTrue})
		}, "True  "},
	} {
		c.do()
		s := Decide(p, obs).Status
		got := condition(&s, v1.PodReady)
		if text := fmt.Sprintf("%s %s %s", got.Status, got.Reason, got.Message); text != c.want {
			t.Errorf("%s: %s, want %s", c.name, text, c.want)
		}
		if old := got.Status == v1.ConditionFalse; old != got.LastTransitionTime.Time.Equal(now.Add(-time.Hour)) {
			t.Errorf("%s: transition at %s", c.name, got.LastTransitionTime)
		}
		if condition(&s, v1.PodScheduled) == nil {
			t.Errorf("%s: a condition of others was dropped", c.name)
		}
	}
}

func TestBackoff(t *testing.T) {
	var got []string
	wait := time.Duration(0)
	for attempt := range 9 {
		wait = NextBackoff(wait, attempt, time.Second)
		got = append(got, wait.String())
	}
	if s := strings.Join(got, " "); s != "0s 10s 20s 40s 1m20s 2m40s 5m0s 5m0s 5m0s" {
		t.Error(s)
	}
	if d := NextBackoff(5*time.Minute, 9, 10*time.Minute); d != 0 {
		t.Errorf("after a long run: %s", d)
	}
}
