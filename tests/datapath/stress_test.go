// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/nodeagent/intent"
)

// TestPoliciesThatDoNotFitDropAndLeakNothing hands over what is too much for the maps, in several ways, between policies that fit.
func TestPoliciesThatDoNotFitDropAndLeakNothing(t *testing.T) {
	w := newWorld(t, nil)
	random := &swaps{rand.New(rand.NewPCG(seedOf(t), 0)), w.addPod("a", podA4, podA6), w.addPod("b", podB4, podB6)}
	underTraffic(t, w, random.a, random.b, random.next(), func(traffic *standing) {
		for round := range 2 {
			for name, spoil := range tooMuch {
				traffic.await(3)
				p := random.next()
				spoil(p)
				err := w.dp.SetPolicy(context.Background(), p)
				if err == nil || name != "a set with too many rules" && !errors.Is(err, bpfmap.ErrFull) {
					t.Errorf("%s: %v", name, err)
				}
				traffic.await(3)
				if round > 0 {
					must(t, w.dp.SetPolicy(context.Background(), random.next()))
				}
			}
		}
	})
}

// tooMuch makes a policy one that does not fit.
var tooMuch = map[string]func(*datapath.PolicyState){
	"a set with too many rules": func(p *datapath.PolicyState) { addRules(p, "huge", 16_385) },
	"too many rules in all sets": func(p *datapath.PolicyState) {
		for i := range 12 {
			addRules(p, fmt.Sprint("big-", i), 12_000)
		}
	},
	"too many CIDRs": func(p *datapath.PolicyState) {
		blocks := map[datapath.AtomID]datapath.CIDR{}
		for i := range 66_000 {
			prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
			blocks[datapath.AtomID(prefix.String())] = datapath.CIDR{Prefixes: []netip.Prefix{prefix}}
		}
		p.CIDRs = datapath.MapOf(blocks)
	},
}

func addRules(p *datapath.PolicyState, name string, n int) {
	set := datapath.PolicySet{ID: datapath.SetID(name), Default: datapath.Allow}
	for i := range n {
		set.Rules = append(set.Rules, datapath.Rule{ID: datapath.RuleID(i + 1), AnyPeer: true, AnyPort: true})
	}
	p.Sets[set.ID] = set
}

// churned is a cluster whose pods change their labels all the time, but for two pods of this node.
type churned struct {
	*rand.Rand
	*intent.Cluster
	pods []*corev1.Pod
}

const churnedPods, churnedValues = 2000, 50

func newChurned(t *testing.T, seed uint64, a, b *pod) *churned {
	t.Helper()
	rules, err := intent.NewRuleTable("")
	must(t, err)
	c := &churned{Rand: rand.New(rand.NewPCG(seed, 0)), Cluster: intent.NewCluster("test", rules)}
	c.SetNamespace("default", map[string]string{"team": "default"})
	for _, p := range []*pod{a, b} {
		c.SetPod(apiPod(string(p.ep.ID), "test", map[string]string{"app": p.ep.Name}, p.ep.Addrs...))
	}
	for i := range churnedPods {
		addr := netip.AddrFrom4([4]byte{10, 244, byte(1 + i/250), byte(1 + i%250)})
		c.pods = append(c.pods, apiPod(fmt.Sprint("pod-", i), "elsewhere", nil, addr))
		c.relabel(i)
	}
	c.policy(t, "allow", fmt.Sprintf(
		`{podSelector: {matchLabels: {app: b}}, ingress: [{from: [{podSelector: {matchLabels: {app: a}}}], ports: [{port: 7000, protocol: UDP}, {port: %d, protocol: UDP}, {port: 80}]}]}`, numberedUDP))
	for i := range churnedValues {
		// What pods with a label may do at the denied ports changes with them; the standing traffic's pods never have it.
		c.policy(t, fmt.Sprint("churn-", i), fmt.Sprintf(`{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: "%d"}}}], ports: [{port: 7001, protocol: UDP}, {port: %d}]}], policyTypes: [Ingress]}`, i, 81+i))
	}
	c.policy(t, "egress", `{podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [b, "1", "2"]}]}}]}]}`)
	return c
}

func apiPod(uid, node string, labels map[string]string, addrs ...netip.Addr) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: uid, UID: types.UID(uid), Labels: labels}, Spec: corev1.PodSpec{NodeName: node}}
	for _, addr := range addrs {
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: addr.String()})
	}
	return pod
}

func (c *churned) policy(t *testing.T, name, spec string) {
	t.Helper()
	p := networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)}}
	must(t, yaml.UnmarshalStrict([]byte(spec), &p.Spec))
	_, err := c.SetNetworkPolicy(&p)
	must(t, err)
}

// relabel replaces a pod by one with other labels, as the API's events do.
func (c *churned) relabel(i int) {
	pod := c.pods[i].DeepCopy()
	pod.Labels = map[string]string{"app": fmt.Sprint(c.IntN(churnedValues)), "serial": fmt.Sprint(c.IntN(1 << 30))}
	c.pods[i] = pod
	c.SetPod(pod)
}

// TestLabelsOfAThousandPodsChangeEverySecond changes ten pods' labels a hundred times a second for some seconds, or as long as SKEP_CHURN
// says, and hands each change over.
func TestLabelsOfAThousandPodsChangeEverySecond(t *testing.T) {
	w := newWorld(t, nil)
	a, b := w.addPod("a", podA4, podA6), w.addPod("b", podB4, podB6)
	c := newChurned(t, seedOf(t), a, b)
	length := 5 * time.Second
	if given := os.Getenv("SKEP_CHURN"); given != "" {
		var err error
		length, err = time.ParseDuration(given)
		must(t, err)
	}
	const batch, interval = 10, 10 * time.Millisecond
	underTraffic(t, w, a, b, c.Policy(), func(traffic *standing) {
		heap := heapInUse()
		began, changed := time.Now(), 0
		var took []time.Duration
		for time.Since(began) < length && !traffic.failed() {
			// A machine that cannot keep up is given what has come meanwhile at once, as the queue of events would.
			for due := int(time.Since(began)/interval+1) * batch; changed < due; changed++ {
				c.relabel(c.IntN(len(c.pods)))
			}
			start := time.Now()
			must(t, w.dp.SetPolicy(context.Background(), c.Policy()))
			took = append(took, time.Since(start))
			time.Sleep(time.Until(began.Add(time.Duration(changed/batch) * interval)))
		}
		traffic.await(10)
		slices.Sort(took)
		rate := float64(changed) / time.Since(began).Seconds()
		grown := heapInUse() - heap
		t.Logf("%.0f changes/s, %d hand-overs, median %v, p99 %v, heap grown by %d KiB", rate, len(took), took[len(took)/2], took[len(took)*99/100], grown>>10)
		if rate < 900 {
			t.Errorf("only %.0f pods changed in a second", rate)
		}
		if last := took[len(took)*99/100]; last > time.Second {
			t.Errorf("hand-overs take up to %v", last)
		}
		if grown > 64<<20 {
			t.Errorf("the heap has grown by %d MiB", grown>>20)
		}
	})
}

func heapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
