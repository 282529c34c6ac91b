// SPDX-License-Identifier: Apache-2.0

package place

import (
	"math"

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
	query           string // names what matching counts
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
			query:           "live/" + pod.Namespace + "/" + selector.String(),
		}
		if c.MinDomains != nil {
			sc.minDomains = int(*c.MinDomains)
		}
		out = append(out, sc)
	}
	return out
}

// crowding is how full the domains of a constraint are.
type crowding struct {
	domains []int32 // of each node of the snapshot
	counts  []int32 // matching pods by domain; absent for domains that the pod could not use
	usable  int     // number of domains that it could
}

const absent = -1

// of counts the pods of a domain.
func (w *crowding) of(domain int32) int { return int(max(0, w.counts[domain])) }

// crowding counts the matching pods in each domain that the pod could use, empty ones included.
func (c *spreadConstraint) crowding(s *Snapshot, p *Pod) crowding {
	t, domains := s.topology(c.key)
	w := crowding{domains: domains, counts: make([]int32, len(t.values))}
	for i := range w.counts {
		w.counts[i] = absent
	}
	matching := s.tally(c.query, func(n *Node) int32 { return c.matching(n, p.API.Namespace) })
	fits := c.eligible(s, p)
	for i, domain := range domains {
		if domain == unlabelled || !fits(i) {
			continue
		}
		if w.counts[domain] == absent {
			w.counts[domain] = 0
			w.usable++
		}
		w.counts[domain] += matching[i]
	}
	return w
}

// eligible tells whether the pod could use the i-th node, as far as the constraint asks.
func (c *spreadConstraint) eligible(s *Snapshot, p *Pod) func(i int) bool {
	var checks []check
	if affine := nodeAffinity(s, p); c.honourAffinity && affine != nil {
		checks = append(checks, affine)
	}
	if c.honourTaints {
		checks = append(checks, taints(s, p))
	}
	return func(i int) bool { return len(checks) == 0 || refused(checks, i, s.Nodes[i]) == nil }
}

func (c *spreadConstraint) matching(n *Node, namespace string) int32 {
	var count int32
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
	type limit struct {
		crowding
		most int // pods that a domain may have before this one comes
	}
	var hard []limit
	for _, c := range p.spread {
		if !c.hard {
			continue
		}
		w := c.crowding(s, p)
		most := w.lowest(c.minDomains) + c.maxSkew
		if c.selectsTheirOwn {
			most--
		}
		hard = append(hard, limit{w, most})
	}
	if len(hard) == 0 {
		return nil
	}
	skewed := []string{"node(s) didn't match pod topology spread constraints"}
	missing := []string{"node(s) didn't match pod topology spread constraints (missing required label)"}
	return func(i int, _ *Node) []string {
		for k := range hard {
			domain := hard[k].domains[i]
			if domain == unlabelled {
				return missing
			}
			if hard[k].of(domain) > hard[k].most {
				return skewed
			}
		}
		return nil
	}
}

// lowest is the global minimum; with fewer domains than minDomains it counts as zero.
func (w *crowding) lowest(minDomains int) int {
	if w.usable < minDomains || w.usable == 0 {
		return 0
	}
	least := int32(math.MaxInt32)
	for _, n := range w.counts {
		if n != absent {
			least = min(least, n)
		}
	}
	return int(least)
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
		w := c.crowding(s, p)
		at := 0
		for i, n := range nodes {
			for s.Nodes[at] != n { // nodes is s.Nodes with some left out
				at++
			}
			// A node without the label is worse than the fullest domain.
			if w.domains[at] == unlabelled {
				out[i] += int64(len(s.Nodes) + 1)
				continue
			}
			out[i] += int64(w.of(w.domains[at]))
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
	siblings := s.tally("owner/"+string(p.Owner), func(n *Node) int32 { return int32(n.siblings(p)) })
	for i, n := range s.Nodes {
		count := int64(siblings[i])
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
