// SPDX-License-Identifier: Apache-2.0

package podgc

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestDecide(t *testing.T) {
	now := time.Unix(100_000, 0)
	pod := func(name, node string, phase corev1.PodPhase, ending bool) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: phase}}
		if ending {
			p.DeletionTimestamp = &metav1.Time{Time: now}
		}
		return p
	}
	missing := func(node string) (time.Time, bool) {
		switch node {
		case "gone":
			return now.Add(-time.Minute), true
		case "missing":
			return now.Add(-10 * time.Second), true
		}
		return time.Time{}, false
	}
	outOfService := func(node string) bool { return node == "burnt" }
	for _, c := range []struct {
		name string
		pod  *corev1.Pod
		want string
	}{
		{"a running pod stays", pod("p", "n", "Running", false), ""},
		{"an ending pod is left to its node", pod("p", "n", "Running", true), ""},
		{"a pending pod stays", pod("p", "", "Pending", false), ""},
		{"deleted before it had a node", pod("p", "", "Pending", true), "p"},
		{"its node is gone", pod("p", "gone", "Running", false), "p failed"},
		{"finished, its node is gone", pod("p", "gone", "Succeeded", false), "p"},
		{"its node may be coming back", pod("p", "missing", "Running", false), ""},
		{"ending on a node out of service", pod("p", "burnt", "Running", true), "p failed"},
		{"running on a node out of service", pod("p", "burnt", "Running", false), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			for _, v := range decide([]*corev1.Pod{c.pod}, 1, missing, outOfService, now) {
				got += v.pod.Name
				if v.fail {
					got += " failed"
				}
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	var many []*corev1.Pod
	for i := range 5 {
		p := pod(fmt.Sprint("p", i), "n", "Succeeded", false)
		p.CreationTimestamp = metav1.NewTime(now.Add(-time.Duration(i) * time.Hour))
		many = append(many, p)
	}
	out := decide(many, 3, missing, outOfService, now)
	if len(out) != 2 || out[0].pod.Name != "p4" || out[1].pod.Name != "p3" {
		t.Errorf("the oldest finished pods should go, got %v", out)
	}
}
