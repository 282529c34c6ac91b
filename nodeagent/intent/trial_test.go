// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	clientfake "k8s.io/client-go/kubernetes/fake"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/fake"
	"skep.dev/skep/enforcement"
	"skep.dev/skep/nodeagent/ledger"
)

// small is a datapath with a map of so many CIDRs.
type small struct {
	*fake.Datapath
	cidrs int
	// broken makes it refuse everything.
	broken bool
	// asked is called with each policy, when there is one.
	asked func(*datapath.PolicyState)
}

func (s *small) SetPolicy(ctx context.Context, p *datapath.PolicyState) error {
	if s.asked != nil {
		s.asked(p)
	}
	if s.broken {
		return errors.New("operation not permitted")
	}
	if p.CIDRs.Len() > s.cidrs {
		return fmt.Errorf("%d CIDRs: %w", p.CIDRs.Len(), datapath.ErrFull)
	}
	return s.Datapath.SetPolicy(ctx, p)
}

// bench is a Translator without informers, one step of which is taken at a time.
type bench struct {
	t  *testing.T
	tr *Translator
	dp *small
}

func newBench(t *testing.T) *bench {
	dp := &small{Datapath: fake.New(), cidrs: 3}
	tr := New(Config{
		NodeName: self, Informers: informers.NewSharedInformerFactory(clientfake.NewClientset(), 0), Datapath: dp, Ledger: ledger.New(),
	})
	b := &bench{t: t, tr: tr, dp: dp}
	b.tr.apply(change{after: &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}})
	b.addPod("web")
	b.addPod("cart")
	b.tr.trials.began = time.Now()
	return b
}

func (b *bench) addPod(name string) {
	b.tr.apply(change{after: testPod("shop", name, self, fmt.Sprintf("10.0.0.%d", len(name)), map[string]string{"app": name})})
}

// step does what Run does with everything that has come.
func (b *bench) step() {
	b.t.Helper()
	b.tr.tryAgain(time.Now())
	if b.tr.pending.any() {
		b.tr.handOver(b.t.Context())
	}
	if !b.tr.pending.policy {
		b.tr.publish()
	}
}

func (b *bench) set(policies ...*networkingv1.NetworkPolicy) {
	b.t.Helper()
	for _, p := range policies {
		b.tr.apply(change{after: p, at: time.Now()})
	}
	b.step()
}

// wait lets time pass and takes a step.
func (b *bench) wait(d time.Duration) {
	b.t.Helper()
	time.Sleep(d) // of the bubble's clock
	b.step()
}

// want compares what the ledger says of a policy: the generation in force, and why that is not the newest.
func (b *bench) want(name string, generation int64, reason enforcement.Reason) {
	b.t.Helper()
	all := b.tr.cfg.Ledger.Policies()
	i := slices.IndexFunc(all, func(p enforcement.Policy) bool { return p.Name == name })
	if i < 0 {
		b.t.Errorf("%s is not known", name)
		return
	}
	if got := all[i]; got.InForce.Generation != generation || got.Reason != reason {
		b.t.Errorf("%s: generation %d is in force (%q, %s), want %d (%q)", name, got.InForce.Generation, got.Reason, got.Message, generation, reason)
	}
}

// allowed is what the datapath lets a pod be reached from: "all", or the peers of its rules.
func (b *bench) allowed(pod string) string {
	ep, ok := b.dp.Policy().Endpoints[datapath.EndpointID("uid-"+pod)]
	if !ok {
		return "no endpoint"
	}
	set := b.dp.Policy().Sets[ep.Ingress]
	if set.Default == datapath.Allow {
		return "all"
	}
	var peers []string
	for _, r := range set.Rules {
		for _, p := range r.Peers {
			peers = append(peers, strings.TrimPrefix(string(p), "cidr:192.0."))
		}
	}
	return strings.Join(peers, " ")
}

func (b *bench) wantAllowed(pod, want string) {
	b.t.Helper()
	if got := b.allowed(pod); got != want {
		b.t.Errorf("%s can be reached from %q, want %q", pod, got, want)
	}
}

// allowing isolates the pods with a label app, and allows networks from one number to another, in one rule each.
func allowing(name, app string, generation int64, first, last int) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{}
	p.Namespace, p.Name, p.UID, p.Generation = "shop", name, types.UID("uid-"+name), generation
	p.Spec.PodSelector.MatchLabels = map[string]string{"app": app}
	for i := first; i <= last; i++ {
		peer := networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: fmt.Sprintf("192.0.%d.0/24", i)}}
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: []networkingv1.NetworkPolicyPeer{peer}})
	}
	return p
}

// withRules isolates the pods with a label app, and has so many rules, of one port each.
func withRules(name, app string, generation int64, n int) *networkingv1.NetworkPolicy {
	p := allowing(name, app, generation, 1, 0)
	for i := range n {
		port := intstr.FromInt(i + 1)
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{Ports: []networkingv1.NetworkPolicyPort{{Port: &port}}})
	}
	return p
}

func TestAPolicyThatDoesNotFitStopsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.set(allowing("a", "web", 1, 1, 1))
		b.want("a", 1, "")
		b.set(allowing("a", "web", 2, 1, 9), allowing("b", "cart", 1, 2, 2))
		b.want("a", 1, enforcement.NoRoom)
		b.want("b", 1, "")
		b.wantAllowed("web", "1.0/24")
		b.wantAllowed("cart", "2.0/24")
		b.set(allowing("b", "cart", 2, 3, 3))
		b.wantAllowed("cart", "3.0/24")
		b.want("a", 1, enforcement.NoRoom)
		b.set(allowing("a", "web", 3, 1, 2))
		b.want("a", 3, "")
		b.wantAllowed("web", "1.0/24 2.0/24")
	})
}

func TestThoseThatFitAreFoundAmongMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.step()
		b.set(allowing("a", "web", 1, 1, 1), allowing("b", "web", 1, 2, 2), allowing("c", "cart", 1, 3, 8), allowing("d", "cart", 1, 3, 3),
			allowing("e", "web", 1, 4, 9))
		for name, want := range map[string]enforcement.Reason{"a": "", "b": "", "c": enforcement.NoRoom, "d": "", "e": enforcement.NoRoom} {
			generation := int64(1)
			if want != "" {
				generation = 0
			}
			b.want(name, generation, want)
		}
		b.wantAllowed("web", "1.0/24 2.0/24")
		b.wantAllowed("cart", "3.0/24")
	})
}

func TestWhatWasRefusedIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.set(allowing("a", "web", 1, 1, 3))
		b.set(allowing("b", "cart", 1, 4, 4))
		b.want("b", 0, enforcement.NoRoom)
		b.wantAllowed("cart", "all") // the last good state is that nothing isolates it
		b.dp.cidrs = 4
		b.step()
		b.want("b", 0, enforcement.NoRoom)
		b.wait(firstTrial)
		b.want("b", 1, "")
		b.wantAllowed("cart", "4.0/24")
	})
}

func TestThePolicyThatMakesRoomLetsAnotherIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.set(allowing("a", "web", 1, 1, 3))
		b.set(allowing("b", "cart", 1, 4, 4))
		b.wait(lastTrial)
		b.wait(lastTrial)
		b.want("b", 0, enforcement.NoRoom)
		b.tr.apply(change{before: allowing("a", "web", 1, 1, 3)})
		b.step()
		b.wait(firstTrial)
		b.want("b", 1, "")
	})
}

func TestNobodyIsBlamedForABrokenDatapath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.set(allowing("a", "web", 1, 1, 1))
		b.dp.broken = true
		b.set(allowing("a", "web", 2, 2, 2), allowing("b", "cart", 1, 3, 3))
		b.want("a", 1, enforcement.Failed)
		b.want("b", 0, enforcement.Failed)
		if c := b.tr.cfg.Ledger.NodeConditions()[0]; c.Status != corev1.ConditionTrue || !strings.Contains(c.Message, "operation not permitted") {
			t.Errorf("the node says %s: %s", c.Status, c.Message)
		}
		b.dp.broken = false
		b.step()
		b.want("a", 2, "")
		b.want("b", 1, "")
		if c := b.tr.cfg.Ledger.NodeConditions()[0]; c.Status != corev1.ConditionFalse {
			t.Errorf("the node says %s: %s", c.Status, c.Message)
		}
	})
}

func TestTooManyRulesInASet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.set(withRules("a", "web", 1, 10))
		b.set(withRules("a", "web", 2, datapath.MaxRules+1), withRules("b", "cart", 1, 1))
		b.want("a", 1, enforcement.TooManyRules)
		b.want("b", 1, "")
		// The rules of all policies of a pod count.
		b.set(withRules("a", "web", 3, 10), withRules("c", "web", 1, datapath.MaxRules-9))
		b.want("a", 3, "")
		b.want("c", 0, enforcement.TooManyRules)
		b.set(withRules("c", "web", 2, datapath.MaxRules-10))
		b.want("c", 2, "")
	})
}

func TestAPodWithTooManyRulesStopsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.set(withRules("a", "web", 1, 10000), allowing("c", "cart", 1, 1, 1))
		heavy := withRules("b", "web", 1, 10000)
		heavy.Spec.PodSelector.MatchLabels = map[string]string{"heavy": "yes"}
		b.set(heavy)
		b.want("b", 1, "")
		b.tr.apply(change{after: testPod("shop", "both", self, "10.0.0.9", map[string]string{"app": "web", "heavy": "yes"})})
		b.set(allowing("c", "cart", 2, 2, 2))
		b.wantAllowed("cart", "2.0/24")
		b.wantAllowed("both", "no endpoint") // never open
		b.want("a", 1, enforcement.TooManyRules)
		b.want("b", 1, enforcement.TooManyRules)
		if b.enforced("both") {
			t.Error("the pod may start")
		}
		b.tr.apply(change{after: testPod("shop", "web", self, "10.0.0.3", map[string]string{"app": "web", "heavy": "yes"})})
		b.step()
		b.wantAllowed("web", "no endpoint")
		b.tr.apply(change{before: heavy})
		b.step()
		b.want("a", 1, "")
		if !b.enforced("both") || !b.enforced("web") {
			t.Error("the pods still wait")
		}
	})
}

func (b *bench) enforced(pod string) bool {
	b.tr.mu.Lock()
	defer b.tr.mu.Unlock()
	return b.tr.enforced[datapath.EndpointID("uid-"+pod)]
}

func TestNewPodsWaitForAPolicyThatWasNeverInForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.step()
		b.set(allowing("big", "web", 1, 1, 9))
		b.tr.apply(change{after: testPod("shop", "new", self, "10.0.0.9", map[string]string{"app": "web"})})
		b.step()
		if b.enforced("new") || !b.enforced("cart") {
			t.Error("a pod starts without the policy that selects it, or another does not")
		}
		b.set(allowing("big", "web", 2, 1, 2))
		if !b.enforced("new") {
			t.Error("the pod still waits")
		}
		// One with a good version lets pods start under that.
		b.set(allowing("big", "web", 3, 1, 9))
		b.want("big", 2, enforcement.NoRoom)
		if !b.enforced("new") {
			t.Error("a last good version does not count")
		}
	})
}

// TestAStartOpensNothing: what the run before had in force must not make way for something that lacks a policy.
func TestAStartOpensNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.set(allowing("a", "web", 1, 1, 1), allowing("b", "cart", 1, 2, 9))
		if b.dp.Policy() != nil {
			t.Errorf("a policy without b was handed over: %+v", b.dp.Policy())
		}
		b = newBench(t)
		b.set(allowing("a", "web", 1, 1, 1), withRules("b", "cart", 1, datapath.MaxRules+1))
		b.want("a", 1, "")
		b.want("b", 0, enforcement.TooManyRules)
		b.wantAllowed("cart", "no endpoint")
		b.wait(lastTrial)
		b.wait(lastTrial)
		b.wantAllowed("cart", "no endpoint") // a version that was refused again is as unknown as before
		b.set(withRules("b", "cart", 2, 1))
		b.wantAllowed("cart", "")
	})
}

func TestLatencyIsFromTheEventToTheLastWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.step()
		b.tr.apply(change{after: allowing("a", "web", 1, 1, 1), at: time.Now()})
		time.Sleep(30 * time.Millisecond)
		b.step()
		b.tr.apply(change{after: allowing("old", "web", 1, 1, 1), at: b.tr.trials.began.Add(-time.Second)})
		b.step()
		for i, want := range [][]time.Duration{{30 * time.Millisecond}, nil} {
			if got := b.tr.cfg.Ledger.Policies()[i]; !slices.Equal(got.Latencies, want) {
				t.Errorf("%s: %v, want %v", got.Name, got.Latencies, want)
			}
		}
	})
}
