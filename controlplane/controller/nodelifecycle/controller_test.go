// SPDX-License-Identifier: Apache-2.0

package nodelifecycle

import (
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"

	"skep.dev/skep/controlplane/controller/loop"
)

func TestASilentNodeIsNoticedAndForgiven(t *testing.T) {
	clock := time.Unix(100_000, 0)
	silent, talking := node(corev1.ConditionTrue), node(corev1.ConditionTrue)
	silent.Name, talking.Name = "silent", "talking"
	running := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{NodeName: "silent"}}
	running.Status.Phase = corev1.PodRunning
	running.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}, {Type: corev1.ContainersReady, Status: corev1.ConditionTrue}}
	client := fake.NewClientset(silent, talking, running)
	factory := informers.NewSharedInformerFactory(client, 0)
	c := New(loop.Env{
		Client:    client,
		Informers: factory,
		Events:    func(string) record.EventRecorder { return record.NewFakeRecorder(100) },
		Logger:    slog.New(slog.DiscardHandler),
		Now:       func() time.Time { return clock },
	})
	nodes := factory.Core().V1().Nodes().Informer().GetIndexer()
	for _, n := range []*corev1.Node{silent, talking} {
		if err := nodes.Add(n); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.pods.Add(running); err != nil {
		t.Fatal(err)
	}
	look := func() *corev1.Node {
		t.Helper()
		if again, err := c.reconcile(t.Context(), "silent"); err != nil || again != lookAgain {
			t.Fatalf("again %s, err %v", again, err)
		}
		n, err := client.CoreV1().Nodes().Get(t.Context(), "silent", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := nodes.Update(n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	c.hear("silent", "lease 1")
	clock = clock.Add(Grace)
	if n := look(); status(n, corev1.NodeReady) != corev1.ConditionTrue {
		t.Error("taken for silent within its grace")
	}
	c.hear("silent", "lease 1") // the same sign again is no sign
	clock = clock.Add(time.Second)
	n := look()
	if status(n, corev1.NodeReady) != corev1.ConditionUnknown || taintText(n.Spec.Taints) == "" {
		t.Errorf("not noticed: %v %v", n.Status.Conditions, n.Spec.Taints)
	}
	pod, err := client.CoreV1().Pods("ns").Get(t.Context(), "p", metav1.GetOptions{})
	if err != nil || pod.Status.Conditions[0].Status != corev1.ConditionFalse {
		t.Errorf("its pod still counts as ready: %v %v", pod.Status.Conditions, err)
	}
	if err := c.pods.Update(pod); err != nil {
		t.Fatal(err)
	}
	n.Status.Conditions[0].Status = corev1.ConditionTrue // it is back
	if _, err := client.CoreV1().Nodes().UpdateStatus(t.Context(), n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := nodes.Update(n); err != nil {
		t.Fatal(err)
	}
	c.hear("silent", "lease 2")
	if n = look(); len(n.Spec.Taints) != 0 {
		t.Errorf("still tainted: %v", n.Spec.Taints)
	}
	if pod, err = client.CoreV1().Pods("ns").Get(t.Context(), "p", metav1.GetOptions{}); err != nil || pod.Status.Conditions[0].Status != corev1.ConditionTrue {
		t.Errorf("its pod does not come back with it: %v %v", pod.Status.Conditions, err)
	}
}

func TestNobodyIsEvictedWhenAllAreSilent(t *testing.T) {
	clock := time.Unix(100_000, 0)
	only := node(corev1.ConditionUnknown)
	only.Name = "only"
	client := fake.NewClientset(only)
	factory := informers.NewSharedInformerFactory(client, 0)
	c := New(loop.Env{Client: client, Informers: factory, Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return clock },
		Events: func(string) record.EventRecorder { return record.NewFakeRecorder(100) }})
	if err := factory.Core().V1().Nodes().Informer().GetIndexer().Add(only); err != nil {
		t.Fatal(err)
	}
	if c.mayEvict(only) {
		t.Error("would end the pods of the last node")
	}
}
