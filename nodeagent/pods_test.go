// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPodRunsAndGoesAway(t *testing.T) {
	n := newNode(t)
	n.up()
	pod := testPod("web", shell("main", "echo $GREETING from $(hostname); cat /config/key; trap 'exit 0' TERM; while true; do sleep 0.1; done"))
	pod.Spec.InitContainers = []v1.Container{shell("init", "echo prepared > /shared/file; echo init done")}
	shared := v1.VolumeMount{Name: "shared", MountPath: "/shared"}
	pod.Spec.InitContainers[0].VolumeMounts = []v1.VolumeMount{shared}
	pod.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{shared, {Name: "config", MountPath: "/config"}}
	pod.Spec.Containers[0].Env = []v1.EnvVar{{Name: "WHO", Value: "you"}, {Name: "GREETING", Value: "hello $(WHO)"}}
	pod.Spec.Volumes = []v1.Volume{
		{Name: "shared", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
		{Name: "config", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "conf"}}}},
	}
	if _, err := n.client.CoreV1().ConfigMaps("default").Create(context.Background(), &v1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "conf", Namespace: "default"}, Data: map[string]string{"key": "value\n"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	n.create(pod)
	got := n.await("web", "readiness", isReady)
	if got.Status.Phase != v1.PodRunning || got.Status.PodIP != "127.0.0.1" || got.Status.HostIP == "" || got.Status.StartTime == nil || got.Status.QOSClass != v1.PodQOSBestEffort {
		t.Errorf("status %+v", got.Status)
	}
	if s := got.Status.InitContainerStatuses[0]; s.State.Terminated == nil || s.State.Terminated.Reason != "Completed" || !s.Ready {
		t.Errorf("init status %+v", s)
	}
	c := got.Status.ContainerStatuses[0]
	if !strings.HasPrefix(c.ContainerID, "containerd://") || !strings.Contains(c.ImageID, "@sha256:") || c.Started == nil || !*c.Started {
		t.Errorf("container status %+v", c)
	}
	waitFor(t, "output", func() bool {
		log := n.log(pod, "main", 0)
		return strings.Contains(log, "stdout F hello you from web\n") && strings.Contains(log, "stdout F value\n")
	})
	if log := n.log(pod, "init", 0); !strings.Contains(log, "init done") {
		t.Errorf("init log %q", log)
	}

	w := n.agent.worker(pod.UID)
	code, out, err := n.agent.execOutput(context.Background(), w.containers["main"].ID, []string{"sh", "-c", "cat /shared/file /etc/resolv.conf /proc/1/cgroup"})
	if err != nil || code != 0 {
		t.Fatalf("exec: %d %v %s", code, err, out)
	}
	for _, want := range []string{"prepared", "nameserver 10.96.0.10", "search default.svc.cluster.local svc.cluster.local cluster.local", "ndots:5", n.cfg.CgroupParent + "/podweb-uid/"} {
		if !strings.Contains(out, want) {
			t.Errorf("exec output lacks %q:\n%s", want, out)
		}
	}
	n.remove("web")
	if left := n.uids(); len(left) != 0 {
		t.Errorf("left on the node: %v", left)
	}
	events := strings.Join(n.recorded(), "\n")
	for _, want := range []string{"Normal Pulled Container image", "Normal Created Container created", "Normal Started Container started", "Normal Killing Stopping container main"} {
		if !strings.Contains(events, want) {
			t.Errorf("no event %q in:\n%s", want, events)
		}
	}
}

// remove deletes a pod as kubectl does: the API marks it, the agent finishes it.
func (n *node) remove(name string) {
	n.t.Helper()
	pods := n.client.CoreV1().Pods("default")
	pod, err := pods.Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	now := metav1.Now()
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &now, pod.Spec.TerminationGracePeriodSeconds
	if _, err := pods.Update(context.Background(), pod, metav1.UpdateOptions{}); err != nil {
		n.t.Fatal(err)
	}
	waitFor(n.t, "deletion of "+name, func() bool {
		_, err := pods.Get(context.Background(), name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	waitFor(n.t, "end of its worker", func() bool { return n.agent.worker(pod.UID) == nil })
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("no %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestNoContainerStartsBeforeItsPolicy(t *testing.T) {
	n := newNode(t)
	n.gate = gate{hold: make(chan struct{}), current: make(chan struct{}), known: make(chan struct{})}
	n.up()
	pod := testPod("gated", shell("main", "echo ran; sleep 600"))
	n.create(pod)
	// The address must be in the API before the policy is in force, or nobody could enforce it.
	n.await("gated", "address", func(p *v1.Pod) bool { return p.Status.PodIP != "" })
	waitFor(t, "created container", func() bool {
		list, err := n.agent.runtime.List(context.Background())
		return err == nil && len(list) == 1 && list[0].State == 1
	})
	for _, gate := range []chan struct{}{n.gate.hold, n.gate.current, n.gate.known} {
		if log := n.log(pod, "main", 0); strings.Contains(log, "ran") || isReady(n.await("gated", "pod", func(*v1.Pod) bool { return true })) {
			t.Fatal("the container ran without policy, or under one that is older than the pod")
		}
		close(gate)
	}
	n.await("gated", "readiness", isReady)
}

func TestRestartOfTheAgentRestartsNothing(t *testing.T) {
	n := newNode(t)
	n.up()
	script := "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.01; done"
	pod := testPod("steady", shell("main", script))
	pod.Spec.Containers[0].ReadinessProbe = &v1.Probe{PeriodSeconds: 1, ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"true"}}}}
	n.create(pod)
	before := n.await("steady", "readiness", isReady)
	job := testPod("job", shell("main", "exit 0"))
	job.Spec.RestartPolicy = v1.RestartPolicyNever
	n.create(job)
	n.await("job", "success", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodSucceeded })

	n.stop()
	flips := n.watchReady("steady")
	n.up()
	waitFor(t, "adoption", func() bool { return n.agent.worker(pod.UID) != nil })
	w := n.agent.worker(pod.UID)
	waitFor(t, "adopted container", func() bool { c, ok := w.ask("main"); return ok && c.Ready })
	// A change that only the new agent can make proves that it is in charge.
	after := n.await("steady", "same status", isReady)
	if flips() {
		t.Error("Ready flipped")
	}
	a, b := before.Status.ContainerStatuses[0], after.Status.ContainerStatuses[0]
	if a.ContainerID != b.ContainerID || b.RestartCount != 0 {
		t.Errorf("container changed: %v -> %v", a, b)
	}
	if at := n.log(pod, "main", 0); !contiguous(at) {
		t.Error("lines were lost while no agent ran")
	}
	if got := n.await("job", "success", func(p *v1.Pod) bool { return true }); got.Status.Phase != v1.PodSucceeded || got.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("finished pod changed: %s", summary(got))
	}
	n.remove("steady")
	n.remove("job")
}

// watchReady reports whether Ready was ever other than true from now on.
func (n *node) watchReady(name string) func() bool {
	w, err := n.client.CoreV1().Pods("default").Watch(context.Background(), metav1.ListOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	return func() bool {
		w.Stop()
		flipped := false
		for e := range w.ResultChan() {
			if pod, ok := e.Object.(*v1.Pod); ok && pod.Name == name && !isReady(pod) {
				flipped = true
			}
		}
		return flipped
	}
}

func contiguous(log string) bool {
	next := 1
	for line := range strings.Lines(log) {
		_, text, _ := strings.Cut(strings.TrimSpace(line), " F ")
		var n int
		if _, err := fmt.Sscanf(text, "line %d", &n); err != nil || n != next {
			return false
		}
		next++
	}
	return next > 10
}
