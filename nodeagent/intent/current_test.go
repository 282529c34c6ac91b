// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	clientfake "k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/fake"
)

// listOf reads "version: name=version …".
func listOf(text string) listing {
	version, rest, _ := strings.Cut(text, ":")
	list := listing{version: version, items: map[string]string{}}
	for _, item := range strings.Fields(rest) {
		name, version, _ := strings.Cut(item, "=")
		list.items[name] = version
	}
	return list
}

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		name, have, list string
		want             bool
	}{
		{"nothing and nothing", "", "10:", true},
		{"the same", "a=5 b=7", "10: a=5 b=7", true},
		{"a policy that has not come yet", "a=5", "10: a=5 b=7", false},
		{"an older version", "a=5", "10: a=9", false},
		{"versions are numbers", "a=9", "100: a=10", false},
		{"a newer version", "a=12", "10: a=9", true},
		{"a policy whose end has not come yet", "a=5", "10:", false},
		{"a policy that was made after the list", "a=11", "10:", true},
		{"a version that is not one", "a=x", "10: a=x", false},
	} {
		v := versions{}
		for name, version := range listOf(":" + c.have).items {
			v.set("ns", name, version)
		}
		if got := v.covers("ns", listOf(c.list)); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// TestAPodWaitsForPoliciesOlderThanItself holds the watch of policies back while the API has one already.
func TestAPodWaitsForPoliciesOlderThanItself(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	pod := testPod("shop", "web", self, "10.0.0.1", nil)
	pod.ResourceVersion = "20"
	client := clientfake.NewClientset(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}, pod)
	deny := policyFrom(t, "deny", "\n  podSelector: {}")
	deny.ResourceVersion = "15"
	lists := make(chan string, 100)
	client.PrependReactor("list", "networkpolicies", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if a.GetNamespace() == "" { // of the informer, from before
			return true, &networkingv1.NetworkPolicyList{ListMeta: metav1.ListMeta{ResourceVersion: "10"}}, nil
		}
		lists <- a.(clienttesting.ListActionImpl).ListOptions.ResourceVersion
		return true, &networkingv1.NetworkPolicyList{ListMeta: metav1.ListMeta{ResourceVersion: "21"}, Items: []networkingv1.NetworkPolicy{*deny}}, nil
	})
	held := watch.NewFake()
	client.PrependWatchReactor("networkpolicies", func(clienttesting.Action) (bool, watch.Interface, error) { return true, held, nil })
	dp := fake.New()
	tr := New(Config{NodeName: self, Informers: informers.NewSharedInformerFactory(client, 0), Policies: client.NetworkingV1(), Datapath: dp})
	done := make(chan error, 1)
	go func() { done <- tr.Run(ctx) }()
	if err := tr.WaitEnforced(ctx, "uid-web"); err != nil {
		t.Fatal(err)
	}
	verdict := func() datapath.Action { return dp.Policy().Sets[dp.Policy().Endpoints["uid-web"].Ingress].Default }
	if verdict() != datapath.Allow {
		t.Fatal("the policy came by another way")
	}
	current, failures := make(chan error, 1), make(chan error, 100)
	go func() { current <- tr.WaitCurrent(ctx, pod, func(err error) { failures <- err }) }()
	select {
	case err := <-current:
		t.Fatalf("a pod starts before a policy that is older than it is in force: %v", err)
	case err := <-failures:
		if !strings.Contains(err.Error(), "behind version 21") {
			t.Errorf("told: %v", err)
		}
	}
	if at := <-lists; at != "20" {
		t.Errorf("policies were read as of %s", at)
	}
	held.Add(deny)
	if err := <-current; err != nil {
		t.Fatal(err)
	}
	if verdict() != datapath.Deny {
		t.Error("the policy is not in force")
	}
	// What is known to be current needs no further look.
	for len(lists) > 0 {
		<-lists
	}
	older := pod.DeepCopy()
	older.ResourceVersion = "21"
	if err := tr.WaitCurrent(ctx, older, func(err error) { t.Error(err) }); err != nil || len(lists) != 0 {
		t.Errorf("%v, %d lists", err, len(lists))
	}
	// A policy that changes nothing here counts, too.
	before := dp.Policy()
	unconcerned := policyFrom(t, "unconcerned", "\n  podSelector: {matchLabels: {app: none}}")
	unconcerned.ResourceVersion = "25"
	held.Add(unconcerned)
	reached := listOf("26: deny=15 unconcerned=25")
	if err := tr.waitFor(ctx, "shop", reached); err != nil || dp.Policy() != before {
		t.Errorf("%v, policy handed over: %v", err, dp.Policy() != before)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestAPodWaitsForClusterPoliciesOlderThanItself: the watch of cluster policies is a third one, behind on its own.
func TestAPodWaitsForClusterPoliciesOlderThanItself(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	pod := testPod("shop", "web", self, "10.0.0.1", nil)
	pod.ResourceVersion = "20"
	client := clientfake.NewClientset(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}, pod)
	client.PrependReactor("list", "networkpolicies", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, &networkingv1.NetworkPolicyList{ListMeta: metav1.ListMeta{ResourceVersion: "20"}}, nil
	})
	deny := policyv1alpha2.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "deny", UID: "uid-deny", Generation: 1, ResourceVersion: "15"}}
	deny.Spec.Tier, deny.Spec.Subject.Namespaces = policyv1alpha2.AdminTier, &metav1.LabelSelector{}
	deny.Spec.Ingress = []policyv1alpha2.ClusterNetworkPolicyIngressRule{{
		Action: policyv1alpha2.ClusterNetworkPolicyRuleActionDeny,
		From:   []policyv1alpha2.ClusterNetworkPolicyIngressPeer{{Namespaces: &metav1.LabelSelector{}}},
	}}
	held := watch.NewFake()
	informer := cache.NewSharedIndexInformer(listFirst{&cache.ListWatch{
		ListFunc: func(metav1.ListOptions) (runtime.Object, error) {
			return &policyv1alpha2.ClusterNetworkPolicyList{ListMeta: metav1.ListMeta{ResourceVersion: "10"}}, nil
		},
		WatchFunc: func(metav1.ListOptions) (watch.Interface, error) { return held, nil },
	}}, &policyv1alpha2.ClusterNetworkPolicy{}, 0, cache.Indexers{})
	dp := fake.New()
	tr := New(Config{
		NodeName: self, Informers: informers.NewSharedInformerFactory(client, 0), Policies: client.NetworkingV1(), Datapath: dp,
		ClusterPolicies: informer,
		ListClusterPolicies: func(context.Context, metav1.ListOptions) (*policyv1alpha2.ClusterNetworkPolicyList, error) {
			return &policyv1alpha2.ClusterNetworkPolicyList{ListMeta: metav1.ListMeta{ResourceVersion: "21"}, Items: []policyv1alpha2.ClusterNetworkPolicy{deny}}, nil
		},
	})
	done := make(chan error, 2)
	go func() { done <- tr.Run(ctx) }()
	go func() { informer.RunWithContext(ctx); done <- nil }()
	current, failures := make(chan error, 1), make(chan error, 100)
	go func() { current <- tr.WaitCurrent(ctx, pod, func(err error) { failures <- err }) }()
	select {
	case err := <-current:
		t.Fatalf("a pod starts before a policy that is older than it is in force: %v", err)
	case <-failures:
	}
	held.Add(&deny)
	if err := <-current; err != nil {
		t.Fatal(err)
	}
	if rules := dp.Policy().Sets[dp.Policy().Endpoints["uid-web"].Ingress].Rules; len(rules) == 0 || rules[len(rules)-1].Action != datapath.Deny {
		t.Errorf("the policy is not in force: %+v", rules)
	}
	cancel()
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// listFirst keeps a reflector from asking the watch for the list.
type listFirst struct{ *cache.ListWatch }

func (listFirst) IsWatchListSemanticsUnSupported() bool { return true }

// TestOthersAreToldWhenTheDatapathKnowsAPod looks at what is in force at each moment when a version is told.
func TestOthersAreToldWhenTheDatapathKnowsAPod(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	at := func(version string, pod *corev1.Pod) *corev1.Pod {
		pod.ResourceVersion = version
		return pod
	}
	client := clientfake.NewClientset(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}},
		at("9", testPod("shop", "web", self, "10.0.0.1", map[string]string{"app": "web"})), at("7", testPod("shop", "old", "node-b", "10.0.1.9", nil)),
		policyFrom(t, "web", "\n  podSelector: {matchLabels: {app: web}}\n  ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]"))
	dp := fake.New()
	type told struct {
		version string
		knows   bool
	}
	address := netip.MustParseAddr("10.0.1.1")
	heard := make(chan told, 100)
	tr := New(Config{NodeName: self, Informers: informers.NewSharedInformerFactory(client, 0), Policies: client.NetworkingV1(), Datapath: dp,
		PodsKnown: func(version string) {
			_, knows := dp.Policy().Addresses.Get(address)
			heard <- told{version, knows}
		}})
	done := make(chan error, 1)
	go func() { done <- tr.Run(ctx) }()
	next := func(want told) {
		t.Helper()
		select {
		case got := <-heard:
			if got != want {
				t.Errorf("told %v, not %v", got, want)
			}
		case <-ctx.Done():
			t.Fatalf("not told: %v", want)
		}
	}
	next(told{"9", false})
	create := func(pod *corev1.Pod) {
		t.Helper()
		if _, err := client.CoreV1().Pods("shop").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	dp.Fail(errors.New("map is full"))
	create(at("10", testPod("shop", "client", "node-b", "10.0.1.1", map[string]string{"app": "client"})))
	refused, stop := context.WithTimeout(ctx, 3*minInterval)
	_ = tr.WaitEnforced(refused, "uid-of-nobody") // long enough, as a rule, for a first refusal
	stop()
	dp.Fail(nil)
	next(told{"10", true})
	before := dp.Policy()
	create(at("12", testPod("shop", "nobody", "node-b", "10.0.1.2", nil)))
	next(told{"12", true})
	if dp.Policy() != before {
		t.Error("a pod that no policy names makes a new policy")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
