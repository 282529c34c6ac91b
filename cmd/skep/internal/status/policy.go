// SPDX-License-Identifier: Apache-2.0

package status

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

	"skep.dev/skep/cmd/skep/internal/agentapi"
	"skep.dev/skep/datapath"
)

// PolicyOptions choose what Policy shows.
type PolicyOptions struct {
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
	Connections uint64 `json:"connections"`
	Packets     uint64 `json:"packets"`
	Bytes       uint64 `json:"bytes"`
	// NotCounted says that the numbers mean nothing: a rule that passes on decides nothing, and the datapath counts decisions.
	NotCounted bool `json:"notCounted,omitempty"`
}

// Policy prints what the rules of all policies have decided, summed over the nodes.
func Policy(ctx context.Context, w io.Writer, name string, options PolicyOptions) error {
	nodes, err := find(name)
	if err != nil {
		return err
	}
	if nodes, err = only(nodes, options.Node); err != nil {
		return err
	}
	var all []agentapi.RuleStats
	var errs []error
	for _, n := range nodes {
		ctx, cancel := context.WithTimeout(ctx, answerLimit)
		rules, err := agentapi.Rules(ctx, n.socket)
		cancel()
		if err != nil {
			errs = append(errs, fmt.Errorf("node %s is not in these numbers: %w", n.name, err))
		}
		all = append(all, rules...)
	}
	if len(errs) < len(nodes) {
		errs = append(errs, printRules(w, ofNamespace(sum(all), options.Namespace), options.JSON))
	}
	return errors.Join(errs...)
}

func only(nodes []node, name string) ([]node, error) {
	var names []string
	for _, n := range nodes {
		if name == n.name {
			return []node{n}, nil
		}
		names = append(names, n.name)
	}
	if name != "" {
		return nil, fmt.Errorf("there is no node %q; there are %s", name, strings.Join(names, ", "))
	}
	return nodes, nil
}

// sum adds up what nodes say about the same rule, and sorts: NetworkPolicies by namespace behind ClusterNetworkPolicies, then by
// policy, direction and rule, a default deny behind its direction's rules.
func sum(rules []agentapi.RuleStats) []ruleLine {
	sums := map[string]*ruleLine{}
	for _, r := range rules {
		key := fmt.Sprint(r.Policies, r.Direction, r.Index)
		if sums[key] == nil {
			sums[key] = lineOf(r)
		}
		sums[key].Connections += r.Connections
		sums[key].Packets += r.Packets
		sums[key].Bytes += r.Bytes
	}
	out := make([]ruleLine, 0, len(sums))
	for _, line := range sums {
		out = append(out, *line)
	}
	slices.SortFunc(out, ruleLine.compare)
	return out
}

func lineOf(r agentapi.RuleStats) *ruleLine {
	line := &ruleLine{Kind: "NetworkPolicy", Direction: "ingress", DefaultDeny: r.DefaultDeny(), NotCounted: r.Action == datapath.Pass}
	if r.Direction == datapath.Egress {
		line.Direction = "egress"
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
	table := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(table, "NAMESPACE\tPOLICY\tDIRECTION\tRULE\tACTION\tCONNECTIONS\tPACKETS\tBYTES")
	for _, l := range lines {
		policy, rule := strings.Join(l.Policies, ","), "default deny"
		if l.Namespace == "" {
			policy = l.Kind + "/" + policy
		}
		if l.Rule != nil {
			rule = strconv.Itoa(*l.Rule)
		}
		counts := fmt.Sprintf("%d\t%d\t%d", l.Connections, l.Packets, l.Bytes)
		if l.NotCounted {
			counts = "-\t-\t-"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", cmp.Or(l.Namespace, "-"), policy, l.Direction, rule, l.Action, counts)
	}
	return table.Flush()
}
