// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"skep.dev/skep/controlplane/scheduler/place"
)

func testNode(name string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	n.Status.Allocatable = corev1.ResourceList{"cpu": resource.MustParse("2"), "memory": resource.MustParse("2Gi"), "pods": resource.MustParse("10")}
	return n
}

func testPod(name, node string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)}}
	p.Spec = corev1.PodSpec{NodeName: node, SchedulerName: corev1.DefaultSchedulerName, Containers: []corev1.Container{{
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("1")}},
	}}}
	return p
}

// load prints the milli-CPUs taken on each node.
func load(c *cache) string {
	var out []string
	for _, n := range c.view().Nodes {
		out = append(out, fmt.Sprintf("%s:%d", n.API.Name, n.Used.MilliCPU))
	}
	return strings.Join(out, " ")
}

func TestCache(t *testing.T) {
	c := newCache()
	step := func(what, want string) {
		t.Helper()
		if got := load(c); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	c.setPod(testPod("early", "b"))
	step("a pod before its node", "")
	c.setNode(testNode("b"))
	c.setNode(testNode("a"))
	step("nodes", "a:0 b:1000")
	before := c.view()
	c.assume(place.NewPod(testPod("p", "")), "a")
	step("assumed", "a:1000 b:1000")
	if before.Nodes[0].Used.MilliCPU != 0 {
		t.Error("a snapshot that was handed out has changed")
	}
	c.forget("p")
	step("taken back", "a:0 b:1000")
	c.assume(place.NewPod(testPod("p", "")), "a")
	c.setPod(testPod("p", "a"))
	c.forget("p")
	step("confirmed before it could be taken back", "a:1000 b:1000")
	c.setPod(testPod("p", "b"))
	step("the watch says another node", "a:0 b:2000")
	c.removeNode("b")
	step("a node goes", "a:0")
	c.setNode(testNode("b"))
	step("and comes back with its pods", "a:0 b:2000")
	c.removePod("p")
	c.removePod("p")
	step("a pod goes", "a:0 b:1000")
	c.removeNode("b")
	c.removePod("early")
	if len(c.nodes) != 1 || len(c.at) != 0 {
		t.Errorf("remembers too much: %v %v", c.nodes, c.at)
	}
}

// TestABindingThatFailsIsTriedAgain refuses the first binding of each pod; the room that was set aside must come back, or
// the second pod would not fit.
func TestABindingThatFailsIsTriedAgain(t *testing.T) {
	client := fake.NewClientset(testNode("a"), testPod("p", ""), testPod("q", ""))
	refused := map[string]*atomic.Bool{"p": {}, "q": {}}
	bound := make(chan string, 10)
	client.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if action.GetSubresource() != "binding" {
			return false, nil, nil
		}
		binding := action.(clienttesting.CreateAction).GetObject().(*corev1.Binding)
		if refused[binding.Name].CompareAndSwap(false, true) {
			return true, nil, errors.New("etcd is busy")
		}
		bound <- binding.Name + " on " + binding.Target.Name
		return true, nil, nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	factory := informers.NewSharedInformerFactory(client, 0)
	go func() {
		done <- Run(ctx, Config{Client: client, Informers: factory, Logger: slog.New(slog.DiscardHandler)})
	}()
	got := map[string]bool{}
	for range 2 {
		select {
		case b := <-bound:
			got[b] = true
		case <-time.After(30 * time.Second):
			t.Fatalf("only %v were bound", got)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	factory.Shutdown()
	if !got["p on a"] || !got["q on a"] {
		t.Errorf("bound %v", got)
	}
}

func TestRefusal(t *testing.T) {
	now := time.Unix(1000, 0)
	pod := testPod("p", "")
	if patch := string(refusal(pod, "no room", now)); !strings.Contains(patch, `"reason":"Unschedulable"`) || !strings.Contains(patch, `"uid":"p"`) {
		t.Errorf("patch %s", patch)
	}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "no room"}}
	if patch := refusal(pod, "no room", now); patch != nil {
		t.Errorf("says it again: %s", patch)
	}
	if patch := refusal(pod, "still no room", now); patch == nil {
		t.Error("does not say another reason")
	}
}
