// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func pod(name string, priority int32) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{Priority: &priority}}
}

// drain takes out all that is due now.
func drain(q *Queue) string {
	var names []string
	for {
		item, _ := q.try()
		if item == nil {
			return strings.Join(names, " ")
		}
		names = append(names, item.Pod.Name)
		q.Retry(item)
	}
}

func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(time.Now)
		for i, p := range []int32{0, 5, 0, 10} {
			q.Put(pod(fmt.Sprint("p", i), p))
			time.Sleep(time.Millisecond)
		}
		if got := drain(q); got != "p3 p1 p0 p2" {
			t.Errorf("order %q", got)
		}
	})
}

func TestParking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(time.Now)
		expect := func(when, want string) {
			t.Helper()
			item, _ := q.try()
			got := ""
			if item != nil {
				got = item.Pod.Name
				q.Park(item)
			}
			if got != want {
				t.Errorf("%s: got %q, want %q", when, got, want)
			}
		}
		q.Put(pod("p", 0))
		expect("at first", "p")
		time.Sleep(4 * time.Minute)
		expect("without an event", "")
		q.Wake()
		expect("after an event", "p")
		q.Wake()
		expect("an event within the back-off", "")
		time.Sleep(2 * time.Second)
		expect("after the back-off", "p")
		changed := pod("p", 0)
		changed.Status.Message = "why"
		q.Put(changed)
		time.Sleep(time.Minute)
		expect("after a change of status", "")
		changed = pod("p", 0)
		changed.Spec.NodeSelector = map[string]string{"a": "b"}
		q.Put(changed)
		expect("after a change of spec", "p")
		time.Sleep(parkedAtMost)
		expect("at last without any event", "p")
		q.Remove("p")
		q.Wake()
		time.Sleep(parkedAtMost)
		expect("when it is gone", "")
		if q.Len() != 0 {
			t.Errorf("%d left", q.Len())
		}
	})
}

func TestEventDuringPlacing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(time.Now)
		q.Put(pod("p", 0))
		item, _ := q.try()
		q.Wake() // this decision could not see it
		q.Park(item)
		time.Sleep(firstBackoff)
		if item, _ = q.try(); item == nil {
			t.Error("the event was lost")
		}
		q.Remove("p")
		q.Retry(item)
		if q.Len() != 0 {
			t.Error("a pod that was removed while being placed came back")
		}
	})
}

func TestBackoff(t *testing.T) {
	for attempts, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 4: 8 * time.Second, 5: 10 * time.Second, 1000: 10 * time.Second} {
		if got := backoff(attempts); got != want {
			t.Errorf("after %d attempts: %s, want %s", attempts, got, want)
		}
	}
}

func TestNextWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(time.Now)
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan string)
		go func() {
			defer close(got)
			for item := q.Next(ctx); item != nil; item = q.Next(ctx) {
				got <- fmt.Sprintf("%s at try %d", item.Pod.Name, item.Attempts)
				if item.Attempts == 1 {
					q.Retry(item)
				}
			}
		}()
		q.Put(pod("p", 0))
		start := time.Now()
		if first, second := <-got, <-got; first != "p at try 1" || second != "p at try 2" || time.Since(start) != firstBackoff {
			t.Errorf("%q, %q after %s", first, second, time.Since(start))
		}
		cancel()
		if _, open := <-got; open {
			t.Error("does not end with its context")
		}
	})
}
