// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skep.dev/skep/nodeagent/podsync"
)

// terminate marks a pod for deletion, or marks it again with another grace period.
func (n *node) terminate(name string, seconds int64) {
	n.t.Helper()
	pods := n.client.CoreV1().Pods("default")
	pod, err := pods.Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	if pod.DeletionTimestamp == nil {
		now := metav1.Now()
		pod.DeletionTimestamp = &now
	}
	pod.DeletionGracePeriodSeconds = &seconds
	if _, err := pods.Update(context.Background(), pod, metav1.UpdateOptions{}); err != nil {
		n.t.Fatal(err)
	}
}

func TestASecondDeletionShortensTheStop(t *testing.T) {
	n := newNode(t)
	n.up()
	stubborn := func(name string, hook *v1.LifecycleHandler) *v1.Pod {
		pod := testPod(name, shell("main", "trap '' TERM; while true; do sleep 0.1; done"))
		if hook != nil {
			pod.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PreStop: hook}
		}
		return pod
	}
	sleep := &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 50}}
	command := &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"sleep", "50"}}}
	again := func(name string) { n.terminate(name, 1) }
	forced := func(name string) {
		none := int64(0)
		if err := n.client.CoreV1().Pods("default").Delete(context.Background(), name, metav1.DeleteOptions{GracePeriodSeconds: &none}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name   string
		hook   *v1.LifecycleHandler
		second func(name string)
	}{
		{"again", nil, again},
		{"again-in-hook", sleep, again},
		{"again-in-command", command, again},
		{"forced", nil, forced},
		{"forced-in-hook", sleep, forced},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := stubborn(c.name, c.hook)
			n.create(pod)
			n.await(c.name, "readiness", isReady)
			w := n.agent.worker(pod.UID)
			n.terminate(c.name, 60)
			waitFor(t, "stop under way", func() bool { s, ok := w.ask("main"); return ok && s.Phase == podsync.Stopping })
			begin := time.Now()
			c.second(c.name)
			waitFor(t, "end of the pod", func() bool { return n.agent.worker(pod.UID) == nil })
			if took := time.Since(begin); took > 3*time.Second {
				t.Errorf("stopped %v after the shorter grace period of a second was known", took)
			}
		})
	}
}
