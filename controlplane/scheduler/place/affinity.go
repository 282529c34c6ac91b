// SPDX-License-Identifier: Apache-2.0

package place

import (
	"slices"

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
}

// affinityTerms are a pod's wishes about other pods.
type affinityTerms struct {
	required, requiredAnti   []affinityTerm
	preferred, preferredAnti []affinityTerm
}

func (a *affinityTerms) any() bool {
	return len(a.required)+len(a.requiredAnti)+len(a.preferred)+len(a.preferredAnti) > 0
}

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

// domain is one value of one topology key.
type domain struct{ key, value string }

// podAffinity is the filter of required affinity and anti-affinity, of the new pod and of those that run.
func podAffinity(s *Snapshot, p *Pod) check {
	a := &p.affinity
	if len(a.required) == 0 && len(a.requiredAnti) == 0 && s.antiAffinity == 0 {
		return nil
	}
	near := make([]map[string]int, len(a.required))
	far := make([]map[string]int, len(a.requiredAnti))
	matched := false
	for i := range near {
		near[i] = a.required[i].domains(s)
		matched = matched || len(near[i]) > 0
	}
	for i := range far {
		far[i] = a.requiredAnti[i].domains(s)
	}
	refusing := refusingDomains(s, p)
	// The first pod of a group that wants to be near its own kind may go anywhere.
	first := !matched && slices.IndexFunc(a.required, func(t affinityTerm) bool { return !t.selects(s, p.API) }) < 0
	return func(n *Node) []string {
		if !nearEnough(a.required, near, n, first) {
			return []string{"node(s) didn't match pod affinity rules"}
		}
		for i := range a.requiredAnti {
			if value, ok := n.API.Labels[a.requiredAnti[i].key]; ok && far[i][value] > 0 {
				return []string{"node(s) didn't match pod anti-affinity rules"}
			}
		}
		for d := range refusing {
			if value, ok := n.API.Labels[d.key]; ok && value == d.value {
				return []string{"node(s) didn't satisfy existing pods anti-affinity rules"}
			}
		}
		return nil
	}
}

func nearEnough(terms []affinityTerm, near []map[string]int, n *Node, first bool) bool {
	for i := range terms {
		value, ok := n.API.Labels[terms[i].key]
		if !ok || near[i][value] == 0 && !first {
			return false
		}
	}
	return true
}

// domains counts the pods that the term selects, by the value of its key.
func (t *affinityTerm) domains(s *Snapshot) map[string]int {
	out := map[string]int{}
	for _, n := range s.Nodes {
		if !n.facts.may(t.needs) {
			continue
		}
		value, ok := n.API.Labels[t.key]
		if !ok {
			continue
		}
		for _, other := range n.Pods {
			if t.selects(s, other.API) {
				out[value]++
			}
		}
	}
	return out
}

// refusingDomains are those where a running pod's required anti-affinity keeps p away.
func refusingDomains(s *Snapshot, p *Pod) map[domain]bool {
	if s.antiAffinity == 0 {
		return nil
	}
	out := map[domain]bool{}
	for _, n := range s.Nodes {
		if n.antiAffinity == 0 {
			continue
		}
		for _, other := range n.Pods {
			for i := range other.affinity.requiredAnti {
				t := &other.affinity.requiredAnti[i]
				if value, ok := n.API.Labels[t.key]; ok && t.selects(s, p.API) {
					out[domain{t.key, value}] = true
				}
			}
		}
	}
	return out
}

// podPreference adds up preferred terms: of the new pod about those that run, and of those about the new one.
type podPreference struct{}

func (podPreference) score(s *Snapshot, p *Pod, nodes []*Node, out []int64) {
	if len(p.affinity.preferred)+len(p.affinity.preferredAnti) == 0 && s.affinity == 0 {
		return
	}
	wishes := map[domain]int64{}
	add := func(terms []affinityTerm, of *corev1.Pod, at *Node, sign int64) {
		for i := range terms {
			if value, ok := at.API.Labels[terms[i].key]; ok && terms[i].selects(s, of) {
				wishes[domain{terms[i].key, value}] += sign * terms[i].weight
			}
		}
	}
	asks := len(p.affinity.preferred)+len(p.affinity.preferredAnti) > 0
	for _, n := range s.Nodes {
		if !asks && n.affinity == 0 {
			continue
		}
		for _, other := range n.Pods {
			add(p.affinity.preferred, other.API, n, 1)
			add(p.affinity.preferredAnti, other.API, n, -1)
			add(other.affinity.preferred, p.API, n, 1)
			add(other.affinity.preferredAnti, p.API, n, -1)
		}
	}
	if len(wishes) == 0 {
		return
	}
	var least int64
	for i, n := range nodes {
		for d, weight := range wishes {
			if n.API.Labels[d.key] == d.value {
				out[i] += weight
			}
		}
		least = min(least, out[i])
	}
	for i := range out {
		out[i] -= least
	}
	normalize(out, false)
}
