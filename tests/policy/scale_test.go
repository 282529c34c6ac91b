// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/progtest"
	"skep.dev/skep/nodeagent/intent"
)

// The size at which changes are measured. All policies select pods of this node, which is the most that a node can have to do.
const (
	scaleNamespaces = 1000
	scalePods       = 10_000
	scaleLocal      = 250
	scalePolicies   = 1000
	scaleLabels     = 50
	scaleRules      = 100
	scaleCIDRs      = 5000
)

// largeWorld is a cluster of API objects, with the translator and the maps of one of its nodes.
type largeWorld struct {
	b       testing.TB
	h       *progtest.Harness
	cluster *intent.Cluster
	rnd     *rand.Rand
	pods    []*corev1.Pod
	// next numbers what is added.
	next int
}

func namespaceName(i int) string { return fmt.Sprint("ns-", i) }

// localNamespace are the namespaces with pods of this node.
func localNamespace(i int) int { return i % scaleLocal * (scaleNamespaces / scaleLocal) }

func namespaceLabels(i int) labels.Set {
	return labels.Set{"kubernetes.io/metadata.name": namespaceName(i), "team": fmt.Sprint("team-", i%20), "env": fmt.Sprint("env-", i%3)}
}

// pod makes the i-th pod: ten in each namespace, of which every fourth has one on this node. No two have the same labels.
func (w *largeWorld) pod(i int) *corev1.Pod {
	ns, node := i/10%scaleNamespaces, "node-b"
	if i < scalePods && i%(scalePods/scaleLocal) == 0 {
		node = thisNode
	}
	set := map[string]string{"app": fmt.Sprint("app-", i%5), "tier": fmt.Sprint("tier-", i%3), "decile": fmt.Sprint("decile-", i/10%10)}
	for len(set) < scaleLabels {
		set[fmt.Sprint("example.com/label-", len(set))] = fmt.Sprintf("value-%d-of-pod-%d", len(set), i)
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespaceName(ns), Name: fmt.Sprint("pod-", i), UID: types.UID(fmt.Sprint("uid-", i)), Labels: set, CreationTimestamp: metav1.NewTime(epoch),
		},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}}}},
		Status: corev1.PodStatus{PodIPs: []corev1.PodIP{
			{IP: netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)}).String()},
			{IP: netip.AddrFrom16([16]byte{0: 0xfd, 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)}).String()},
		}},
	}
}

func podPeer(set map[string]string) networkingv1.NetworkPolicyPeer {
	return networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: set}}
}

func blockPeer(cidr string) networkingv1.NetworkPolicyPeer {
	return networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: cidr}}
}

func tcpPort(n int) []networkingv1.NetworkPolicyPort {
	port := intstr.FromInt32(int32(n))
	return []networkingv1.NetworkPolicyPort{{Port: &port}}
}

// ingress makes a policy for all pods of a namespace, with one rule for each list of peers, each with a port of its own.
func ingress(ns int, name string, generation int64, from ...[]networkingv1.NetworkPolicyPeer) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespaceName(ns), Name: name, UID: types.UID("uid-" + namespaceName(ns) + name), Generation: generation,
	}}
	for i, peers := range from {
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: peers, Ports: tcpPort(1000 + i)})
	}
	return p
}

// policy makes the i-th policy: four kinds for each namespace with pods of this node, but the first has 100 rules and the second
// 5,000 CIDRs.
func (w *largeWorld) policy(i int) *networkingv1.NetworkPolicy {
	ns, name := localNamespace(i), fmt.Sprint("policy-", i)
	switch {
	case i == 0:
		var rules [][]networkingv1.NetworkPolicyPeer
		for j := range scaleRules {
			rules = append(rules, []networkingv1.NetworkPolicyPeer{podPeer(map[string]string{"app": fmt.Sprint("app-", j%5), "role": fmt.Sprint("role-", j)})})
		}
		return ingress(ns, name, 1, rules...)
	case i == 1:
		return w.blocks(scaleCIDRs, 1)
	}
	peer := podPeer(map[string]string{"app": fmt.Sprint("app-", i%5)})
	switch i / scaleLocal {
	case 1:
		peer.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": fmt.Sprint("team-", i%20)}}
	case 2:
		peer = networkingv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": namespaceName(ns + 1)}}}
	case 3:
		peer = blockPeer(fmt.Sprintf("10.244.%d.0/24", i%40))
	}
	return ingress(ns, name, 1, []networkingv1.NetworkPolicyPeer{peer})
}

// blocks is the policy with many CIDRs.
func (w *largeWorld) blocks(n int, generation int64) *networkingv1.NetworkPolicy {
	var peers []networkingv1.NetworkPolicyPeer
	for j := range n {
		peers = append(peers, blockPeer(fmt.Sprintf("100.%d.%d.0/24", 64+j/256, j%256)))
	}
	return ingress(localNamespace(1), "blocks", generation, peers)
}

// newLargeWorld makes the cluster and the node's endpoints; nothing is enforced yet.
func newLargeWorld(b testing.TB) *largeWorld {
	rules, err := intent.NewRuleTable("")
	if err != nil {
		b.Fatal(err)
	}
	w := &largeWorld{b: b, h: progtest.New(b), cluster: intent.NewCluster(thisNode, rules), rnd: rand.New(rand.NewPCG(1, 0)), next: scalePods}
	for i := range scalePods {
		w.pods = append(w.pods, w.pod(i))
	}
	return w
}

func (w *largeWorld) fill() {
	for i := range scaleNamespaces {
		w.cluster.SetNamespace(namespaceName(i), namespaceLabels(i))
	}
	for _, pod := range w.pods {
		w.cluster.SetPod(pod)
		w.attach(pod)
	}
	for i := range scalePolicies {
		w.setPolicy(w.policy(i))
	}
}

// attach gives a pod of this node its device.
func (w *largeWorld) attach(pod *corev1.Pod) {
	if pod.Spec.NodeName != thisNode {
		return
	}
	var addrs []netip.Addr
	for _, ip := range pod.Status.PodIPs {
		addrs = append(addrs, netip.MustParseAddr(ip.IP))
	}
	if err := w.h.Endpoint(datapath.EndpointID(pod.UID), addrs...); err != nil {
		w.b.Fatal(err)
	}
}

func (w *largeWorld) setPolicy(p *networkingv1.NetworkPolicy) {
	if _, err := w.cluster.SetNetworkPolicy(p); err != nil {
		w.b.Fatal(err)
	}
}

// load brings the maps up to date.
func (w *largeWorld) load() {
	if err := w.h.Load(w.cluster.Policy()); err != nil {
		w.b.Fatal(err)
	}
}

// scaleChange is a kind of change. Both do and undo are measured, each with its enforcement: what comes goes.
type scaleChange struct {
	name string
	make func(w *largeWorld) (do, undo func())
}

var scaleChanges = []scaleChange{
	{"pod-elsewhere", func(w *largeWorld) (do, undo func()) {
		pod := w.newPod("node-b")
		return func() { w.cluster.SetPod(pod) }, func() { w.cluster.DeletePod(pod.UID) }
	}},
	{"pod-here", func(w *largeWorld) (do, undo func()) {
		pod := w.newPod(thisNode)
		pod.Namespace = namespaceName(localNamespace(w.next))
		w.attach(pod)
		return func() { w.cluster.SetPod(pod) }, func() {
			if err := w.h.RemoveEndpoint(datapath.EndpointID(pod.UID)); err != nil {
				w.b.Fatal(err)
			}
			w.cluster.DeletePod(pod.UID)
		}
	}},
	{"label", func(w *largeWorld) (do, undo func()) {
		i := w.rnd.IntN(scalePods)
		before := w.pods[i]
		after := before.DeepCopy()
		after.Labels["app"] = fmt.Sprint("app-", (i+1)%5)
		return func() { w.cluster.SetPod(after) }, func() { w.cluster.SetPod(before) }
	}},
	{"namespace-label", func(w *largeWorld) (do, undo func()) {
		i := w.rnd.IntN(scaleNamespaces)
		after := namespaceLabels(i)
		after["team"] = fmt.Sprint("team-", (i+1)%20)
		return func() { w.cluster.SetNamespace(namespaceName(i), after) }, func() { w.cluster.SetNamespace(namespaceName(i), namespaceLabels(i)) }
	}},
	{"policy", func(w *largeWorld) (do, undo func()) {
		return w.policyChange([]networkingv1.NetworkPolicyPeer{podPeer(map[string]string{"app": "app-1", "tier": "tier-1"})})
	}},
	{"policy-over-1000-pods", func(w *largeWorld) (do, undo func()) {
		peer := podPeer(map[string]string{"decile": fmt.Sprint("decile-", w.rnd.IntN(10))})
		peer.NamespaceSelector = &metav1.LabelSelector{}
		return w.policyChange([]networkingv1.NetworkPolicyPeer{peer})
	}},
	{"policy-over-all-pods", func(w *largeWorld) (do, undo func()) {
		return w.policyChange([]networkingv1.NetworkPolicyPeer{{NamespaceSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "env", Operator: metav1.LabelSelectorOpExists}}}}})
	}},
	{"cidr", func(w *largeWorld) (do, undo func()) {
		return w.policyChange([]networkingv1.NetworkPolicyPeer{blockPeer(fmt.Sprintf("203.0.%d.%d/32", w.next>>8&255, w.next&255))})
	}},
	{"cidr-over-16-pods", func(w *largeWorld) (do, undo func()) {
		return w.policyChange([]networkingv1.NetworkPolicyPeer{blockPeer(fmt.Sprintf("10.244.%d.%d/28", w.rnd.IntN(39), w.rnd.IntN(16)*16))})
	}},
	{"cidr-of-5000", func(w *largeWorld) (do, undo func()) {
		w.next++
		more, fewer := w.blocks(scaleCIDRs+1, int64(2*w.next)), w.blocks(scaleCIDRs, int64(2*w.next+1))
		return func() { w.setPolicy(more) }, func() { w.setPolicy(fewer) }
	}},
}

func (w *largeWorld) newPod(node string) *corev1.Pod {
	w.next++
	pod := w.pod(scalePods + w.next%50_000)
	pod.Namespace, pod.Spec.NodeName = namespaceName(w.rnd.IntN(scaleNamespaces)), node
	return pod
}

func (w *largeWorld) policyChange(from []networkingv1.NetworkPolicyPeer) (do, undo func()) {
	w.next++
	p := ingress(localNamespace(w.next), fmt.Sprint("more-", w.next), 1, from)
	return func() { w.setPolicy(p) }, func() { w.cluster.DeleteNetworkPolicy(p.Namespace, p.Name) }
}

// BenchmarkScale prints what single changes cost in a large cluster, from the object's arrival at the translator until the node's maps
// enforce it; and what a full computation and the memory cost. The bar is a 99th percentile of 20 ms.
func BenchmarkScale(b *testing.B) {
	w := newLargeWorld(b)
	objects := heap()
	began := time.Now()
	w.fill()
	w.load()
	full := time.Since(began)
	b.Run("from-nothing", func(b *testing.B) {
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(float64(full.Milliseconds()), "ms")
	})
	b.Run("memory", func(b *testing.B) {
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(mib(heap()-objects), "agent-MiB")
		b.ReportMetric(mib(objects), "objects-MiB")
		b.ReportMetric(mib(w.mapBytes()), "maps-MiB")
		b.ReportMetric(float64(w.mapBytes())/scalePolicies, "maps-B/policy")
		b.ReportMetric(float64(len(w.cluster.Policy().Sets)), "sets")
	})
	for _, change := range scaleChanges {
		b.Run(change.name, func(b *testing.B) { w.measure(b, change) })
	}
}

// measure prints how long changes took, and for a machine that has other things to do how much processor time.
func (w *largeWorld) measure(b *testing.B, change scaleChange) {
	var took, used []time.Duration
	timed := func(f func()) {
		began, before := time.Now(), processorTime()
		f()
		w.load()
		took, used = append(took, time.Since(began)), append(used, processorTime()-before)
	}
	for b.Loop() {
		do, undo := change.make(w)
		timed(do)
		timed(undo)
	}
	slices.Sort(took)
	slices.Sort(used)
	report := func(of []time.Duration, percent int, unit string) {
		b.ReportMetric(float64(of[len(of)*percent/100].Microseconds())/1000, unit)
	}
	b.ReportMetric(0, "ns/op")
	report(took, 50, "p50-ms")
	report(took, 99, "p99-ms")
	report(used, 50, "p50-cpu-ms")
	report(used, 99, "p99-cpu-ms")
}

// processorTime is that of this process, garbage collection included.
func processorTime() time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// mapBytes is what the policy maps take now, arrays with all their room.
func (w *largeWorld) mapBytes() (total uint64) {
	m := w.h.Maps
	for _, policy := range []*ebpf.Map{
		m.Address.Map, m.CIDR.Map, m.Set.Map, m.Peer.Map, m.Port.Map, m.PortIndex.Map, m.Rule.Map, m.Block.Map, m.RuleSlot.Map, m.RuleCount,
	} {
		info, err := policy.Info()
		if err != nil {
			w.b.Fatal(err)
		}
		bytes, _ := info.Memlock()
		total += bytes
	}
	return total
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func mib(bytes uint64) float64 { return float64(bytes) / (1 << 20) }
