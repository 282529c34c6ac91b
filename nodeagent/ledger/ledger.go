// SPDX-License-Identifier: Apache-2.0

// Package ledger keeps account of which policies are in force on a node, how long that took, and why others are not.
package ledger

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"

	"skep.dev/skep/enforcement"
)

// keptLatencies is how many of the last latencies of a policy are kept.
const keptLatencies = 32

// ID names a policy. One without a namespace is a ClusterNetworkPolicy.
type ID struct{ Namespace, Name string }

func (id ID) String() string {
	if id.Namespace == "" {
		return "ClusterNetworkPolicy " + id.Name
	}
	return id.Namespace + "/" + id.Name
}

// Fault says why something is not in force; the zero Fault is none.
type Fault struct {
	Reason  enforcement.Reason
	Message string
}

// Ledger is safe for concurrent use. Its size is bounded by the number of policies.
type Ledger struct {
	latency prometheus.Histogram
	changed chan struct{}

	mu      sync.Mutex // guards what follows
	records map[ID]*record
	// limited are the policies that are in force, but not for all pods.
	limited map[ID]Fault
	// node is why nothing at all can change; zero when all is well.
	node Fault
	// pods is why some pods are unknown to the datapath, or not as they are now.
	pods Fault
}

type record struct {
	enforcement.Policy
	// heard is when Newest came; zero when that tells nothing, as at the agent's start.
	heard time.Time
}

// New returns an empty one.
func New() *Ledger {
	return &Ledger{
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "skep_policy_enforcement_latency_seconds",
			Help: "Time from the moment in which the node heard of a version of a policy to the last write to the maps.",
			// From 1 ms to 8 s, with the goal of 20 ms among them.
			Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 4, 8},
		}),
		changed: make(chan struct{}, 1),
		records: map[ID]*record{},
	}
}

// Changed is sent on when faults may have come, gone or changed.
func (l *Ledger) Changed() <-chan struct{} { return l.changed }

func (l *Ledger) tell() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// Heard takes note of a version of a policy, and of what of it is not understood. at is zero if nobody knows how long the version
// has been there.
func (l *Ledger) Heard(id ID, v enforcement.Version, notUnderstood []string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.records[id]
	if r == nil {
		r = &record{Policy: enforcement.Policy{Namespace: id.Namespace, Name: id.Name}}
		l.records[id] = r
	}
	if r.Newest == v {
		return
	}
	r.Newest, r.heard, r.NotUnderstood = v, at, notUnderstood
	if len(notUnderstood) > 0 {
		l.tell()
	}
}

// Enforced takes note that a version of a policy is in force since at.
func (l *Ledger) Enforced(id ID, v enforcement.Version, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.records[id]
	if r == nil || (r.InForce == v && r.Reason == "") {
		return
	}
	if r.InForce != v {
		r.InForce, r.Since = v, at
	}
	if v != r.Newest {
		return
	}
	if !r.heard.IsZero() {
		took := at.Sub(r.heard)
		l.latency.Observe(took.Seconds())
		if len(r.Latencies) == keptLatencies {
			r.Latencies = r.Latencies[1:]
		}
		r.Latencies = append(slices.Clone(r.Latencies), took) // cloned: reports share the old ones
		r.heard = time.Time{}
	}
	if r.Reason != "" {
		r.Reason, r.Message = "", ""
		l.tell()
	}
}

// Refused takes note that the newest version of a policy cannot be in force. What was stays.
func (l *Ledger) Refused(id ID, f Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.records[id]; r != nil {
		r.Reason, r.Message = f.Reason, f.Message
		l.tell()
	}
}

// Gone forgets a policy.
func (l *Ledger) Gone(id ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.records[id]; r != nil && r.Reason != "" {
		l.tell()
	}
	delete(l.records, id)
}

// Limit replaces the list of the policies that are not in force for some pods.
func (l *Ledger) Limit(limited map[ID]Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(limited) > 0 || len(l.limited) > 0 {
		l.tell()
	}
	l.limited = limited
}

// Stuck says why no policy can change at all. A zero Fault says that all is well again.
func (l *Ledger) Stuck(f Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.node != f {
		l.node = f
		l.tell()
	}
}

// PodsRefused says which pods have no room, and why. A zero Fault says that all have.
func (l *Ledger) PodsRefused(f Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pods != f {
		l.pods = f
		l.tell()
	}
}

// Policies lists all policies by namespace and name.
func (l *Ledger) Policies() []enforcement.Policy {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]enforcement.Policy, 0, len(l.records))
	for id, r := range l.records {
		out = append(out, l.policy(id, r))
	}
	slices.SortFunc(out, func(a, b enforcement.Policy) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// policy adds to a record what the node or some pods are in the way of.
func (l *Ledger) policy(id ID, r *record) enforcement.Policy {
	p := r.Policy
	f := l.limited[id]
	if p.InForce != p.Newest {
		f = l.node
	}
	if p.Reason == "" {
		p.Reason, p.Message = f.Reason, f.Message
	}
	return p
}

// Faulty lists the policies that are not in force as they should be.
func (l *Ledger) Faulty() []enforcement.Policy {
	return slices.DeleteFunc(l.Policies(), func(p enforcement.Policy) bool { return p.Reason == "" })
}

// shownPolicies is how many policies the condition names.
const shownPolicies = 5

// NodeConditions says whether every policy that the node has heard of is in force.
func (l *Ledger) NodeConditions() []v1.NodeCondition {
	l.mu.Lock()
	node, pods := l.node, l.pods
	l.mu.Unlock()
	return []v1.NodeCondition{condition(node, pods, l.Faulty())}
}

func condition(node, pods Fault, faulty []enforcement.Policy) v1.NodeCondition {
	c := v1.NodeCondition{Type: enforcement.NodeCondition, Status: v1.ConditionTrue}
	switch {
	case node != Fault{}:
		c.Reason, c.Message = string(node.Reason), "the last good state of all policies stays in force: "+node.Message
	case len(faulty) > 0:
		c.Reason = string(faulty[0].Reason)
		c.Message = "the last good version stays in force of " + naming(faulty)
		if pods != (Fault{}) {
			c.Message += "; no room for " + pods.Message
		}
	case pods != Fault{}:
		c.Reason, c.Message = string(pods.Reason), "no room for "+pods.Message
	default:
		c.Status, c.Reason, c.Message = v1.ConditionFalse, "PoliciesEnforced", "every policy is in force as the node has heard of it"
	}
	return c
}

func naming(list []enforcement.Policy) string {
	var texts []string
	for _, p := range list[:min(len(list), shownPolicies)] {
		texts = append(texts, fmt.Sprintf("%s (%s: %s)", ID{p.Namespace, p.Name}, p.Reason, p.Message))
	}
	text := strings.Join(texts, ", ")
	if more := len(list) - len(texts); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

var failuresDesc = prometheus.NewDesc("skep_policy_failures", "Policies whose newest version is not in force on this node, by reason.", []string{"reason"}, nil)

// Describe implements prometheus.Collector.
func (l *Ledger) Describe(out chan<- *prometheus.Desc) {
	l.latency.Describe(out)
	out <- failuresDesc
}

// Collect implements prometheus.Collector.
func (l *Ledger) Collect(out chan<- prometheus.Metric) {
	l.latency.Collect(out)
	counts := map[enforcement.Reason]int{enforcement.Invalid: 0, enforcement.TooManyRules: 0, enforcement.NoRoom: 0, enforcement.Failed: 0}
	for _, p := range l.Faulty() {
		counts[p.Reason]++
	}
	for reason, n := range counts {
		out <- prometheus.MustNewConstMetric(failuresDesc, prometheus.GaugeValue, float64(n), string(reason))
	}
}
