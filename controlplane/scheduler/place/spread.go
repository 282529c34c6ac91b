// SPDX-License-Identifier: Apache-2.0

package place

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// spreadConstraint is one entry of topologySpreadConstraints.
type spreadConstraint struct {
	maxSkew         int
	key             string
	hard            bool
	selector        labels.Selector
	minDomains      int
	honourAffinity  bool
	honourTaints    bool
	selectsTheirOwn bool // the pod itself matches the selector
	needs           []fact
}

func spreadConstraints(pod *corev1.Pod) []spreadConstraint {
	var out []spreadConstraint
	for _, c := range pod.Spec.TopologySpreadConstraints {
		selector, err := metav1.LabelSelectorAsSelector(c.LabelSelector)
		if err != nil {
			selector = labels.Nothing()
		}
		selector = withKeys(selector, pod, c.MatchLabelKeys, selection.In)
		sc := spreadConstraint{
			maxSkew:         int(c.MaxSkew),
			key:             c.TopologyKey,
			hard:            c.WhenUnsatisfiable == corev1.DoNotSchedule,
			selector:        selector,
			honourAffinity:  c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor,
			honourTaints:    c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor,
			selectsTheirOwn: selector.Matches(labels.Set(pod.Labels)),
			needs:           needs(selector, pod.Namespace),
		}
		if c.MinDomains != nil {
			sc.minDomains = int(*c.MinDomains)
		}
		out = append(out, sc)
	}
	return out
}

// counts gives the number of matching pods in each domain that the pod could use, empty ones included.
func (c *spreadConstraint) counts(s *Snapshot, p *Pod) map[string]int {
	tainted := taints(s, p)
	out := map[string]int{}
	for _, n := range s.Nodes {
		domain, ok := n.API.Labels[c.key]
		if !ok {
			continue
		}
		if c.honourAffinity {
			if ok, err := p.required.Match(n.API); !ok || err != nil {
				continue
			}
		}
		if c.honourTaints && tainted(n) != nil {
			continue
		}
		out[domain] += c.matching(n, p.API.Namespace)
	}
	return out
}

func (c *spreadConstraint) matching(n *Node, namespace string) int {
	count := 0
	if !n.facts.may(c.needs) {
		return 0
	}
	for _, other := range n.Pods {
		if other.API.Namespace == namespace && other.API.DeletionTimestamp == nil && c.selector.Matches(labels.Set(other.API.Labels)) {
			count++
		}
	}
	return count
}

// topologySpread is the filter for constraints with whenUnsatisfiable: DoNotSchedule.
func topologySpread(s *Snapshot, p *Pod) check {
	type domains struct {
		spreadConstraint
		counts map[string]int
		lowest int
	}
	var hard []domains
	for _, c := range p.spread {
		if c.hard {
			counts := c.counts(s, p)
			hard = append(hard, domains{c, counts, lowest(counts, c.minDomains)})
		}
	}
	if len(hard) == 0 {
		return nil
	}
	skewed := []string{"node(s) didn't match pod topology spread constraints"}
	unlabelled := []string{"node(s) didn't match pod topology spread constraints (missing required label)"}
	return func(n *Node) []string {
		for _, c := range hard {
			domain, ok := n.API.Labels[c.key]
			if !ok {
				return unlabelled
			}
			after := c.counts[domain]
			if c.selectsTheirOwn {
				after++
			}
			if after-c.lowest > c.maxSkew {
				return skewed
			}
		}
		return nil
	}
}

// lowest is the global minimum; with fewer domains than minDomains it counts as zero.
func lowest(counts map[string]int, minDomains int) int {
	if len(counts) < minDomains || len(counts) == 0 {
		return 0
	}
	least := -1
	for _, n := range counts {
		if least < 0 || n < least {
			least = n
		}
	}
	return least
}

// spreadPreference prefers domains with fewer pods: by the pod's own soft constraints, or without any constraints by
// its controller, over nodes and zones.
type spreadPreference struct{}

func (spreadPreference) score(s *Snapshot, p *Pod, nodes []*Node, out []int64) {
	soft := false
	for _, c := range p.spread {
		if c.hard {
			continue
		}
		soft = true
		counts := c.counts(s, p)
		for i, n := range nodes {
			// A node without the label is worse than the fullest domain.
			domain, ok := n.API.Labels[c.key]
			if !ok {
				out[i] += int64(len(s.Nodes) + 1)
				continue
			}
			out[i] += int64(counts[domain])
		}
	}
	switch {
	case soft:
		normalize(out, true)
	case len(p.spread) == 0 && p.Owner != "":
		spreadOwner(s, p, nodes, out)
	}
}

// Shares of the score when a controller's pods are spread by default.
const (
	zoneShare = 2
	nodeShare = 1
)

// spreadOwner spreads the pods of one controller over zones first and nodes second.
func spreadOwner(s *Snapshot, p *Pod, nodes []*Node, out []int64) {
	zones := map[string]int64{}
	next := 0 // nodes is s.Nodes with some left out
	for _, n := range s.Nodes {
		count := int64(n.siblings(p))
		if next < len(nodes) && nodes[next] == n {
			out[next] = count
			next++
		}
		if count > 0 && n.zone != "" {
			zones[n.zone] += count
		}
	}
	normalize(out, true)
	if len(zones) == 0 {
		return
	}
	var fullest int64
	for _, n := range zones {
		fullest = max(fullest, n)
	}
	for i, n := range nodes {
		emptiness := maxScore - zones[n.zone]*maxScore/fullest
		out[i] = (out[i]*nodeShare + emptiness*zoneShare) / (nodeShare + zoneShare)
	}
}
