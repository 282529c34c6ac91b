// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	clientfake "k8s.io/client-go/kubernetes/fake"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/fake"
)

// until waits for what was handed over to satisfy cond.
func until(t *testing.T, dp *fake.Datapath, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		changed := dp.Changed()
		if cond() {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("not handed over: %s", what)
		}
	}
}

func TestTheAPIReachesTheDatapath(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	client := clientfake.NewClientset(
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}},
		parse[corev1.Service](t, dualService),
		parse[corev1.Node](t, "metadata: {name: node-a}\nspec: {podCIDRs: [10.0.0.0/24]}"),
	)
	dp := fake.New()
	dp.Fail(errors.New("map is full"))
	tr := New(Config{NodeName: self, Informers: informers.NewSharedInformerFactory(client, 0), Datapath: dp, Rules: openTable(t, filepath.Join(t.TempDir(), "rules"))})
	done := make(chan error, 1)
	go func() { done <- tr.Run(ctx) }()

	dp.Fail(nil) // whether or not something was refused before, it must come through now
	until(t, dp, "services, nodes and, perhaps after a refusal, an empty policy", func() bool {
		return dp.Policy() != nil && len(dp.Services()) == 2 && len(dp.Nodes()) == 1
	})
	pod := testPod("shop", "web", self, "", nil)
	if _, err := client.CoreV1().Pods("shop").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, dp, "the pod's endpoint", func() bool { return len(dp.Policy().Endpoints) == 1 })
	short, stop := context.WithTimeout(ctx, 50*time.Millisecond)
	if err := tr.WaitEnforced(short, "uid-web"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a pod whose address is not known yet counts as enforced: %v", err)
	}
	stop()
	pod = pod.DeepCopy()
	pod.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0.1"}}
	if _, err := client.CoreV1().Pods("shop").UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := tr.WaitEnforced(ctx, "uid-web"); err != nil {
		t.Fatal(err)
	}
	dp.Fail(errors.New("map is full"))
	if _, err := client.NetworkingV1().NetworkPolicies("shop").Create(ctx, policyFrom(t, "p", "\n  podSelector: {}"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	refused, stop := context.WithTimeout(ctx, 3*minInterval)
	_ = tr.WaitEnforced(refused, "uid-of-nobody") // long enough, as a rule, for a first refusal
	stop()
	dp.Fail(nil)
	until(t, dp, "the default deny, though refused at first", func() bool {
		return dp.Policy().Sets[dp.Policy().Endpoints["uid-web"].Ingress].Default == datapath.Deny
	})
	before := dp.Policy()
	stranger := testPod("shop", "stranger", "node-b", "10.0.1.1", nil)
	if _, err := client.CoreV1().Pods("shop").Create(ctx, stranger, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	host := testPod("shop", "host", self, "", nil)
	host.Spec.HostNetwork = true
	if _, err := client.CoreV1().Pods("shop").Create(ctx, host, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := tr.WaitEnforced(ctx, "uid-host"); err != nil {
		t.Fatal(err)
	}
	if dp.Policy() != before {
		t.Error("a pod that no policy names makes a new policy")
	}
	if err := client.CoreV1().Pods("shop").Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, dp, "the pod's end", func() bool { return len(dp.Policy().Endpoints) == 0 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
