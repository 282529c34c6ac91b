// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	clientfake "k8s.io/client-go/kubernetes/fake"

	"skep.dev/skep/datapath"
	"skep.dev/skep/enforcement"
	"skep.dev/skep/nodeagent/intent"
	"skep.dev/skep/nodeagent/ledger"
)

// agent is what of a node's agent makes policies of the API come into force.
type agent struct {
	*world
	client *clientfake.Clientset
	dir    string
	ledger *ledger.Ledger
	// end stops the present run. It leaves nothing behind that a run that is killed would not.
	end func()
}

// newAgent runs one with the pods a and b; b serves the ports 80 and 81.
func newAgent(t *testing.T) *agent {
	t.Helper()
	n := &agent{world: newWorld(t, nil), dir: t.TempDir(), client: clientfake.NewClientset(
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}},
		apiPod("uid-a", "test", map[string]string{"app": "a"}, podA4, podA6), apiPod("uid-b", "test", map[string]string{"app": "b"}, podB4, podB6),
	)}
	n.addPod("a", podA4, podA6)
	for _, port := range []uint16{80, 81} {
		if port == 80 {
			n.addPod("b", podB4, podB6)
		}
		n.pods["b"].serve(port, fmt.Sprint("b at ", port))
	}
	n.run()
	t.Cleanup(func() { n.end() })
	return n
}

func (n *agent) run() {
	ctx, cancel := context.WithCancel(context.Background())
	rules, err := intent.NewRuleTable(filepath.Join(n.dir, "rules"))
	must(n.t, err)
	good, err := intent.NewLastGood(filepath.Join(n.dir, "last-good"))
	if err != nil {
		n.t.Log(err)
	}
	n.ledger = ledger.New()
	translator := intent.New(intent.Config{
		NodeName: "test", Informers: informers.NewSharedInformerFactory(n.client, 0), Datapath: n.dp,
		Rules: rules, LastGood: good, Ledger: n.ledger,
	})
	done := make(chan error)
	go func() { done <- translator.Run(ctx) }()
	n.end = func() {
		cancel()
		must(n.t, <-done)
		n.end = func() {}
	}
}

// restart has another process take over, with between done in between.
func (n *agent) restart(between func()) {
	n.t.Helper()
	n.end()
	n.stop()
	between()
	n.start()
	n.run()
}

// apply writes a version of the policy of b to the API.
func (n *agent) apply(p *networkingv1.NetworkPolicy) {
	n.t.Helper()
	policies := n.client.NetworkingV1().NetworkPolicies("default")
	_, err := policies.Update(n.t.Context(), p, metav1.UpdateOptions{})
	if err != nil {
		_, err = policies.Create(n.t.Context(), p, metav1.CreateOptions{})
	}
	must(n.t, err)
}

// await waits until the ledger says that a generation of the policy is in force, and why it is not the newest.
func (n *agent) await(generation int64, reason enforcement.Reason) {
	n.t.Helper()
	var last []enforcement.Policy
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		last = n.ledger.Policies()
		if len(last) == 1 && last[0].InForce.Generation == generation && last[0].Reason == reason {
			return
		}
	}
	n.t.Fatalf("the ledger says %+v, want generation %d in force and %q", last, generation, reason)
}

// answers is what a gets from the ports of b.
func (n *agent) answers() string {
	n.t.Helper()
	var out []string
	for _, port := range []uint16{80, 81} {
		out = append(out, says(n.pods["a"].dial(netip.AddrPortFrom(podB4, port), short)))
	}
	return strings.Join(out, ", ")
}

// stays says that the answers are the same for some time, in which a policy that is refused is tried again.
func (n *agent) stays(want string) {
	n.t.Helper()
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); {
		if got := n.answers(); got != want {
			n.t.Fatalf("%s, want %s", got, want)
		}
	}
}

// ofB is a version of a policy that lets a reach port 80 of b.
func ofB(generation int64) *networkingv1.NetworkPolicy {
	port := intstr.FromInt(80)
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "of-b", UID: "policy-1", Generation: generation}}
	p.Spec.PodSelector.MatchLabels = map[string]string{"app": "b"}
	p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{Ports: []networkingv1.NetworkPolicyPort{{Port: &port}}}}
	return p
}

func withTooManyRules(p *networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy {
	for range datapath.MaxRules {
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{})
	}
	return p
}

func withTooManyBlocks(p *networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy {
	rule := networkingv1.NetworkPolicyIngressRule{}
	for i := range 66_000 {
		cidr := fmt.Sprintf("198.%d.%d.%d/32", i>>16, i>>8&255, i&255)
		rule.From = append(rule.From, networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: cidr}})
	}
	p.Spec.Ingress = append(p.Spec.Ingress, rule)
	return p
}

const only80, nothing, both = "b at 80, timeout", "timeout, timeout", "b at 80, b at 81"

var refused = map[enforcement.Reason]func(*networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy{
	enforcement.TooManyRules: withTooManyRules, enforcement.NoRoom: withTooManyBlocks,
}

// TestALastGoodVersionOutlivesTheAgent has an agent start while the API has a policy that does not fit.
func TestALastGoodVersionOutlivesTheAgent(t *testing.T) {
	for reason, spoil := range refused {
		t.Run(string(reason), func(t *testing.T) {
			n := newAgent(t)
			n.apply(ofB(1))
			n.await(1, "")
			n.apply(spoil(ofB(2)))
			n.await(1, reason)
			n.restart(func() {})
			n.await(1, reason)
			n.stays(only80)
			n.apply(spoil(ofB(3)))
			n.restart(func() {})
			n.await(1, reason)
			n.stays(only80)
			n.apply(ofB(4))
			n.await(4, "")
			n.restart(func() { n.noFiles() })
			n.await(4, "")
			n.stays(only80)
		})
	}
}

// TestWhatWasNeverInForceIsNotAfterARestart has a policy that was refused from the beginning.
func TestWhatWasNeverInForceIsNotAfterARestart(t *testing.T) {
	for reason, spoil := range refused {
		t.Run(string(reason), func(t *testing.T) {
			n := newAgent(t)
			n.awaitAnswers(both)
			n.apply(spoil(ofB(1)))
			n.await(0, reason)
			n.restart(func() {})
			n.await(0, reason)
			n.stays(both)
		})
	}
}

// TestWithoutALastGoodVersionNothingPasses has the file be gone, unreadable, or about a policy that had the same name.
func TestWithoutALastGoodVersionNothingPasses(t *testing.T) {
	for name, spoil := range map[string]func(n *agent, file string){
		"gone":      func(_ *agent, file string) { must(t, os.Remove(file)) },
		"damaged":   func(_ *agent, file string) { must(t, os.Truncate(file, 100)) },
		"of before": func(n *agent, _ string) { n.recreate(withTooManyRules(ofB(1))) },
	} {
		t.Run(name, func(t *testing.T) {
			n := newAgent(t)
			n.apply(ofB(1))
			n.await(1, "")
			n.apply(withTooManyRules(ofB(2)))
			n.await(1, enforcement.TooManyRules)
			n.restart(func() { spoil(n, n.file()) })
			n.awaitAnswers(nothing)
			n.await(0, enforcement.TooManyRules)
			n.stays(nothing)
			n.noFiles()
		})
	}
}

// recreate puts another policy with the same name into the place of one.
func (n *agent) recreate(p *networkingv1.NetworkPolicy) {
	n.t.Helper()
	must(n.t, n.client.NetworkingV1().NetworkPolicies(p.Namespace).Delete(n.t.Context(), p.Name, metav1.DeleteOptions{}))
	p.UID = types.UID("policy-2")
	n.apply(p)
}

func (n *agent) awaitAnswers(want string) {
	n.t.Helper()
	got := ""
	for deadline := time.Now().Add(10 * time.Second); got != want && time.Now().Before(deadline); {
		got = n.answers()
	}
	if got != want {
		n.t.Fatalf("%s, want %s", got, want)
	}
}

// file is the one that keeps a last good version.
func (n *agent) file() string {
	n.t.Helper()
	files, err := filepath.Glob(filepath.Join(n.dir, "last-good", "*"))
	if must(n.t, err); len(files) != 1 {
		n.t.Fatalf("last good versions: %v", files)
	}
	return files[0]
}

func (n *agent) noFiles() {
	n.t.Helper()
	files, err := filepath.Glob(filepath.Join(n.dir, "last-good", "*"))
	if err != nil || len(files) > 0 {
		n.t.Errorf("last good versions: %v, %v", files, err)
	}
}
