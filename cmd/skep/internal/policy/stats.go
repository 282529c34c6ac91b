// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"skep.dev/skep/controlplane/nodeproxy"
	"skep.dev/skep/datapath"
	"skep.dev/skep/enforcement"
	"skep.dev/skep/nodeagent/intent"
)

// StatsOptions choose what Stats shows.
type StatsOptions struct {
	// Namespace leaves out the NetworkPolicies of other namespaces; empty is all.
	Namespace string
	// Node counts on one node alone; empty is all.
	Node string
	JSON bool
}

// ruleLine is a rule with its sums over nodes, in the form in which programs get it.
type ruleLine struct {
	// Namespace is empty for a ClusterNetworkPolicy.
	Namespace string `json:"namespace,omitempty"`
	Kind      string `json:"kind"`
	// Policies is the rule's policy, or all that isolate the pods of a default deny.
	Policies  []string `json:"policies"`
	Direction string   `json:"direction"`
	// Rule is the position in spec.ingress or spec.egress, absent for a default deny.
	Rule        *int   `json:"rule,omitempty"`
	DefaultDeny bool   `json:"defaultDeny,omitempty"`
	Action      string `json:"action"`
	// Mode is audit when the rule decides nothing: the numbers are then what it would decide.
	Mode        enforcement.Mode `json:"mode"`
	Connections uint64           `json:"connections"`
	Packets     uint64           `json:"packets"`
	Bytes       uint64           `json:"bytes"`
	// WouldDeny and WouldAllow count the connections that an audit would have decided otherwise.
	WouldDeny  uint64 `json:"wouldDeny"`
	WouldAllow uint64 `json:"wouldAllow"`
	// Since is when the first node began to count.
	Since time.Time `json:"since,omitzero"`
	// NotCounted says that the numbers mean nothing: a rule that passes on decides nothing, and the datapath counts decisions.
	NotCounted bool `json:"notCounted,omitempty"`
}

// Stats prints what the rules of all policies have decided, summed over the nodes.
func Stats(ctx context.Context, w io.Writer, config *rest.Config, o StatsOptions) error {
	client, err := kubernetes.NewForConfig(unlimited(config))
	if err != nil {
		return err
	}
	nodes, err := nodesToAsk(ctx, client, o.Node)
	if err != nil {
		return err
	}
	answers := nodeproxy.Ask[[]intent.RuleStats](ctx, client.CoreV1().RESTClient(), nodes, enforcement.RulesPath, nil)
	var all []intent.RuleStats
	answered := 0
	for _, a := range answers {
		all = append(all, a.Value...)
		if a.Err == nil {
			answered++
		}
	}
	err = missing(answers)
	if answered > 0 {
		err = errors.Join(printRules(w, ofNamespace(sum(all), o.Namespace), o.JSON), err)
	}
	return err
}

// sum adds up what nodes say about the same rule, and sorts: NetworkPolicies by namespace behind ClusterNetworkPolicies, then by
// policy, direction and rule, a default deny behind its direction's rules.
func sum(rules []intent.RuleStats) []ruleLine {
	sums := map[string]*ruleLine{}
	for _, r := range rules {
		key := fmt.Sprint(r.Policies, r.Direction, r.Index, r.Audit, r.Action)
		if sums[key] == nil {
			sums[key] = lineOf(r)
		}
		sums[key].Connections += r.Connections
		sums[key].Packets += r.Packets
		sums[key].Bytes += r.Bytes
		sums[key].WouldDeny += r.WouldDeny
		sums[key].WouldAllow += r.WouldAllow
		sums[key].began(r.Since)
	}
	out := make([]ruleLine, 0, len(sums))
	for _, line := range sums {
		out = append(out, *line)
	}
	slices.SortFunc(out, ruleLine.compare)
	return out
}

// began keeps the earliest of the times at which nodes began to count.
func (l *ruleLine) began(at time.Time) {
	if !at.IsZero() && (l.Since.IsZero() || at.Before(l.Since)) {
		l.Since = at
	}
}

func lineOf(r intent.RuleStats) *ruleLine {
	line := &ruleLine{Kind: "NetworkPolicy", Direction: r.Direction.String(), DefaultDeny: r.DefaultDeny(), NotCounted: r.Action == datapath.Pass, Mode: enforcement.Enforce}
	if r.Audit {
		line.Mode = enforcement.Audit
	}
	if !line.DefaultDeny {
		line.Rule = &r.Index
	}
	for _, full := range r.Policies {
		namespace, name, namespaced := strings.Cut(full, "/")
		if !namespaced {
			line.Kind, namespace, name = "ClusterNetworkPolicy", "", full
		}
		line.Namespace = namespace
		line.Policies = append(line.Policies, name)
	}
	line.Action = actionName(r.Action, line.Namespace == "")
	return line
}

// actionName is the API's word; NetworkPolicy has none, as its rules do nothing but allow.
func actionName(a datapath.Action, cluster bool) string {
	switch {
	case a == datapath.Deny:
		return "Deny"
	case a == datapath.Pass:
		return "Pass"
	case cluster:
		return "Accept"
	}
	return "Allow"
}

func (l ruleLine) compare(o ruleLine) int {
	return cmp.Or(
		cmp.Compare(l.Namespace, o.Namespace), slices.Compare(l.Policies, o.Policies),
		-cmp.Compare(l.Direction, o.Direction), // ingress first, as in the API
		cmp.Compare(l.order(), o.order()),
	)
}

func (l ruleLine) order() uint {
	if l.Rule == nil {
		return ^uint(0)
	}
	return uint(*l.Rule)
}

func ofNamespace(lines []ruleLine, namespace string) []ruleLine {
	return slices.DeleteFunc(lines, func(l ruleLine) bool { return namespace != "" && l.Namespace != "" && l.Namespace != namespace })
}

func printRules(w io.Writer, lines []ruleLine, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(map[string][]ruleLine{"rules": lines})
	}
	if len(lines) == 0 {
		fmt.Fprintln(w, "No policies.")
		return nil
	}
	// What is about audits takes room only where there are any.
	audits := slices.ContainsFunc(lines, func(l ruleLine) bool { return l.Mode == enforcement.Audit })
	table := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	if audits {
		fmt.Fprintln(table, "NAMESPACE\tPOLICY\tDIRECTION\tRULE\tACTION\tMODE\tCONNECTIONS\tPACKETS\tBYTES\tWOULD DENY\tWOULD ALLOW\tSINCE")
	} else {
		fmt.Fprintln(table, "NAMESPACE\tPOLICY\tDIRECTION\tRULE\tACTION\tCONNECTIONS\tPACKETS\tBYTES\tSINCE")
	}
	for _, l := range lines {
		fmt.Fprintln(table, strings.Join(l.cells(audits), "\t"))
	}
	return table.Flush()
}

func (l ruleLine) cells(audits bool) []string {
	policy, rule, since := strings.Join(l.Policies, ","), "default "+defaultOf(l.Action), "-"
	if l.Namespace == "" {
		policy = l.Kind + "/" + policy
	}
	if l.Rule != nil {
		rule = strconv.Itoa(*l.Rule)
	}
	if !l.Since.IsZero() {
		since = l.Since.UTC().Format(time.RFC3339)
	}
	count := func(n uint64) string {
		if l.NotCounted {
			return "-"
		}
		return strconv.FormatUint(n, 10)
	}
	out := []string{cmp.Or(l.Namespace, "-"), policy, l.Direction, rule, l.Action}
	if audits {
		out = append(out, string(l.Mode))
	}
	out = append(out, count(l.Connections), count(l.Packets), count(l.Bytes))
	switch {
	case audits && l.Mode == enforcement.Audit:
		out = append(out, count(l.WouldDeny), count(l.WouldAllow))
	case audits:
		out = append(out, "-", "-")
	}
	return append(out, since)
}

func defaultOf(action string) string {
	if action == "Deny" {
		return "deny"
	}
	return "allow"
}
