// SPDX-License-Identifier: Apache-2.0

package nodelifecycle

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var now = time.Unix(100_000, 0)

func node(ready corev1.ConditionStatus, taints ...corev1.Taint) *corev1.Node {
	n := &corev1.Node{Spec: corev1.NodeSpec{Taints: taints}}
	if ready != "" {
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
	}
	return n
}

func taintText(taints []corev1.Taint) string {
	var out []string
	for _, t := range taints {
		at := "old"
		if t.TimeAdded != nil && t.TimeAdded.Time.Equal(now) {
			at = "new"
		}
		out = append(out, fmt.Sprintf("%s:%s(%s)", strings.TrimPrefix(t.Key, "node.kubernetes.io/"), t.Effect, at))
	}
	return strings.Join(out, " ")
}

func TestTaints(t *testing.T) {
	before := metav1.NewTime(now.Add(-time.Hour))
	taint := func(key string, effect corev1.TaintEffect) corev1.Taint {
		return corev1.Taint{Key: key, Effect: effect, TimeAdded: &before}
	}
	cordoned := node(corev1.ConditionTrue)
	cordoned.Spec.Unschedulable = true
	pressed := node(corev1.ConditionTrue)
	pressed.Status.Conditions = append(pressed.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionTrue})
	for _, c := range []struct {
		name  string
		node  *corev1.Node
		evict bool
		want  string
		same  bool
	}{
		{"a ready node has none", node(corev1.ConditionTrue), true, "", true},
		{"not ready", node(corev1.ConditionFalse), true, "not-ready:NoSchedule(new) not-ready:NoExecute(new)", false},
		{"silent", node(corev1.ConditionUnknown), true, "unreachable:NoSchedule(new) unreachable:NoExecute(new)", false},
		{"silent like all others", node(corev1.ConditionUnknown), false, "unreachable:NoSchedule(new)", false},
		{"a new node that has said nothing", node(""), true, "not-ready:NoSchedule(new)", false},
		{"a taint keeps its time", node(corev1.ConditionFalse, taint(corev1.TaintNodeNotReady, "NoSchedule"), taint(corev1.TaintNodeNotReady, "NoExecute")), true, "not-ready:NoSchedule(old) not-ready:NoExecute(old)", true},
		{"from silent to not ready", node(corev1.ConditionFalse, taint(corev1.TaintNodeUnreachable, "NoExecute")), true, "not-ready:NoSchedule(new) not-ready:NoExecute(new)", false},
		{"recovered; others' taints stay", node(corev1.ConditionTrue, taint("mine", "NoExecute"), taint(corev1.TaintNodeNotReady, "NoExecute")), true, "mine:NoExecute(old)", false},
		{"cordoned", cordoned, true, "unschedulable:NoSchedule(new)", false},
		{"short of memory", pressed, true, "memory-pressure:NoSchedule(new)", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, same := taints(c.node, c.evict, now)
			if taintText(got) != c.want || same != c.same {
				t.Errorf("got %q same %v, want %q same %v", taintText(got), same, c.want, c.same)
			}
		})
	}
}

func TestSilence(t *testing.T) {
	first := silence(node(corev1.ConditionTrue), now)
	if len(first) != 4 || first[0].Status != corev1.ConditionUnknown || first[0].Reason != "NodeStatusUnknown" || first[1].Reason != "NodeStatusNeverUpdated" {
		t.Errorf("%+v", first)
	}
	n := node("")
	n.Status.Conditions = first
	if again := silence(n, now.Add(time.Hour)); again != nil {
		t.Errorf("a silent node changes again: %+v", again)
	}
}

func TestUnready(t *testing.T) {
	pod := &corev1.Pod{}
	if unready(pod, now) != nil {
		t.Error("marks a pod that is not ready")
	}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	if c := unready(pod, now); c == nil || c.Status != corev1.ConditionFalse {
		t.Errorf("%+v", c)
	}
}

func TestReadyAgain(t *testing.T) {
	const gate = "example.com/gate"
	pod := func(conditions ...corev1.PodCondition) *corev1.Pod {
		return &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: conditions}}
	}
	is := func(kind corev1.PodConditionType, status corev1.ConditionStatus) corev1.PodCondition {
		return corev1.PodCondition{Type: kind, Status: status}
	}
	down, running := is(corev1.PodReady, corev1.ConditionFalse), is(corev1.ContainersReady, corev1.ConditionTrue)
	gated, ended, leaving := pod(down, running), pod(down, running), pod(down, running)
	gated.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: gate}}
	ended.Status.Phase = corev1.PodSucceeded
	leaving.DeletionTimestamp = &metav1.Time{Time: now}
	open := gated.DeepCopy()
	open.Status.Conditions = append(open.Status.Conditions, is(gate, corev1.ConditionTrue))
	for _, c := range []struct {
		name string
		pod  *corev1.Pod
		want bool
	}{
		{"its containers are ready", pod(down, running), true},
		{"its containers are not", pod(down, is(corev1.ContainersReady, corev1.ConditionFalse)), false},
		{"it is ready", pod(is(corev1.PodReady, corev1.ConditionTrue), running), false},
		{"the node has not said anything", pod(running), false},
		{"a gate is closed", gated, false},
		{"its gate is open", open, true},
		{"it has ended", ended, false},
		{"it is being deleted", leaving, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := readyAgain(c.pod, now)
			if (got != nil) != c.want || got != nil && (got.Status != corev1.ConditionTrue || got.Type != corev1.PodReady) {
				t.Errorf("got %+v, want one: %v", got, c.want)
			}
		})
	}
}
