// SPDX-License-Identifier: Apache-2.0

package disruption

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

var now = time.Unix(100_000, 0)

// podsOf reads pods from a line like "web:ready web:unready alone:ready unknown:ready web:ending".
func podsOf(line string) (pods []*corev1.Pod) {
	for i, word := range strings.Fields(line) {
		owner, state, _ := strings.Cut(word, ":")
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i)}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
		if owner != "alone" {
			pod.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: owner, UID: types.UID(owner), Controller: ptr.To(true)}}
		}
		if state != "unready" {
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		if state == "ending" {
			pod.DeletionTimestamp = &metav1.Time{Time: now}
		}
		pods = append(pods, pod)
	}
	return pods
}

// scales has a Deployment of four replicas, whose two sets are "old" and "new", and a set "web" of three.
func scales(owner *metav1.OwnerReference) (types.UID, int, bool) {
	switch owner.Name {
	case "old", "new":
		return "deployment", 4, true
	case "web":
		return "web", 3, true
	}
	return "", 0, false
}

func TestDecide(t *testing.T) {
	for _, c := range []struct {
		name, least, most, pods string
		want                    string // expected desired healthy allowed
	}{
		{"one of three may go", "2", "", "web:ready web:ready web:ready", "3 2 3 1"},
		{"none when one is not ready", "2", "", "web:ready web:ready web:unready", "3 2 2 0"},
		{"none when one is going already", "2", "", "web:ready web:ready web:ending", "3 2 2 0"},
		{"a number counts pods without a controller", "1", "", "alone:ready alone:ready", "2 1 2 1"},
		{"more wanted than there are", "5", "", "web:ready", "1 5 1 0"},
		{"a share is of what the controller wants, rounded up", "50%", "", "web:ready web:ready web:ready", "3 2 3 1"},
		{"a share while pods are missing", "50%", "", "web:ready web:ready", "3 2 2 0"},
		{"at most one away", "", "1", "web:ready web:ready web:ready", "3 2 3 1"},
		{"at most one away, and one is", "", "1", "web:ready web:ready web:unready", "3 2 2 0"},
		{"at most all away", "", "100%", "web:ready web:unready", "3 0 1 1"},
		{"the sets of a rollout count as their Deployment", "", "25%", "old:ready old:ready old:ready new:ready new:ready", "4 3 5 2"},
		{"a share of pods that nobody replaces is nothing", "", "1", "alone:ready alone:ready", "0 0 2 0"},
		{"an unknown controller wants what it has", "", "1", "custom:ready custom:ready", "2 1 2 1"},
		{"no limit", "", "", "web:ready web:ready", "2 0 2 2"},
		{"no pods", "", "1", "", "0 0 0 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Generation: 7}}
			for text, field := range map[string]**intstr.IntOrString{c.least: &b.Spec.MinAvailable, c.most: &b.Spec.MaxUnavailable} {
				if text != "" {
					*field = ptr.To(intstr.Parse(text))
				}
			}
			s, _ := decide(b, podsOf(c.pods), scales, now)
			got := fmt.Sprint(s.ExpectedPods, s.DesiredHealthy, s.CurrentHealthy, s.DisruptionsAllowed)
			if got != c.want || s.ObservedGeneration != 7 {
				t.Errorf("got %s of generation %d, want %s", got, s.ObservedGeneration, c.want)
			}
			allowed := len(s.Conditions) == 1 && s.Conditions[0].Status == metav1.ConditionTrue
			if allowed != (s.DisruptionsAllowed > 0) {
				t.Errorf("conditions %+v do not say the same", s.Conditions)
			}
			b.Status = s
			if again, _ := decide(b, podsOf(c.pods), scales, now.Add(time.Hour)); !again.Conditions[0].LastTransitionTime.Equal(&s.Conditions[0].LastTransitionTime) {
				t.Error("nothing changed, and the status did")
			}
		})
	}
}

func TestAllowedEvictionsCountUntilTheyHappen(t *testing.T) {
	b := &policyv1.PodDisruptionBudget{Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr.To(intstr.FromInt32(1))}}
	b.Status.DisruptedPods = map[string]metav1.Time{
		"p0":   metav1.NewTime(now.Add(-time.Second)),     // allowed, not deleted yet
		"p1":   metav1.NewTime(now.Add(-time.Second)),     // is being deleted
		"p2":   metav1.NewTime(now.Add(-evictionTimeout)), // allowed long ago, and nobody deleted it
		"gone": metav1.NewTime(now.Add(-time.Second)),
	}
	s, again := decide(b, podsOf("web:ready web:ending web:ready"), scales, now)
	var left []string
	for name := range s.DisruptedPods {
		left = append(left, name)
	}
	if !slices.Equal(left, []string{"p0"}) || s.CurrentHealthy != 1 || s.DisruptionsAllowed != 0 {
		t.Errorf("disrupted %v, healthy %d, allowed %d", left, s.CurrentHealthy, s.DisruptionsAllowed)
	}
	if again != evictionTimeout-time.Second {
		t.Errorf("looks again after %v", again)
	}
}

func TestAShareThatIsNoShareAllowsNothing(t *testing.T) {
	b := &policyv1.PodDisruptionBudget{Spec: policyv1.PodDisruptionBudgetSpec{MaxUnavailable: ptr.To(intstr.FromString("half"))}}
	s, _ := decide(b, podsOf("web:ready web:ready"), scales, now)
	if s.DisruptionsAllowed != 0 || s.Conditions[0].Reason != policyv1.SyncFailedReason {
		t.Errorf("%+v", s)
	}
}
