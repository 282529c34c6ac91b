// SPDX-License-Identifier: Apache-2.0

package place

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

func seeded() *rand.Rand { return rand.New(rand.NewPCG(1, 1)) }

// node makes a node with 4 CPUs, 8 GiB and room for 10 pods. Words: zone=Z, key=value labels, cordoned, taint=key:effect,
// cpu=N.
func node(name, words string) *Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
	n.Status.Allocatable = corev1.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("8Gi"), "pods": resource.MustParse("10"), "example.com/gpu": resource.MustParse("1")}
	for _, word := range strings.Fields(words) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "zone":
			n.Labels[corev1.LabelTopologyZone] = value
		case "cordoned":
			n.Spec.Unschedulable = true
		case "taint":
			k, effect, _ := strings.Cut(value, ":")
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: k, Value: "v", Effect: corev1.TaintEffect(effect)})
		case "cpu":
			n.Status.Allocatable["cpu"] = resource.MustParse(value)
		default:
			n.Labels[key] = value
		}
	}
	return NewNode(n)
}

// pod makes a pod. Words: cpu=N, memory=N, gpu=N, app=A, owner=U, port=N, tolerate=key, on=NODE, namespace=N.
func pod(name, words string, change ...func(*corev1.Pod)) *Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), Labels: map[string]string{}}}
	c := corev1.Container{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{}}}
	for _, word := range strings.Fields(words) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "cpu", "memory":
			c.Resources.Requests[corev1.ResourceName(key)] = resource.MustParse(value)
		case "gpu":
			c.Resources.Requests["example.com/gpu"] = resource.MustParse(value)
		case "owner":
			yes := true
			p.OwnerReferences = []metav1.OwnerReference{{UID: types.UID(value), Controller: &yes}}
		case "port":
			var n int32
			_, _ = fmt.Sscan(value, &n)
			c.Ports = []corev1.ContainerPort{{HostPort: n, ContainerPort: n, Protocol: corev1.ProtocolTCP}}
		case "tolerate":
			p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: value, Operator: corev1.TolerationOpExists})
		case "on":
			p.Spec.NodeName = value
		case "namespace":
			p.Namespace = value
		default:
			p.Labels[key] = value
		}
	}
	p.Spec.Containers = []corev1.Container{c}
	for _, f := range change {
		f(p)
	}
	return NewPod(p)
}

func snapshot(nodes ...*Node) *Snapshot {
	return NewSnapshot(nodes, map[string]labels.Set{"ns": {"team": "a"}, "other": {"team": "b"}})
}

func selector(app string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
}

func spread(key string, skew int32, when corev1.UnsatisfiableConstraintAction) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints,
			corev1.TopologySpreadConstraint{MaxSkew: skew, TopologyKey: key, WhenUnsatisfiable: when, LabelSelector: selector("a")})
	}
}

func affinity(near, far *corev1.PodAffinityTerm) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{}
		if near != nil {
			p.Spec.Affinity.PodAffinity = &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{*near}}
		}
		if far != nil {
			p.Spec.Affinity.PodAntiAffinity = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{*far}}
		}
	}
}

func hostTerm(app string) *corev1.PodAffinityTerm {
	return &corev1.PodAffinityTerm{LabelSelector: selector(app), TopologyKey: corev1.LabelHostname}
}

func TestFilters(t *testing.T) {
	wants := func(app string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": app} }
	}
	otherTeam := func(p *corev1.Pod) {
		affinity(nil, &corev1.PodAffinityTerm{LabelSelector: selector("a"), TopologyKey: corev1.LabelHostname, NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "b"}}})(p)
	}
	sidecar := func(p *corev1.Pod) {
		always := corev1.ContainerRestartPolicyAlways
		p.Spec.InitContainers = []corev1.Container{{RestartPolicy: &always, Ports: []corev1.ContainerPort{{HostPort: 80}}}}
	}
	bigInit := func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("9")}}}}
	}
	for _, c := range []struct {
		name  string
		nodes []*Node
		pod   *Pod
		want  string // the only node that fits, or the message
	}{
		{"no nodes", nil, pod("p", ""), "no nodes available to schedule pods"},
		{"it fits", []*Node{node("n", "")}, pod("p", "cpu=4 memory=8Gi"), "n"},
		{"too large in two ways", []*Node{node("n", "")}, pod("p", "cpu=5 memory=9Gi"), "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory."},
		{"an init container is too large", []*Node{node("n", "")}, pod("p", "cpu=1", bigInit), "0/1 nodes are available: 1 Insufficient cpu."},
		{"what runs there counts", []*Node{node("n", "").With(pod("q", "cpu=3"))}, pod("p", "cpu=2"), "0/1 nodes are available: 1 Insufficient cpu."},
		{"what left does not", []*Node{node("n", "").With(pod("q", "cpu=3 gpu=1")).Without("q")}, pod("p", "cpu=2 gpu=1"), "n"},
		{"extended resources", []*Node{node("n", "").With(pod("q", "gpu=1"))}, pod("p", "gpu=1"), "0/1 nodes are available: 1 Insufficient example.com/gpu."},
		{"no request needs no room", []*Node{node("n", "").With(pod("q", "cpu=4"))}, pod("p", ""), "n"},
		{"too many pods", []*Node{crowd(node("n", ""), 10)}, pod("p", ""), "0/1 nodes are available: 1 Too many pods."},
		{"reasons are counted and sorted", []*Node{node("a", "cpu=1"), node("b", "taint=k:NoSchedule"), node("c", "taint=k:NoExecute")}, pod("p", "cpu=2"),
			"0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {k: v}."},
		{"cordoned", []*Node{node("a", "cordoned"), node("b", "")}, pod("p", ""), "b"},
		{"cordoned and tolerated", []*Node{node("a", "cordoned")}, pod("p", "tolerate=node.kubernetes.io/unschedulable"), "a"},
		{"cordoned message", []*Node{node("a", "cordoned")}, pod("p", ""), "0/1 nodes are available: 1 node(s) were unschedulable."},
		{"a tolerated taint", []*Node{node("a", "taint=k:NoSchedule")}, pod("p", "tolerate=k"), "a"},
		{"a soft taint does not refuse", []*Node{node("a", "taint=k:PreferNoSchedule")}, pod("p", ""), "a"},
		{"the named node", []*Node{node("a", ""), node("b", "")}, pod("p", "on=b"), "b"},
		{"node selector", []*Node{node("a", "disk=hdd"), node("b", "disk=ssd")}, pod("p", "", wants("ssd")), "b"},
		{"node selector message", []*Node{node("a", "disk=hdd")}, pod("p", "", wants("ssd")), "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."},
		{"host port taken", []*Node{node("a", "").With(pod("q", "port=80")), node("b", "")}, pod("p", "port=80"), "b"},
		{"host port of a sidecar taken", []*Node{node("a", "").With(pod("q", "port=80"))}, pod("p", "", sidecar), "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."},
		{"host port free again", []*Node{node("a", "").With(pod("q", "port=80")).Without("q")}, pod("p", "port=80"), "a"},
		{"spread over zones", []*Node{node("a", "zone=1").With(pod("q", "app=a")), node("b", "zone=1"), node("c", "zone=2")}, pod("p", "app=a", spread(corev1.LabelTopologyZone, 1, corev1.DoNotSchedule)), "c"},
		{"spread message", []*Node{node("a", "zone=1").With(pod("q", "app=a")), node("b", "zone=2 cordoned"), node("c", "")}, pod("p", "app=a", spread(corev1.LabelTopologyZone, 1, corev1.DoNotSchedule)),
			"0/3 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) didn't match pod topology spread constraints (missing required label), 1 node(s) were unschedulable."},
		{"anti-affinity", []*Node{node("a", "").With(pod("q", "app=a")), node("b", "")}, pod("p", "", affinity(nil, hostTerm("a"))), "b"},
		{"anti-affinity message", []*Node{node("a", "").With(pod("q", "app=a"))}, pod("p", "", affinity(nil, hostTerm("a"))), "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules."},
		{"anti-affinity means its own namespace", []*Node{node("a", "").With(pod("q", "app=a namespace=other"))}, pod("p", "", affinity(nil, hostTerm("a"))), "a"},
		{"anti-affinity by namespace label", []*Node{node("a", "").With(pod("q", "app=a namespace=other")), node("b", "")}, pod("p", "", otherTeam), "b"},
		{"anti-affinity of those that run", []*Node{node("a", "").With(pod("q", "", affinity(nil, hostTerm("a"))))}, pod("p", "app=a"), "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."},
		{"affinity", []*Node{node("a", ""), node("b", "").With(pod("q", "app=a"))}, pod("p", "", affinity(hostTerm("a"), nil)), "b"},
		{"affinity message", []*Node{node("a", "")}, pod("p", "app=b", affinity(hostTerm("a"), nil)), "0/1 nodes are available: 1 node(s) didn't match pod affinity rules."},
		{"affinity of the first of its kind", []*Node{node("a", "")}, pod("p", "app=a", affinity(hostTerm("a"), nil)), "a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Decide(snapshot(c.nodes...), c.pod, seeded())
			text := ""
			if err != nil {
				text = err.Error()
			} else {
				text = got.API.Name
			}
			if text != c.want {
				t.Errorf("got  %s\nwant %s", text, c.want)
			}
		})
	}
}

func crowd(n *Node, pods int) *Node {
	for i := range pods {
		n = n.With(pod(fmt.Sprint("x", i), ""))
	}
	return n
}

func TestScores(t *testing.T) {
	prefers := func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
			Weight: 10, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: corev1.NodeSelectorOpIn, Values: []string{"ssd"}}}},
		}}}}
	}
	near := func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 50, PodAffinityTerm: *hostTerm("a")}}}}
	}
	for _, c := range []struct {
		name  string
		nodes []*Node
		pod   *Pod
		want  string
	}{
		{"the emptier node", []*Node{node("a", "").With(pod("q", "cpu=2 memory=4Gi")), node("b", "")}, pod("p", "cpu=1"), "b"},
		{"the node without a soft taint", []*Node{node("a", "taint=k:PreferNoSchedule"), node("b", "")}, pod("p", ""), "b"},
		{"the preferred node", []*Node{node("a", "disk=hdd"), node("b", "disk=ssd")}, pod("p", "", prefers), "b"},
		{"near its friend", []*Node{node("a", ""), node("b", "").With(pod("q", "app=a"))}, pod("p", "", near), "b"},
		{"away from its siblings", []*Node{node("a", "").With(pod("q", "owner=o")), node("b", "").With(pod("r", "owner=x"))}, pod("p", "owner=o"), "b"},
		{"another zone before another node", []*Node{node("a", "zone=1").With(pod("q", "owner=o")), node("b", "zone=1"), node("c", "zone=2").With(pod("r", "owner=x"))}, pod("p", "owner=o"), "c"},
		{"soft spreading", []*Node{node("a", "").With(pod("q", "app=a")), node("b", "").With(pod("r", ""))}, pod("p", "app=a", spread(corev1.LabelHostname, 1, corev1.ScheduleAnyway)), "b"},
		{"even use of both resources", []*Node{node("a", "").With(pod("q", "cpu=2 memory=1Mi")), node("b", "").With(pod("r", "cpu=1m memory=4Gi"))}, pod("p", "cpu=2 memory=1Mi"), "b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Decide(snapshot(c.nodes...), c.pod, seeded())
			if err != nil || got.API.Name != c.want {
				t.Errorf("got %v, %v, want %s", got, err, c.want)
			}
		})
	}
}

func TestTiesAreShared(t *testing.T) {
	var nodes []*Node
	for i := range 4 {
		nodes = append(nodes, node(fmt.Sprint("n", i), ""))
	}
	s, random, counts := snapshot(nodes...), seeded(), map[string]int{}
	for range 4000 {
		n, err := Decide(s, pod("p", ""), random)
		if err != nil {
			t.Fatal(err)
		}
		counts[n.API.Name]++
	}
	for name, n := range counts {
		if n < 850 || n > 1150 {
			t.Errorf("%s was picked %d times of 4000", name, n)
		}
	}
	first, _ := Decide(s, pod("p", ""), seeded())
	again, _ := Decide(s, pod("p", ""), seeded())
	if first != again {
		t.Error("the same seed picks another node")
	}
}

// TestNeverOverfull places random pods until nothing fits, checking with plain sums.
func TestNeverOverfull(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	nodes := []*Node{node("a", ""), node("b", "cpu=2"), node("c", "cpu=8")}
	s := snapshot(nodes...)
	cpu, count := map[string]int64{}, map[string]int{}
	placed := 0
	for i := range 200 {
		p := pod(fmt.Sprint("p", i), fmt.Sprintf("cpu=%dm", random.IntN(1500)))
		n, err := Decide(s, p, random)
		var unfit *Unfit
		if errors.As(err, &unfit) {
			for _, n := range s.Nodes {
				if count[n.API.Name] < 10 && cpu[n.API.Name]+p.Requests.MilliCPU <= n.Allocatable.MilliCPU {
					t.Fatalf("%s would fit on %s", p.API.Name, n.API.Name)
				}
			}
			continue
		}
		placed++
		s = s.Replace(n, n.With(p))
		cpu[n.API.Name] += p.Requests.MilliCPU
		count[n.API.Name]++
		if cpu[n.API.Name] > n.Allocatable.MilliCPU || count[n.API.Name] > 10 {
			t.Fatalf("%s is overfull: %d, %d pods", n.API.Name, cpu[n.API.Name], count[n.API.Name])
		}
	}
	if placed < 10 {
		t.Errorf("only %d pods placed", placed)
	}
}

// BenchmarkDecide places pods of controllers on a thousand nodes in three zones that already run thirty pods each.
func BenchmarkDecide(b *testing.B) {
	var nodes []*Node
	for i := range 1000 {
		n := node(fmt.Sprintf("n%04d", i), fmt.Sprintf("zone=%d cpu=1000", i%3))
		n.MaxPods = 1 << 30
		for j := range 30 {
			n = n.With(pod(fmt.Sprintf("p%d-%d", i, j), fmt.Sprintf("cpu=10m memory=1Mi owner=o%d app=a%d", (i+j)%100, j)))
		}
		nodes = append(nodes, n)
	}
	for _, c := range []struct {
		name string
		pod  *Pod
	}{
		{"plain", pod("new", "cpu=1m memory=1Mi owner=o1 app=a1")},
		{"hard-spread", pod("new", "cpu=1m memory=1Mi owner=o1 app=a", spread(corev1.LabelTopologyZone, 1000, corev1.DoNotSchedule))},
		{"anti-affinity", pod("new", "cpu=1m memory=1Mi owner=o1 app=a1", affinity(nil, hostTerm("x")))},
	} {
		b.Run(c.name, func(b *testing.B) {
			s, random := snapshot(nodes...), seeded()
			i := 0
			for b.Loop() {
				p := NewPod(c.pod.API)
				n, err := Decide(s, p, random)
				if err != nil {
					b.Fatal(err)
				}
				if i++; i%1000 == 0 { // so that nodes do not grow without end
					s = snapshot(nodes...)
					continue
				}
				s = s.Replace(n, n.With(p))
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "decisions/s")
		})
	}
}
