// SPDX-License-Identifier: Apache-2.0

package peer

import "github.com/prometheus/client_golang/prometheus"

var nodesDesc = prometheus.NewDesc("skep_peer_nodes",
	"Other nodes that are ready, by whether their agents are followed, were waited for in vain, or cannot be reached.", []string{"state"}, nil)

// Why a node is not waited for.
const (
	reasonLate        = "late"
	reasonUnreachable = "unreachable"
)

type metrics struct {
	waited   prometheus.Histogram
	skipped  *prometheus.CounterVec
	timeouts prometheus.Counter
}

func newMetrics() metrics {
	m := metrics{
		waited: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "skep_peer_wait_seconds", Help: "How long starting pods waited for the other nodes to know them.",
			Buckets: []float64{.001, .003, .01, .03, .1, .3, 1, 3},
		}),
		skipped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "skep_peer_skipped_total", Help: "Nodes that starting pods did not wait for, by reason: counted once for each pod and node.",
		}, []string{"reason"}),
		timeouts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "skep_peer_timeouts_total", Help: "How often a node was waited for in vain.",
		}),
	}
	for _, reason := range []string{reasonLate, reasonUnreachable} {
		m.skipped.WithLabelValues(reason) // shown at 0, too
	}
	return m
}

// Describe implements prometheus.Collector.
func (p *Peers) Describe(out chan<- *prometheus.Desc) {
	out <- nodesDesc
	p.metrics.waited.Describe(out)
	p.metrics.skipped.Describe(out)
	p.metrics.timeouts.Describe(out)
}

// Collect implements prometheus.Collector.
func (p *Peers) Collect(out chan<- prometheus.Metric) {
	counts := map[string]int{"followed": 0, reasonLate: 0, reasonUnreachable: 0}
	p.mu.Lock()
	for _, n := range p.peers {
		switch {
		case !n.heard:
			counts[reasonUnreachable]++
		case n.late:
			counts[reasonLate]++
		default:
			counts["followed"]++
		}
	}
	p.mu.Unlock()
	for state, n := range counts {
		out <- prometheus.MustNewConstMetric(nodesDesc, prometheus.GaugeValue, float64(n), state)
	}
	p.metrics.waited.Collect(out)
	p.metrics.skipped.Collect(out)
	p.metrics.timeouts.Collect(out)
}
