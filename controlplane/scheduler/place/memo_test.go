// SPDX-License-Identifier: Apache-2.0

package place

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestWhatIsRememberedStaysTrue lets a cluster change at random and compares each decision with that of a snapshot of
// the same nodes which remembers nothing.
func TestWhatIsRememberedStaysTrue(t *testing.T) {
	random := seeded()
	nodes := make([]*Node, 12)
	for i := range nodes {
		nodes[i] = node(fmt.Sprintf("n%02d", i), fmt.Sprintf("zone=%d", i%3))
	}
	s := snapshot(nodes...)
	refusals := map[string]int{}
	for step := range 3000 {
		p := randomPod(random, step)
		want, wantUnfit := filterNodes(NewSnapshot(s.Nodes, s.Namespaces), p, nil)
		got, unfit := filterNodes(s, p, nil)
		if !slices.Equal(got, want) || !reflect.DeepEqual(unfit, wantUnfit) {
			t.Fatalf("step %d: %d nodes, %v; without memory %d nodes, %v", step, len(got), unfit, len(want), wantUnfit)
		}
		for reason := range unfit.Reasons {
			refusals[reason]++
		}
		fresh, _ := Decide(NewSnapshot(s.Nodes, s.Namespaces), p, seeded())
		if chosen, _ := Decide(s, p, seeded()); chosen != fresh {
			t.Fatalf("step %d: another node than without memory", step)
		}
		old := s.Nodes[random.IntN(len(s.Nodes))]
		s = s.Replace(old, changed(random, old, p, slices.Contains(got, old)))
	}
	for _, reason := range []string{
		"node(s) didn't match pod topology spread constraints", "node(s) didn't match pod affinity rules",
		"node(s) didn't match pod topology spread constraints (missing required label)",
		"node(s) didn't match pod anti-affinity rules", "node(s) didn't satisfy existing pods anti-affinity rules",
	} {
		if refusals[reason] == 0 {
			t.Errorf("nothing was refused because %s", reason)
		}
	}
}

// changed is the node with a pod more or less, or with another zone.
func changed(random *rand.Rand, n *Node, p *Pod, fits bool) *Node {
	switch {
	case random.IntN(20) == 0:
		api := n.API.DeepCopy()
		api.Labels[corev1.LabelTopologyZone] = fmt.Sprint(random.IntN(4))
		if random.IntN(4) == 0 {
			delete(api.Labels, corev1.LabelTopologyZone)
		}
		return n.Describe(api)
	case len(n.Pods) > 0 && random.IntN(3) == 0:
		return n.Without(n.Pods[random.IntN(len(n.Pods))].API.UID)
	case fits:
		return n.With(p)
	}
	return n
}

// randomPod has any of the wishes that look at other pods.
func randomPod(random *rand.Rand, i int) *Pod {
	key := []string{corev1.LabelHostname, corev1.LabelTopologyZone}[random.IntN(2)]
	apps := []string{"a", "b", "c"}
	app := apps[random.IntN(3)]
	term := func() *corev1.PodAffinityTerm {
		t := &corev1.PodAffinityTerm{TopologyKey: key, LabelSelector: selector(apps[random.IntN(3)])}
		if random.IntN(4) == 0 {
			t.NamespaceSelector = &metav1.LabelSelector{}
		}
		return t
	}
	changes := []func(*corev1.Pod){
		func(*corev1.Pod) {},
		spread(key, int32(1+random.IntN(2)), corev1.DoNotSchedule),
		spread(key, 1, corev1.ScheduleAnyway),
		affinity(term(), nil),
		affinity(nil, term()),
		func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
				PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 10, PodAffinityTerm: *term()}}}}
		},
	}
	gone := func(p *corev1.Pod) {
		if random.IntN(5) == 0 {
			now := metav1.Now()
			p.DeletionTimestamp = &now
		}
	}
	return pod(fmt.Sprint("p", i), "cpu=10m app="+app, changes[random.IntN(len(changes))], gone)
}

func TestTheMemoIsBounded(t *testing.T) {
	s := snapshot(node("a", "zone=1").With(pod("shy", "", affinity(nil, hostTerm("x")))), node("b", "zone=2"))
	for i := range 10 * memoLimit {
		app := fmt.Sprint("a", i)
		p := pod(app, "app="+app, spread(corev1.LabelTopologyZone, 1, corev1.DoNotSchedule), affinity(nil, hostTerm(app)))
		n, err := Decide(s, p, seeded())
		if err != nil {
			t.Fatal(err)
		}
		api := n.API.DeepCopy()
		maps.Copy(api.Labels, map[string]string{corev1.LabelTopologyZone: fmt.Sprint("z", i)})
		s = s.Replace(n, n.Describe(api))
	}
	if a, b := len(s.memo.tallies), len(s.memo.refusals); a > memoLimit || b > memoLimit {
		t.Errorf("%d tallies and %d refusals are kept", a, b)
	}
	if n := len(s.memo.topologies[corev1.LabelTopologyZone].values); n > 10 {
		t.Errorf("%d zones are kept for 2 nodes", n)
	}
}
