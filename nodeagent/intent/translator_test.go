// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"skep.dev/skep/datapath"
)

// recorder is a datapath that keeps what it is given. Everything else is not called by a Translator.
type recorder struct {
	datapath.Datapath
	mu       sync.Mutex
	policy   *datapath.PolicyState
	policies int
	services []datapath.Service
	nodes    []datapath.Node
	refuse   int
	changed  chan struct{}
}

func (r *recorder) SetPolicy(_ context.Context, p *datapath.PolicyState) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse > 0 {
		r.refuse--
		return errors.New("map is full")
	}
	r.policy = p
	r.policies++
	r.signal()
	return nil
}

func (r *recorder) SetServices(_ context.Context, s []datapath.Service) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.services = s
	r.signal()
	return nil
}

func (r *recorder) SetNodes(_ context.Context, n []datapath.Node) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nodes = n
	r.signal()
	return nil
}

func (r *recorder) signal() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// until waits for what was handed over to satisfy cond.
func (r *recorder) until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		r.mu.Lock()
		ok := cond()
		r.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-r.changed:
		case <-deadline:
			t.Fatalf("not handed over: %s", what)
		}
	}
}

func TestTheAPIReachesTheDatapath(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	client := fake.NewClientset(
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}},
		parse[corev1.Service](t, dualService),
		parse[corev1.Node](t, "metadata: {name: node-a}\nspec: {podCIDRs: [10.0.0.0/24]}"),
	)
	dp := &recorder{changed: make(chan struct{}, 1), refuse: 1}
	tr := New(Config{NodeName: self, Informers: informers.NewSharedInformerFactory(client, 0), Datapath: dp, RulesPath: filepath.Join(t.TempDir(), "rules")})
	done := make(chan error, 1)
	go func() { done <- tr.Run(ctx) }()

	dp.until(t, "services, nodes and, after a refusal, an empty policy", func() bool {
		return dp.policy != nil && len(dp.services) == 2 && len(dp.nodes) == 1
	})
	pod := testPod("shop", "web", self, "", nil)
	if _, err := client.CoreV1().Pods("shop").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	dp.until(t, "the pod's endpoint", func() bool { return len(dp.policy.Endpoints) == 1 })
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
	if _, err := client.NetworkingV1().NetworkPolicies("shop").Create(ctx, policyFrom(t, "p", "\n  podSelector: {}"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	dp.until(t, "the default deny", func() bool {
		return dp.policy.Sets[dp.policy.Endpoints["uid-web"].Ingress].Default == datapath.Deny
	})
	before := dp.policies
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
	if dp.policies != before {
		t.Error("a pod that no policy names makes a new policy")
	}
	if err := client.CoreV1().Pods("shop").Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	dp.until(t, "the pod's end", func() bool { return len(dp.policy.Endpoints) == 0 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
