// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	clientfake "k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/yaml"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/fake"
	"skep.dev/skep/datapath/loader"
	"skep.dev/skep/datapath/progtest"
	"skep.dev/skep/enforcement"
	"skep.dev/skep/nodeagent/intent"
	"skep.dev/skep/nodeagent/ledger"
)

// mapsOnly is a datapath whose policy is in real maps.
type mapsOnly struct {
	*fake.Datapath
	h *progtest.Harness
}

func (m mapsOnly) SetPolicy(_ context.Context, p *datapath.PolicyState) error { return m.h.Load(p) }

// TestAPodWithoutRoomStopsNothingElse has one address too many in the cluster. It is another node's pod's, and then one of this node.
func TestAPodWithoutRoomStopsNothingElse(t *testing.T) {
	h := progtest.New(t, func(o *loader.Options) { o.MaxEntries = map[string]uint32{"skep_addr": 6} })
	must(t, h.Endpoint("uid-a", podA4))
	must(t, h.Endpoint("uid-b", podB4))
	client := clientfake.NewClientset(
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}},
		apiPod("uid-a", "test", map[string]string{"app": "a"}, podA4), apiPod("uid-b", "test", map[string]string{"app": "b"}, podB4),
	)
	l := ledger.New()
	translator := intent.New(intent.Config{NodeName: "test", Informers: informers.NewSharedInformerFactory(client, 0), Datapath: mapsOnly{fake.New(), h}, Ledger: l})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- translator.Run(ctx) }()
	defer func() { cancel(); must(t, <-done) }()

	policies, pods := client.NetworkingV1().NetworkPolicies("default"), client.CoreV1().Pods("default")
	generation := int64(0)
	allow := func(app string) {
		t.Helper()
		generation++
		p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: "p", Generation: generation}}
		must(t, yaml.UnmarshalStrict([]byte(`{podSelector: {matchLabels: {app: b}}, ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}, {from: [{podSelector: {matchLabels: {app: `+app+`}}}]}]}`), &p.Spec))
		_, err := policies.Update(ctx, p, metav1.UpdateOptions{})
		if err != nil {
			_, err = policies.Create(ctx, p, metav1.CreateOptions{})
		}
		must(t, err)
		eventually(t, fmt.Sprint("generation ", generation), func() bool {
			all := l.Policies()
			return len(all) == 1 && all[0].InForce.Generation == generation && all[0].Reason == ""
		})
	}
	condition := func(want corev1.ConditionStatus, naming string) {
		t.Helper()
		eventually(t, "the node's condition "+string(want)+" "+naming, func() bool {
			c := l.NodeConditions()[0]
			return c.Status == want && strings.Contains(c.Message, naming) && (want == corev1.ConditionFalse || c.Reason == string(enforcement.NoRoom))
		})
	}
	elsewhere := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 244, 1, byte(i)}) }
	judge := func(from netip.Addr, port uint16, want bool) {
		t.Helper()
		got, _, _, err := h.Verdict("uid-b", datapath.Ingress, first(from.String(), podB4.String(), progtest.TCP, port))
		if must(t, err); got != want {
			t.Errorf("from %s to port %d: %t", from, port, got)
		}
	}
	create := func(p *corev1.Pod) {
		t.Helper()
		_, err := pods.Create(ctx, p, metav1.CreateOptions{})
		must(t, err)
	}
	starts := func(uid string, within time.Duration) bool {
		ctx, cancel := context.WithTimeout(ctx, within)
		defer cancel()
		return translator.WaitEnforced(ctx, uid) == nil
	}

	allow("x")
	for i := range 4 {
		create(apiPod(fmt.Sprint("pod-", i), "elsewhere", nil, elsewhere(i)))
	}
	allow("y")
	judge(elsewhere(3), 80, true)
	condition(corev1.ConditionFalse, "")

	create(apiPod("surplus", "elsewhere", map[string]string{"app": "z"}, elsewhere(9)))
	condition(corev1.ConditionTrue, "default/surplus")
	judge(elsewhere(9), 80, false)
	allow("z") // policies go on
	_, err := pods.Update(ctx, apiPod("pod-0", "elsewhere", map[string]string{"app": "z"}, elsewhere(0)), metav1.UpdateOptions{})
	must(t, err)
	eventually(t, "another pod's new label", func() bool { // and so do pods
		got, _, _, err := h.Verdict("uid-b", datapath.Ingress, first(elsewhere(0).String(), podB4.String(), progtest.TCP, 81))
		return err == nil && got
	})

	create(apiPod("uid-c", "test", map[string]string{"app": "c"}, podC4))
	condition(corev1.ConditionTrue, "default/uid-c")
	if starts("uid-c", 100*time.Millisecond) || !starts("uid-b", time.Second) {
		t.Error("a pod starts that the datapath does not know, or another does not")
	}
	must(t, pods.Delete(ctx, "surplus", metav1.DeleteOptions{}))
	must(t, pods.Delete(ctx, "pod-1", metav1.DeleteOptions{}))
	if !starts("uid-c", 10*time.Second) {
		t.Error("the pod does not start when there is room")
	}
	condition(corev1.ConditionFalse, "")
	judge(podC4, 80, true)
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not seen: %s", what)
		}
	}
}
