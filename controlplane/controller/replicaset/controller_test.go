// SPDX-License-Identifier: Apache-2.0

package replicaset

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"

	"skep.dev/skep/controlplane/controller/loop"
)

// fixture is a controller whose caches the test fills by hand, so that they lag as much as the test wants.
func fixture(t *testing.T, rs *appsv1.ReplicaSet) (*Controller, *fake.Clientset, *record.FakeRecorder) {
	t.Helper()
	client := fake.NewClientset(rs)
	events := record.NewFakeRecorder(100)
	c := New(loop.Env{
		Client:    client,
		Informers: informers.NewSharedInformerFactory(client, 0),
		Events:    func(string) record.EventRecorder { return events },
		Logger:    slog.New(slog.DiscardHandler),
		Now:       time.Now,
	})
	if err := c.sets.Add(rs); err != nil {
		t.Fatal(err)
	}
	return c, client, events
}

func webSet(replicas int32) *appsv1.ReplicaSet {
	rs := set(replicas)
	rs.Namespace, rs.Name, rs.UID = "ns", "web", "uid"
	rs.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}}
	return rs
}

func podsMade(t *testing.T, client *fake.Clientset) []corev1.Pod {
	t.Helper()
	list, err := client.CoreV1().Pods("ns").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

func TestALaggingCacheDoesNotDoublePods(t *testing.T) {
	c, client, events := fixture(t, webSet(7))
	for range 3 {
		if _, err := c.reconcile(t.Context(), "ns/web"); err != nil {
			t.Fatal(err)
		}
	}
	made := podsMade(t, client)
	if len(made) != 7 {
		t.Fatalf("%d pods made, want 7", len(made))
	}
	if e := <-events.Events; !strings.HasPrefix(e, "Normal SuccessfulCreate Created pod: web-") {
		t.Errorf("event %q", e)
	}
	for i := range made {
		if err := c.pods.Add(&made[i]); err != nil {
			t.Fatal(err)
		}
		c.podChanged(nil, &made[i])
	}
	if _, err := c.reconcile(t.Context(), "ns/web"); err != nil {
		t.Fatal(err)
	}
	if n := len(podsMade(t, client)); n != 7 {
		t.Errorf("%d pods after they were seen", n)
	}
	if err := c.pods.Delete(&made[0]); err != nil {
		t.Fatal(err)
	}
	c.podChanged(&made[0], nil)
	if _, err := c.reconcile(t.Context(), "ns/web"); err != nil {
		t.Fatal(err)
	}
	if n := len(podsMade(t, client)); n != 8 {
		t.Errorf("%d pods made in all after one was lost, want 8", n)
	}
}

func TestAnAnswerThatIsLostDoesNotDoublePods(t *testing.T) {
	c, client, _ := fixture(t, webSet(1))
	tracker := client.Tracker()
	client.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		create := action.(clienttesting.CreateAction)
		if err := tracker.Create(create.GetResource(), create.GetObject(), create.GetNamespace()); err != nil {
			return true, nil, err
		}
		return true, nil, errors.New("connection reset")
	})
	for range 3 {
		if _, err := c.reconcile(t.Context(), "ns/web"); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(podsMade(t, client)); n != 1 {
		t.Errorf("%d pods made, want 1", n)
	}
}

func TestRefusedPodsAreReported(t *testing.T) {
	c, client, events := fixture(t, webSet(100))
	client.PrependReactor("create", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("no quota")
	})
	if _, err := c.reconcile(t.Context(), "ns/web"); err == nil {
		t.Error("no error, so nobody would try again")
	}
	rs, err := client.AppsV1().ReplicaSets("ns").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(rs.Status.Conditions) != 1 || rs.Status.Conditions[0].Reason != "FailedCreate" || rs.Status.Conditions[0].Message != "no quota" {
		t.Errorf("conditions %+v", rs.Status.Conditions)
	}
	if len(events.Events) != 1 {
		t.Errorf("%d events for one refusal", len(events.Events))
	}
	if !c.pending.Settled("ns/web") {
		t.Error("waits for a pod that was refused")
	}
}
