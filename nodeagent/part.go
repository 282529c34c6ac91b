// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
)

// part is a piece of the agent that has a say in the conditions of the Node object, and metrics. Its methods must not block: the
// node's lease does not wait for them, but its status does.
type part interface {
	prometheus.Collector
	// NodeConditions are conditions without times. A condition must be returned also when all is well, or the last one stays.
	NodeConditions() []v1.NodeCondition
}

// look has the node's conditions looked at now, and not only at the next tick.
func (a *agent) look() {
	select {
	case a.lookAgain <- struct{}{}:
	default:
	}
}

// metrics are those of all parts.
func (a *agent) metrics() prometheus.Gatherer {
	registry := prometheus.NewPedanticRegistry()
	for _, p := range a.parts {
		registry.MustRegister(p)
	}
	return registry
}

var podsDesc = prometheus.NewDesc("skep_agent_pods", "Pods that this node's agent looks after, by phase.", []string{"phase"}, nil)

// podCounts counts the node's pods.
type podCounts struct{ a *agent }

func (podCounts) NodeConditions() []v1.NodeCondition { return nil }

// Describe implements prometheus.Collector.
func (podCounts) Describe(out chan<- *prometheus.Desc) { out <- podsDesc }

// Collect implements prometheus.Collector.
func (c podCounts) Collect(out chan<- prometheus.Metric) {
	counts := map[v1.PodPhase]int{v1.PodPending: 0, v1.PodRunning: 0, v1.PodSucceeded: 0, v1.PodFailed: 0}
	for _, p := range (nodeAPI{c.a}).Pods() {
		counts[p.Status.Phase]++
	}
	for phase, n := range counts {
		out <- prometheus.MustNewConstMetric(podsDesc, prometheus.GaugeValue, float64(n), string(phase))
	}
}
