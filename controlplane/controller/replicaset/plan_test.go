// SPDX-License-Identifier: Apache-2.0

package replicaset

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var now = time.Unix(100_000, 0)

// pod makes a pod from words: a phase (running, pending, failed), ready[=seconds], ending, node=N, cost=N, restarts=N,
// age=seconds.
func pod(name, words string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: name, UID: types.UID(name), Labels: map[string]string{"app": "a"}, Annotations: map[string]string{},
		CreationTimestamp: metav1.NewTime(now.Add(-time.Hour)),
	}}
	for _, word := range strings.Fields(words) {
		key, value, _ := strings.Cut(word, "=")
		n := 0
		_, _ = fmt.Sscan(value, &n)
		switch key {
		case "running":
			p.Status.Phase = corev1.PodRunning
		case "pending":
			p.Status.Phase = corev1.PodPending
		case "failed":
			p.Status.Phase = corev1.PodFailed
		case "ending":
			p.DeletionTimestamp = &metav1.Time{Time: now}
		case "ready":
			p.Status.Conditions = []corev1.PodCondition{{
				Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Duration(n) * time.Second)),
			}}
		case "node":
			p.Spec.NodeName = value
		case "cost":
			p.Annotations[deletionCost] = value
		case "restarts":
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: int32(n)}}
		case "age":
			p.CreationTimestamp = metav1.NewTime(now.Add(-time.Duration(n) * time.Second))
		}
	}
	return p
}

func set(replicas int32) *appsv1.ReplicaSet {
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "a", Generation: 7}, Spec: appsv1.ReplicaSetSpec{Replicas: &replicas}}
	rs.Spec.Template.Labels = map[string]string{"app": "a"}
	return rs
}

func TestDecide(t *testing.T) {
	const good = "running ready=100 node=n1"
	for _, c := range []struct {
		name      string
		replicas  int32
		pods      []string
		unsettled bool
		ending    bool
		create    int
		remove    int
	}{
		{name: "nothing to do", replicas: 1, pods: []string{good}},
		{name: "missing pods are created", replicas: 3, pods: []string{good}, create: 2},
		{name: "failed pods are replaced", replicas: 1, pods: []string{"failed node=n1"}, create: 1},
		{name: "ending pods are replaced at once", replicas: 1, pods: []string{good + " ending"}, create: 1},
		{name: "surplus pods are deleted", replicas: 1, pods: []string{good, good, good}, remove: 2},
		{name: "what was asked for and not seen is waited for", replicas: 3, unsettled: true},
		{name: "surplus is not deleted twice", replicas: 0, pods: []string{good}, unsettled: true},
		{name: "a set that is being deleted does nothing", replicas: 3, ending: true},
		{name: "a pass creates no more than a burst", replicas: 5000, create: burst},
	} {
		t.Run(c.name, func(t *testing.T) {
			rs := set(c.replicas)
			if c.ending {
				rs.DeletionTimestamp = &metav1.Time{Time: now}
			}
			var pods []*corev1.Pod
			for i, words := range c.pods {
				pods = append(pods, pod(fmt.Sprint("p", i), words))
			}
			p := decide(snapshot{rs: rs, pods: pods, related: pods, settled: !c.unsettled, now: now})
			if p.create != c.create || len(p.remove) != c.remove {
				t.Errorf("create %d, remove %d; want %d, %d", p.create, len(p.remove), c.create, c.remove)
			}
		})
	}
}

func TestWorst(t *testing.T) {
	for _, c := range []struct {
		name, first, second string // first goes first
	}{
		{"not placed before placed", "pending", "pending node=n"},
		{"pending before running", "pending node=n", "running node=n"},
		{"not ready before ready", "running node=n", "running ready=9 node=n"},
		{"cheap before dear", "running ready=9 node=n cost=-5", "running ready=9 node=n cost=3"},
		{"not ready before cheap", "running node=n cost=9", "running ready=9 node=n cost=-5"},
		{"crowded node first", "running ready=9 node=full", "running ready=9 node=n"},
		{"ready for a short time first", "running ready=4 node=n", "running ready=4000 node=n"},
		{"restarted often first", "running ready=9 node=n restarts=4", "running ready=9 node=n restarts=1"},
		{"young first", "running ready=9 node=n age=20", "running ready=9 node=n age=2000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := pod("b", c.first), pod("a", c.second)
			related := []*corev1.Pod{a, b, pod("x", "running node=full"), pod("y", "running node=full")}
			for _, order := range [][]*corev1.Pod{{a, b}, {b, a}} {
				if got := worst(order, related, 1, now); got[0] != a {
					t.Errorf("%q was kept", c.first)
				}
			}
		})
	}
}

func TestStatus(t *testing.T) {
	rs := set(5)
	rs.Spec.MinReadySeconds = 60
	pods := []*corev1.Pod{
		pod("old", "running ready=100"), pod("young", "running ready=20"), pod("younger", "running ready=10"),
		pod("starting", "pending"), pod("ending", "running ready=100 ending"), pod("dead", "failed"),
	}
	pods[3].Labels["app"] = "b"
	p := decide(snapshot{rs: rs, pods: pods, settled: true, now: now})
	got := fmt.Sprintf("replicas %d labelled %d ready %d available %d terminating %d observed %d again %s", p.status.Replicas,
		p.status.FullyLabeledReplicas, p.status.ReadyReplicas, p.status.AvailableReplicas, *p.status.TerminatingReplicas,
		p.status.ObservedGeneration, p.again)
	if want := "replicas 4 labelled 3 ready 3 available 1 terminating 1 observed 7 again 40s"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestFailureCondition(t *testing.T) {
	st := withFailure(appsv1.ReplicaSetStatus{}, "FailedCreate", "first", now)
	if len(st.Conditions) != 1 || st.Conditions[0].Message != "first" {
		t.Fatalf("not set: %+v", st.Conditions)
	}
	if again := withFailure(st, "FailedCreate", "second", now.Add(time.Minute)); again.Conditions[0] != st.Conditions[0] {
		t.Errorf("the same failure changed the condition: %+v", again.Conditions)
	}
	if other := withFailure(st, "FailedDelete", "third", now); other.Conditions[0].Message != "third" {
		t.Errorf("another failure did not: %+v", other.Conditions)
	}
	if gone := withFailure(st, "", "", now); len(gone.Conditions) != 0 {
		t.Errorf("success left it: %+v", gone.Conditions)
	}
}

func TestNewPodName(t *testing.T) {
	rs := set(1)
	rs.Name = strings.Repeat("x", 100)
	if p := newPod(rs, "abcde"); len(p.Name) != 63 || !strings.HasSuffix(p.Name, "abcde") {
		t.Errorf("name %q", p.Name)
	}
}

func TestSlowStart(t *testing.T) {
	for _, c := range []struct {
		n, failFrom, calls int
	}{{7, 100, 7}, {0, 100, 0}, {500, 0, 1}, {500, 1, 3}, {500, 3, 7}} {
		calls := make(chan int, 1000)
		count := make(chan int, 1)
		count <- 0
		err := slowStart(c.n, func() error {
			n := <-count
			count <- n + 1
			calls <- n
			if n >= c.failFrom {
				return fmt.Errorf("refused")
			}
			return nil
		})
		if len(calls) != c.calls || (err != nil) != (c.failFrom < c.n) {
			t.Errorf("%d pods, refused from the %dth on: %d calls, err %v; want %d calls", c.n, c.failFrom, len(calls), err, c.calls)
		}
	}
}
