// SPDX-License-Identifier: Apache-2.0

package place

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// affinityTerm selects pods, and the part of the cluster they count in.
type affinityTerm struct {
	namespaces        []string
	namespaceSelector labels.Selector // nil: none
	selector          labels.Selector
	key               string
	weight            int64
	// needs is empty when the term means pods of several namespaces.
	needs []fact
	query string // names what the term selects; empty when that depends on labels of namespaces
}

// affinityTerms are a pod's wishes about other pods.
type affinityTerms struct {
	required, requiredAnti   []affinityTerm
	preferred, preferredAnti []affinityTerm
}

func (a *affinityTerms) prefers() bool { return len(a.preferred)+len(a.preferredAnti) > 0 }

func readAffinity(pod *corev1.Pod) affinityTerms {
	var out affinityTerms
	if pod.Spec.Affinity == nil {
		return out
	}
	if a := pod.Spec.Affinity.PodAffinity; a != nil {
		out.required = requiredTerms(pod, a.RequiredDuringSchedulingIgnoredDuringExecution)
		out.preferred = weightedTerms(pod, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a := pod.Spec.Affinity.PodAntiAffinity; a != nil {
		out.requiredAnti = requiredTerms(pod, a.RequiredDuringSchedulingIgnoredDuringExecution)
		out.preferredAnti = weightedTerms(pod, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return out
}

func requiredTerms(pod *corev1.Pod, terms []corev1.PodAffinityTerm) []affinityTerm {
	var out []affinityTerm
	for i := range terms {
		out = append(out, readTerm(pod, &terms[i], 0))
	}
	return out
}

func weightedTerms(pod *corev1.Pod, terms []corev1.WeightedPodAffinityTerm) []affinityTerm {
	var out []affinityTerm
	for i := range terms {
		out = append(out, readTerm(pod, &terms[i].PodAffinityTerm, int64(terms[i].Weight)))
	}
	return out
}

func readTerm(pod *corev1.Pod, t *corev1.PodAffinityTerm, weight int64) affinityTerm {
	out := affinityTerm{namespaces: t.Namespaces, selector: labels.Nothing(), key: t.TopologyKey, weight: weight}
	if s, err := metav1.LabelSelectorAsSelector(t.LabelSelector); err == nil {
		out.selector = withKeys(withKeys(s, pod, t.MatchLabelKeys, selection.In), pod, t.MismatchLabelKeys, selection.NotIn)
	}
	if t.NamespaceSelector != nil {
		if s, err := metav1.LabelSelectorAsSelector(t.NamespaceSelector); err == nil {
			out.namespaceSelector = s
		}
	} else if len(out.namespaces) == 0 {
		out.namespaces = []string{pod.Namespace}
	}
	if out.namespaceSelector == nil {
		out.query = "any/" + strings.Join(out.namespaces, ",") + "/" + out.selector.String()
	}
	if len(out.namespaces) == 1 && out.namespaceSelector == nil {
		out.needs = needs(out.selector, out.namespaces[0])
	}
	return out
}

func withKeys(s labels.Selector, pod *corev1.Pod, keys []string, operator selection.Operator) labels.Selector {
	for _, key := range keys {
		value, ok := pod.Labels[key]
		if !ok {
			continue
		}
		if r, err := labels.NewRequirement(key, operator, []string{value}); err == nil {
			s = s.Add(*r)
		}
	}
	return s
}

// selects reports whether the term means this pod.
func (t *affinityTerm) selects(s *Snapshot, pod *corev1.Pod) bool {
	if !t.selector.Matches(labels.Set(pod.Labels)) {
		return false
	}
	if slices.Contains(t.namespaces, pod.Namespace) {
		return true
	}
	return t.namespaceSelector != nil && t.namespaceSelector.Matches(s.Namespaces[pod.Namespace])
}

// podAffinity is the filter of required affinity and anti-affinity, of the new pod and of those that run.
func podAffinity(s *Snapshot, p *Pod) check {
	a := &p.affinity
	if len(a.required) == 0 && len(a.requiredAnti) == 0 && s.antiAffinity == 0 {
		return nil
	}
	near, far := areas(s, a.required), areas(s, a.requiredAnti)
	// The first pod of a group that wants to be near its own kind may go anywhere.
	first := !slices.ContainsFunc(near, func(r area) bool { return r.any }) &&
		!slices.ContainsFunc(a.required, func(t affinityTerm) bool { return !t.selects(s, p.API) })
	refusing := refusingAreas(s, p)
	apart := []string{"node(s) didn't match pod affinity rules"}
	tooNear := []string{"node(s) didn't match pod anti-affinity rules"}
	unwanted := []string{"node(s) didn't satisfy existing pods anti-affinity rules"}
	return func(i int, _ *Node) []string {
		for k := range near {
			if near[k].domains[i] == unlabelled || !near[k].has(i) && !first {
				return apart
			}
		}
		for k := range far {
			if far[k].has(i) {
				return tooNear
			}
		}
		for k := range refusing {
			if refusing[k].has(i) {
				return unwanted
			}
		}
		return nil
	}
}

// area is a set of domains of one key.
type area struct {
	domains []int32 // of each node of the snapshot
	in      []bool  // by domain
	any     bool
}

func newArea(s *Snapshot, key string) area {
	t, domains := s.topology(key)
	return area{domains: domains, in: make([]bool, len(t.values))}
}

// add puts the domain of the i-th node in; a node without the label is in none.
func (r *area) add(i int) {
	if domain := r.domains[i]; domain != unlabelled {
		r.in[domain], r.any = true, true
	}
}

func (r *area) has(i int) bool { return r.domains[i] != unlabelled && r.in[r.domains[i]] }

// areas are where the pods run that each of the terms selects.
func areas(s *Snapshot, terms []affinityTerm) []area {
	out := make([]area, len(terms))
	for k := range terms {
		t := &terms[k]
		out[k] = newArea(s, t.key)
		for i, count := range s.tally(t.query, func(n *Node) int32 { return t.count(s, n) }) {
			if count > 0 {
				out[k].add(i)
			}
		}
	}
	return out
}

// count counts the pods of a node that the term selects.
func (t *affinityTerm) count(s *Snapshot, n *Node) int32 {
	if !n.facts.may(t.needs) {
		return 0
	}
	var count int32
	for _, other := range n.Pods {
		if t.selects(s, other.API) {
			count++
		}
	}
	return count
}

// refusingAreas are where a running pod's required anti-affinity keeps p away.
func refusingAreas(s *Snapshot, p *Pod) []area {
	if s.antiAffinity == 0 {
		return nil
	}
	// The labels of namespaces matter, too; they are the same in all snapshots that share a memo.
	kind := p.API.Namespace + "/" + labels.Set(p.API.Labels).String()
	refusals := recall(s.memo.refusals, kind, func() *column[[]string] { return new(column[[]string]) })
	var keys []string
	var out []area
	for i, refused := range refusals.fill(s.Nodes, func(n *Node) []string { return n.refusedKeys(s, p.API) }) {
		for _, key := range refused {
			at := slices.Index(keys, key)
			if at < 0 {
				at = len(keys)
				keys, out = append(keys, key), append(out, newArea(s, key))
			}
			out[at].add(i)
		}
	}
	return out
}

// refusedKeys are the topology keys of the required anti-affinity that the node's pods have towards pod.
func (n *Node) refusedKeys(s *Snapshot, pod *corev1.Pod) []string {
	if n.antiAffinity == 0 {
		return nil
	}
	var out []string
	for _, other := range n.Pods {
		for i := range other.affinity.requiredAnti {
			t := &other.affinity.requiredAnti[i]
			if !slices.Contains(out, t.key) && t.selects(s, pod) {
				out = append(out, t.key)
			}
		}
	}
	return out
}

// podPreference adds up preferred terms: of the new pod about those that run, and of those about the new one.
type podPreference struct{}

func (podPreference) score(s *Snapshot, p *Pod, nodes []*Node, out []int64) {
	asks := p.affinity.prefers()
	if !asks && s.affinity == 0 {
		return
	}
	wishes := map[string]*wish{}
	add := func(terms []affinityTerm, of *corev1.Pod, at int, sign int64) {
		for k := range terms {
			t := &terms[k]
			if !t.selects(s, of) {
				continue
			}
			w := wishes[t.key]
			if w == nil {
				w = newWish(s, t.key)
				wishes[t.key] = w
			}
			if domain := w.domains[at]; domain != unlabelled {
				w.weights[domain] += sign * t.weight
			}
		}
	}
	for at, n := range s.Nodes {
		if !asks && n.affinity == 0 {
			continue
		}
		for _, other := range n.Pods {
			add(p.affinity.preferred, other.API, at, 1)
			add(p.affinity.preferredAnti, other.API, at, -1)
			add(other.affinity.preferred, p.API, at, 1)
			add(other.affinity.preferredAnti, p.API, at, -1)
		}
	}
	if len(wishes) == 0 {
		return
	}
	var least int64
	at := 0
	for i, n := range nodes {
		for s.Nodes[at] != n { // nodes is s.Nodes with some left out
			at++
		}
		for _, w := range wishes {
			if domain := w.domains[at]; domain != unlabelled {
				out[i] += w.weights[domain]
			}
		}
		least = min(least, out[i])
	}
	for i := range out {
		out[i] -= least
	}
	normalize(out, false)
}

// wish adds up how much a pod wants to be in each domain of one key.
type wish struct {
	domains []int32 // of each node of the snapshot
	weights []int64 // by domain
}

func newWish(s *Snapshot, key string) *wish {
	t, domains := s.topology(key)
	return &wish{domains: domains, weights: make([]int64, len(t.values))}
}
