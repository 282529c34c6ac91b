// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfobj"
	"skep.dev/skep/datapath/check"
	"skep.dev/skep/datapath/loader"
	"skep.dev/skep/datapath/progtest"
	"skep.dev/skep/nodeagent/policymodel"
	"skep.dev/skep/nodeagent/selfcheck"
)

// onMaps is the datapath of a harness as the self-check wants it.
type onMaps struct{ h *progtest.Harness }

func (d onMaps) Endpoints(context.Context) ([]datapath.Endpoint, error) {
	return d.h.Node.Endpoints(), nil
}

func (d onMaps) Ask(_ context.Context, questions []datapath.Question) ([]datapath.Answer, error) {
	return check.Ask(d.h.Programs[loader.ProgramCheck], questions)
}

func (d onMaps) Verify(ctx context.Context) ([]datapath.Repair, error) { return d.h.Node.Verify(ctx) }

// objects are those of a world.
func objects(w policymodel.World) (o selfcheck.Objects) {
	for _, p := range w.Pods {
		o.Pods = append(o.Pods, apiPod(p))
	}
	for _, ns := range w.Namespaces {
		o.Namespaces = append(o.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns.Name, Labels: ns.Labels}})
	}
	for _, n := range w.Nodes {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: n.Labels}}
		for _, ip := range n.IPs {
			node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Address: ip.String()})
		}
		o.Nodes = append(o.Nodes, node)
	}
	for i := range w.Policies {
		o.Policies = append(o.Policies, &w.Policies[i])
	}
	for i := range w.ClusterPolicies {
		o.ClusterPolicies = append(o.ClusterPolicies, &w.ClusterPolicies[i])
	}
	return o
}

// watched is a self-check under test. Its fields are changed while it sleeps.
type watched struct {
	*selfcheck.Checker
	objects selfcheck.Objects
	settled bool
	events  []string
	looks   int
}

func watch(h *progtest.Harness, o selfcheck.Objects) *watched {
	w := &watched{objects: o, settled: true}
	w.Checker = selfcheck.New(selfcheck.Config{
		NodeName: thisNode, Datapath: onMaps{h},
		Objects: func() (selfcheck.Objects, error) { return w.objects, nil },
		Settled: func() bool { return w.settled },
		Changed: func() { w.looks++ },
		Event:   func(message string) { w.events = append(w.events, message) },
		Rand:    rand.New(rand.NewPCG(1, 2)), Now: time.Now, Logger: slog.New(slog.DiscardHandler),
	})
	return w
}

// during runs the self-check inside a bubble, where time passes as fast as work is done.
func (w *watched) during(t *testing.T, steps func(pass func(time.Duration))) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); w.Run(ctx) }()
		steps(func(d time.Duration) {
			time.Sleep(d) // of the bubble's time
			synctest.Wait()
		})
		cancel()
		<-done
	})
}

func (w *watched) condition() corev1.NodeCondition { return w.NodeConditions()[0] }

// metric reads a counter, summed over its labels' values unless one is given.
func (w *watched) metric(t *testing.T, name, value string) (sum float64) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(w.Checker)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.Metric {
			named := slices.ContainsFunc(m.Label, func(l *dto.LabelPair) bool { return l.GetValue() == value })
			if family.GetName() == name && (value == "" || named) {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// TestSelfCheckAgreesWithRandomWorlds: what is enforced rightly raises no alarm, whatever the policies.
func TestSelfCheckAgreesWithRandomWorlds(t *testing.T) {
	h := progtest.New(t)
	rnd := seeded(t)
	samples := 0.0
	for range 20 {
		b := newBench(t, h)
		newGenerator(rnd, b).fill()
		b.load()
		w := watch(h, objects(b.world))
		w.during(t, func(pass func(time.Duration)) { pass(time.Minute) })
		if c := w.condition(); c.Status != corev1.ConditionFalse || c.Reason != "InAgreement" {
			t.Fatalf("%+v in\n%s", c, describe(b.world))
		}
		if len(w.events) > 0 || w.metric(t, "skep_policy_selfcheck_drift_total", "") != 0 {
			t.Fatalf("alarms %v", w.events)
		}
		samples += w.metric(t, "skep_policy_selfcheck_samples_total", "")
		b.close()
	}
	t.Logf("%.0f samples", samples)
	if samples < 1000 {
		t.Errorf("%.0f samples are too few to mean anything", samples)
	}
}

const limit = 30 * time.Second

// TestSelfCheckFindsWhatWasWrittenWrongly: the maps are as they were written, but that is not what the policies say.
func TestSelfCheckFindsWhatWasWrittenWrongly(t *testing.T) {
	for _, c := range []struct {
		name string
		// mistake changes the objects so that the node is wrong about them.
		mistake func(o *selfcheck.Objects)
		want    string
	}{
		{"a port", func(o *selfcheck.Objects) {
			o.Policies[0] = o.Policies[0].DeepCopy()
			o.Policies[0].Spec.Ingress[0].Ports[0].Port.IntVal = 81
		}, "policy says"},
		{"the last port of a range", func(o *selfcheck.Objects) {
			o.Policies[0] = o.Policies[0].DeepCopy()
			*o.Policies[0].Spec.Ingress[1].Ports[0].EndPort = 7998
		}, "policy says denied, the node has it allowed"},
		{"the exception of a block", func(o *selfcheck.Objects) {
			o.Policies[0] = o.Policies[0].DeepCopy()
			o.Policies[0].Spec.Ingress[2].From[0].IPBlock.Except = []string{"192.0.2.129/32"}
		}, "policy says"},
		{"a policy that is not known", func(o *selfcheck.Objects) { o.Policies = append(o.Policies, denies(t)) }, "policy says denied"},
		{"audit mode", func(o *selfcheck.Objects) {
			deny := denies(t)
			deny.Annotations = map[string]string{"skep.dev/enforcement": "audit"}
			o.Policies = append(o.Policies, deny)
		}, "with the policies in audit mode policy would say denied, the node has it allowed"},
		{"a label", func(o *selfcheck.Objects) {
			o.Pods[1] = o.Pods[1].DeepCopy()
			o.Pods[1].Labels = nil
		}, "policy says"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := progtest.New(t)
			b := selfChecked(t, h)
			w := watch(h, objects(b.world))
			right := w.objects
			w.during(t, func(pass func(time.Duration)) {
				pass(limit)
				if c := w.condition(); c.Reason != "InAgreement" {
					t.Fatalf("before: %+v", c)
				}
				w.objects.Policies, w.objects.Pods = slices.Clone(right.Policies), slices.Clone(right.Pods)
				c.mistake(&w.objects)
				took := time.Duration(0)
				for ; w.condition().Reason == "InAgreement" && took < 10*time.Minute; took += time.Second {
					pass(time.Second)
				}
				got := w.condition()
				if got.Status != corev1.ConditionTrue || got.Reason != "VerdictDiffers" || !strings.Contains(got.Message, c.want) {
					t.Errorf("%+v", got)
				}
				t.Logf("after %v: %s", took, got.Message)
				if n := w.metric(t, "skep_policy_selfcheck_drift_total", "verdict"); n == 0 || len(w.events) == 0 || w.looks == 0 {
					t.Errorf("%v verdicts, events %v, told %d times", n, w.events, w.looks)
				}
				if n := w.metric(t, "skep_policy_selfcheck_drift_total", "entry"); n != 0 {
					t.Errorf("%v entries are said to differ", n)
				}
				w.objects = right
				pass(limit)
				if c := w.condition(); c.Reason != "InAgreement" {
					t.Errorf("when it is right again: %+v", c)
				}
			})
		})
	}
}

// denies is a policy that isolates all pods.
func denies(t *testing.T) *networkingv1.NetworkPolicy {
	p := policyFrom(t, "shop/deny", `{podSelector: {}, policyTypes: [Ingress, Egress]}`)
	return &p
}

// selfChecked is a small world: a server that lets clients in on ports, and blocks of addresses.
func selfChecked(t *testing.T, h *progtest.Harness) *bench {
	b := newBench(t, h)
	t.Cleanup(b.close)
	b.setNamespace(policymodel.Namespace{Name: "shop", Labels: map[string]string{"team": "shop"}})
	for i, name := range []string{"server", "client", "stranger"} {
		b.setPod(policymodel.Pod{
			UID: "uid-" + name, Namespace: "shop", Name: name, Node: thisNode, Labels: map[string]string{"app": name}, Created: epoch,
			IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 0, byte(5 + i)})},
		})
	}
	b.setPolicy(policyFrom(t, "shop/server", `{podSelector: {matchLabels: {app: server}}, ingress: [
		{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 80}]},
		{ports: [{protocol: UDP, port: 7000, endPort: 7999}]},
		{from: [{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.128/25]}}]}]}`))
	b.load()
	return b
}

// TestSelfCheckDoesNotAccuseANodeOnTheMove: differences count only when nothing is on its way.
func TestSelfCheckDoesNotAccuseANodeOnTheMove(t *testing.T) {
	h := progtest.New(t)
	b := selfChecked(t, h)
	wrong := objects(b.world)
	wrong.Policies = append(wrong.Policies, denies(t))
	t.Run("not settled", func(t *testing.T) {
		w := watch(h, wrong)
		w.settled = false
		w.during(t, func(pass func(time.Duration)) { pass(5 * time.Minute) })
		if c := w.condition(); c.Reason != "InAgreement" || len(w.events) > 0 {
			t.Errorf("%+v %v", c, w.events)
		}
	})
	t.Run("right before it is certain", func(t *testing.T) {
		w := watch(h, wrong)
		w.during(t, func(pass func(time.Duration)) {
			for range 100 {
				pass(2500 * time.Millisecond)
				w.objects = objects(b.world)
				pass(2500 * time.Millisecond)
				w.objects = wrong
			}
		})
		if len(w.events) > 0 {
			t.Errorf("%v", w.events)
		}
	})
	t.Run("a policy that is known not to be in force", func(t *testing.T) {
		w := watch(h, wrong)
		w.objects.Unenforced = map[types.NamespacedName]bool{{Namespace: "shop", Name: "deny"}: true}
		w.during(t, func(pass func(time.Duration)) { pass(5 * time.Minute) })
		if c := w.condition(); c.Reason != "InAgreement" || len(w.events) > 0 {
			t.Errorf("%+v %v", c, w.events)
		}
	})
}

// TestSelfCheckRepairs: an entry that goes comes back in time, and the condition tells for a while.
func TestSelfCheckRepairs(t *testing.T) {
	h := progtest.New(t)
	b := selfChecked(t, h)
	w := watch(h, objects(b.world))
	from, to := b.world.Pods[1].IPs[0], b.world.Pods[0].IPs[0]
	reaches := func(t *testing.T) bool {
		t.Helper()
		allow, _, _, err := h.Verdict("uid-client", datapath.Egress, progtest.Packet{Src: from, Dst: to, Protocol: progtest.TCP, SrcPort: 1000, DstPort: 80})
		if err != nil {
			t.Fatal(err)
		}
		// The harness stands in for the pod with an entry of its own, which is drift as well.
		if err := h.Endpoint("uid-client", from); err != nil {
			t.Fatal(err)
		}
		if err := h.Maps.Endpoint.Remove(1); err != nil {
			t.Fatal(err)
		}
		return allow
	}
	w.during(t, func(pass func(time.Duration)) {
		pass(time.Minute)
		if !reaches(t) {
			t.Fatal("the client does not reach the server")
		}
		keys, values, err := h.Maps.Peer.Read(-1)
		if err != nil {
			t.Fatal(err)
		}
		for i, key := range keys {
			if values[i] != (bpfobj.SkepRow{}) && key.Class != 0 {
				if err := h.Maps.Peer.Remove(key); err != nil {
					t.Fatal(err)
				}
			}
		}
		if reaches(t) {
			t.Fatal("it does without a row")
		}
		pass(limit)
		if !reaches(t) {
			t.Error("nothing was repaired")
		}
		if c := w.condition(); c.Status != corev1.ConditionTrue || c.Reason != "Repaired" || !strings.Contains(c.Message, "skep_peer") {
			t.Errorf("%+v", c)
		}
		if w.metric(t, "skep_datapath_repaired_entries_total", "skep_peer") == 0 || len(w.events) != 1 || w.looks == 0 {
			t.Errorf("events %v, told %d times", w.events, w.looks)
		}
		pass(6 * time.Minute)
		if c := w.condition(); c.Reason != "InAgreement" {
			t.Errorf("later: %+v", c)
		}
	})
}

// BenchmarkSelfCheck prints how much of a processor the self-check takes in a large cluster.
func BenchmarkSelfCheck(b *testing.B) {
	w := newLargeWorld(b)
	w.fill()
	w.load()
	o := selfcheck.Objects{Pods: w.pods}
	for i := range scaleNamespaces {
		o.Namespaces = append(o.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespaceName(i), Labels: namespaceLabels(i)}})
	}
	for i := range scalePolicies {
		o.Policies = append(o.Policies, w.policy(i))
	}
	checker := watch(w.h, o)
	for b.Loop() {
		const period = 30 * time.Second
		ctx, cancel := context.WithTimeout(b.Context(), period)
		before := cpuTime(b)
		checker.Run(ctx)
		cancel()
		b.ReportMetric(100*(cpuTime(b)-before).Seconds()/period.Seconds(), "%-of-a-processor")
	}
	if c := checker.condition(); c.Reason != "InAgreement" {
		b.Errorf("%+v", c)
	}
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
