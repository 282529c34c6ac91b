// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"

	"skep.dev/skep/datapath"
	"skep.dev/skep/nodeagent/intent"
)

// maxRuleSeries bounds how many rules have series, each of them three, and two more in audit mode. Rules that have decided something come first.
const maxRuleSeries = 2000

// maxPolicyNames bounds how many policies the label of a default deny names.
const maxPolicyNames = 5

var (
	ruleLabels = []string{"kind", "namespace", "policy", "direction", "rule", "action"}

	ruleConnections = prometheus.NewDesc("skep_policy_rule_connections_total", "Connections that a rule has decided; those that it would have, if the rule is in audit mode.", ruleLabels, nil)
	rulePackets     = prometheus.NewDesc("skep_policy_rule_packets_total", "Packets of the connections that a rule has decided.", ruleLabels, nil)
	ruleBytes       = prometheus.NewDesc("skep_policy_rule_bytes_total", "Bytes of the connections that a rule has decided.", ruleLabels, nil)
	ruleWouldDeny   = prometheus.NewDesc("skep_policy_rule_would_deny_total", "Connections that were allowed and that a rule in audit mode would have denied.", ruleLabels, nil)
	ruleWouldAllow  = prometheus.NewDesc("skep_policy_rule_would_allow_total", "Connections that were denied and that a rule in audit mode would have allowed.", ruleLabels, nil)
	eventsLost      = prometheus.NewDesc("skep_events_lost_total", "Events of the datapath that found no room; counters have what they were about.", nil, nil)
	seriesDropped   = prometheus.NewDesc("skep_policy_rule_series_dropped", "Rules of this node without series, because there are too many.", nil, nil)
	mapEntries      = prometheus.NewDesc("skep_map_entries", "Entries of a map of the datapath.", []string{"map"}, nil)
	mapMaxEntries   = prometheus.NewDesc("skep_map_max_entries", "Entries that a map of the datapath can have.", []string{"map"}, nil)
	dropPackets     = prometheus.NewDesc("skep_drop_packets_total", "Packets that the datapath has dropped, by reason.", []string{"reason"}, nil)
	dropBytes       = prometheus.NewDesc("skep_drop_bytes_total", "Bytes of the packets that the datapath has dropped, by reason.", []string{"reason"}, nil)
)

// datapathMetrics are what the datapath counts.
type datapathMetrics struct {
	dp    datapath.Datapath
	rules *intent.RuleTable
	log   *slog.Logger
}

// NodeConditions are none: what is wrong with the datapath makes the node unready.
func (datapathMetrics) NodeConditions() []v1.NodeCondition { return nil }

// Describe implements prometheus.Collector.
func (datapathMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{ruleConnections, rulePackets, ruleBytes, ruleWouldDeny, ruleWouldAllow, eventsLost, seriesDropped, mapEntries, mapMaxEntries, dropPackets, dropBytes} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m datapathMetrics) Collect(out chan<- prometheus.Metric) {
	rules := m.rules.Current()
	ctx, cancel := context.WithTimeout(context.Background(), datapathWait)
	defer cancel()
	status, err := m.dp.Status(ctx)
	if err != nil {
		m.log.Warn("the datapath has no metrics", "err", err)
		return
	}
	series, dropped := ruleSeries(intent.Stats(rules, status.Rules), maxRuleSeries)
	for _, s := range series {
		out <- prometheus.MustNewConstMetric(ruleConnections, prometheus.CounterValue, float64(s.connections), s.labels[:]...)
		out <- prometheus.MustNewConstMetric(rulePackets, prometheus.CounterValue, float64(s.packets), s.labels[:]...)
		out <- prometheus.MustNewConstMetric(ruleBytes, prometheus.CounterValue, float64(s.bytes), s.labels[:]...)
		if !s.audit {
			continue
		}
		out <- prometheus.MustNewConstMetric(ruleWouldDeny, prometheus.CounterValue, float64(s.wouldDeny), s.labels[:]...)
		out <- prometheus.MustNewConstMetric(ruleWouldAllow, prometheus.CounterValue, float64(s.wouldAllow), s.labels[:]...)
	}
	out <- prometheus.MustNewConstMetric(eventsLost, prometheus.CounterValue, float64(status.EventsLost))
	out <- prometheus.MustNewConstMetric(seriesDropped, prometheus.GaugeValue, float64(dropped))
	for _, f := range status.Maps {
		out <- prometheus.MustNewConstMetric(mapEntries, prometheus.GaugeValue, float64(f.Entries), f.Name)
		out <- prometheus.MustNewConstMetric(mapMaxEntries, prometheus.GaugeValue, float64(f.Max), f.Name)
	}
	for _, d := range status.Drops {
		out <- prometheus.MustNewConstMetric(dropPackets, prometheus.CounterValue, float64(d.Packets), d.Name)
		out <- prometheus.MustNewConstMetric(dropBytes, prometheus.CounterValue, float64(d.Bytes), d.Name)
	}
}

// ruleLine is what one set of labels counts.
type ruleLine struct {
	labels                      [6]string
	connections, packets, bytes uint64
	// audit says that the rule is in audit mode, and would have decided these connections otherwise.
	audit                 bool
	wouldDeny, wouldAllow uint64
}

// ruleSeries gives the rules that judge pods of this node their labels, at most limit of them. Default denies whose shortened names
// are the same are one.
func ruleSeries(stats []intent.RuleStats, limit int) (out []ruleLine, dropped int) {
	at := map[[6]string]int{}
	for _, s := range stats {
		if s.ID == 0 || s.Action == datapath.Pass {
			continue // judges nobody here, or decides nothing
		}
		labels := labelsOf(s)
		i, ok := at[labels]
		if !ok {
			i = len(out)
			at[labels] = i
			out = append(out, ruleLine{labels: labels})
		}
		out[i].connections += s.Connections
		out[i].packets += s.Packets
		out[i].bytes += s.Bytes
		out[i].audit = s.Audit
		out[i].wouldDeny += s.WouldDeny
		out[i].wouldAllow += s.WouldAllow
	}
	if len(out) <= limit {
		return out, 0
	}
	// Which were used only ever grows, so that series do not come and go with the traffic.
	slices.SortStableFunc(out, func(a, b ruleLine) int { return cmp.Compare(used(b), used(a)) })
	return out[:limit], len(out) - limit
}

func used(l ruleLine) int { return int(min(l.connections, 1)) }

func labelsOf(s intent.RuleStats) [6]string {
	kind, namespace := "NetworkPolicy", ""
	var names []string
	for _, full := range s.Policies {
		ns, rest, namespaced := strings.Cut(full, "/")
		if !namespaced {
			kind, ns, rest = "ClusterNetworkPolicy", "", full
		}
		namespace = ns
		names = append(names, rest)
	}
	name := strings.Join(names[:min(len(names), maxPolicyNames)], ",")
	if more := len(names) - maxPolicyNames; more > 0 {
		name += "+" + strconv.Itoa(more)
	}
	rule, action := strconv.Itoa(s.Index), "allow"
	if s.DefaultDeny() {
		rule = "default"
	}
	if s.Action == datapath.Deny {
		action = "deny"
	}
	if s.Audit {
		action = "audit-" + action
	}
	return [6]string{kind, namespace, name, s.Direction.String(), rule, action}
}
