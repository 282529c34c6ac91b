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
	"strings"
	"text/tabwriter"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"skep.dev/skep/controlplane/nodeproxy"
	"skep.dev/skep/enforcement"
)

// ErrUnenforced is returned when some policy is not in force on every node that was asked.
var ErrUnenforced = errors.New("not enforced everywhere")

// poll is how often a wait looks again.
const poll = 200 * time.Millisecond

var (
	networkPolicies = networkingv1.SchemeGroupVersion.WithResource("networkpolicies")
	clusterPolicies = schema.GroupVersionResource{Group: "policy.networking.k8s.io", Version: "v1alpha2", Resource: "clusternetworkpolicies"}
)

// StatusOptions choose what Status shows.
type StatusOptions struct {
	// Name of one policy, in Namespace or, if Cluster is set, of the cluster; empty is all.
	Name string
	// Namespace leaves out NetworkPolicies of other namespaces; empty is all.
	Namespace string
	// Cluster means ClusterNetworkPolicies alone.
	Cluster bool
	// Node asks one node alone.
	Node string
	JSON bool
	// Wait, if above zero, is how long to wait until everything that is asked for is in force.
	Wait time.Duration
}

// nodeLine is what one node says of a policy.
type nodeLine struct {
	Node     string `json:"node"`
	Enforced bool   `json:"enforced"`
	// Generation is the one in force there, 0 when none is.
	Generation int64              `json:"generation"`
	Since      time.Time          `json:"since,omitzero"`
	Reason     enforcement.Reason `json:"reason,omitempty"`
	Message    string             `json:"message,omitempty"`

	latencies []time.Duration
	inForce   enforcement.Version
}

// policyLine is a policy with what the nodes say of it.
type policyLine struct {
	Kind       string           `json:"kind"`
	Namespace  string           `json:"namespace,omitempty"`
	Name       string           `json:"name"`
	Generation int64            `json:"generation"`
	Mode       enforcement.Mode `json:"mode"`
	// Enforced of Nodes have this generation in this mode in force.
	Enforced int `json:"enforced"`
	Nodes    int `json:"nodes"`
	// P50 and P99 are of how long the last versions took on each node, in milliseconds; absent when nobody knows.
	P50 *float64 `json:"p50Milliseconds,omitempty"`
	P99 *float64 `json:"p99Milliseconds,omitempty"`
	// NotUnderstood names what of the policy opens nothing, because the nodes do not know it.
	NotUnderstood []string   `json:"notUnderstood,omitempty"`
	ByNode        []nodeLine `json:"byNode"`
}

// Status prints on how many nodes policies are in force.
func Status(ctx context.Context, w io.Writer, config *rest.Config, o StatusOptions) error {
	if o.Wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.Wait)
		defer cancel()
	}
	s, err := newSurvey(config)
	if err != nil {
		return err
	}
	for {
		lines, missed, err := s.look(ctx, o)
		if err == nil {
			err = verdict(lines)
		}
		err = errors.Join(err, missed)
		if o.Wait == 0 || err == nil || apierrors.IsForbidden(err) || !pause(ctx, poll) {
			if lines == nil {
				return err
			}
			return errors.Join(printPolicies(w, lines, o), err)
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// survey asks the API for policies and the nodes for what is in force.
type survey struct {
	client   kubernetes.Interface
	metadata metadata.Interface
	// last is what was found last, for a wait whose time is up in the middle of a question.
	last []policyLine
}

func newSurvey(config *rest.Config) (*survey, error) {
	config = unlimited(config)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	objects, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &survey{client: client, metadata: objects}, nil
}

// unlimited lets all nodes be asked at once: the API server protects itself.
func unlimited(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = -1, -1
	return config
}

// look returns the policies, and as missed which nodes did not answer.
func (s *survey) look(ctx context.Context, o StatusOptions) (lines []policyLine, missed, err error) {
	objects, err := s.objects(ctx, o)
	if err == nil {
		lines, missed, err = s.ask(ctx, objects, o)
	}
	if err != nil && ctx.Err() != nil && s.last != nil {
		return s.last, nil, nil
	}
	s.last = lines
	return lines, missed, err
}

func (s *survey) ask(ctx context.Context, objects []metav1.PartialObjectMetadata, o StatusOptions) ([]policyLine, error, error) {
	nodes, err := nodesToAsk(ctx, s.client, o.Node)
	if err != nil {
		return nil, nil, err
	}
	query := map[string]string{}
	if o.Name != "" {
		query["name"], query["namespace"] = o.Name, o.Namespace
		if o.Cluster {
			query["namespace"] = ""
		}
	}
	reports := nodeproxy.Ask[enforcement.Report](ctx, s.client.CoreV1().RESTClient(), nodes, enforcement.StatusPath, query)
	missed := missing(reports)
	if apierrors.IsForbidden(missed) {
		return nil, nil, missed
	}
	return combine(objects, reports), missed, nil
}

// objects are the policies that the API has.
func (s *survey) objects(ctx context.Context, o StatusOptions) ([]metav1.PartialObjectMetadata, error) {
	var out []metav1.PartialObjectMetadata
	for _, kind := range []struct {
		resource  schema.GroupVersionResource
		namespace string
		wanted    bool
	}{{clusterPolicies, "", o.Cluster || o.Name == ""}, {networkPolicies, o.Namespace, !o.Cluster}} {
		if !kind.wanted {
			continue
		}
		api := s.metadata.Resource(kind.resource).Namespace(kind.namespace)
		if o.Name != "" {
			one, err := api.Get(ctx, o.Name, metav1.GetOptions{})
			if err != nil {
				return nil, err
			}
			return append(out, *one), nil
		}
		list, err := api.List(ctx, metav1.ListOptions{})
		if apierrors.IsNotFound(err) {
			continue // a server without ClusterNetworkPolicy
		}
		if err != nil {
			return nil, err
		}
		out = append(out, list.Items...)
	}
	return out, nil
}

// combine says of each policy where its present version is in force.
func combine(objects []metav1.PartialObjectMetadata, reports []nodeproxy.Answer[enforcement.Report]) []policyLine {
	type key struct{ namespace, name string }
	said := map[key][]nodeLine{}
	notUnderstood := map[key][]string{}
	for _, r := range reports {
		for _, p := range r.Value.Policies {
			k := key{p.Namespace, p.Name}
			said[k] = append(said[k], nodeLine{
				Node: r.Node, Generation: p.InForce.Generation, Since: p.Since, Reason: p.Reason, Message: p.Message, latencies: p.Latencies,
				Enforced: p.Enforced(p.InForce), inForce: p.InForce,
			})
			notUnderstood[k] = p.NotUnderstood
		}
	}
	out := make([]policyLine, 0, len(objects))
	for _, o := range objects {
		k := key{o.Namespace, o.Name}
		line := lineOfPolicy(&o, said[k], reports)
		line.NotUnderstood = notUnderstood[k]
		out = append(out, line)
	}
	slices.SortFunc(out, func(a, b policyLine) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return out
}

func lineOfPolicy(o *metav1.PartialObjectMetadata, said []nodeLine, reports []nodeproxy.Answer[enforcement.Report]) policyLine {
	want := enforcement.VersionOf(o)
	line := policyLine{
		Kind: "NetworkPolicy", Namespace: o.Namespace, Name: o.Name, Generation: o.Generation, Mode: want.Mode, Nodes: len(reports), ByNode: []nodeLine{},
	}
	if o.Namespace == "" {
		line.Kind = "ClusterNetworkPolicy"
	}
	var latencies []time.Duration
	for _, r := range reports {
		i := slices.IndexFunc(said, func(n nodeLine) bool { return n.Node == r.Node })
		n := nodeLine{Node: r.Node, Message: "has not heard of it"}
		switch {
		case r.Err != nil:
			n.Message = "did not answer: " + r.Err.Error()
		case i >= 0:
			n = said[i]
			n.Enforced = n.Enforced && n.inForce == want
			if !n.Enforced && n.Reason == "" {
				n.Message = "is on its way"
			}
		}
		if n.Enforced {
			line.Enforced++
		}
		latencies = append(latencies, n.latencies...)
		line.ByNode = append(line.ByNode, n)
	}
	if len(latencies) > 0 {
		p50, p99 := milliseconds(enforcement.Quantile(0.5, latencies)), milliseconds(enforcement.Quantile(0.99, latencies))
		line.P50, line.P99 = &p50, &p99
	}
	return line
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}

// verdict is an error when something is not in force everywhere.
func verdict(lines []policyLine) error {
	var names []string
	for _, l := range lines {
		if l.Enforced < l.Nodes {
			names = append(names, cmp.Or(l.Namespace, l.Kind)+"/"+l.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrUnenforced, strings.Join(names, ", "))
}

func printPolicies(w io.Writer, lines []policyLine, o StatusOptions) error {
	switch {
	case o.JSON:
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(map[string][]policyLine{"policies": lines})
	case o.Name != "" && len(lines) == 1:
		return printPolicy(w, lines[0])
	case len(lines) == 0:
		fmt.Fprintln(w, "No policies.")
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(table, "NAMESPACE\tPOLICY\tGENERATION\tENFORCED\tP50\tP99\tMODE\tMESSAGE")
	for _, l := range lines {
		name := l.Name
		if l.Namespace == "" {
			name = l.Kind + "/" + name
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%d/%d\t%s\t%s\t%s\t%s\n", cmp.Or(l.Namespace, "-"), name, l.Generation, l.Enforced, l.Nodes,
			shown(l.P50), shown(l.P99), l.Mode, l.message())
	}
	return table.Flush()
}

// shown is a latency as people read it.
func shown(ms *float64) string {
	switch {
	case ms == nil:
		return "-"
	case *ms < 10:
		return fmt.Sprintf("%.1f ms", *ms)
	}
	return fmt.Sprintf("%.0f ms", *ms)
}

// message is the first thing that is wrong.
func (l policyLine) message() string {
	for _, n := range l.ByNode {
		if n.Enforced {
			continue
		}
		text := n.Node + ": "
		if n.Reason != "" {
			text += string(n.Reason) + ": "
		}
		return text + n.Message
	}
	return strings.Join(l.NotUnderstood, "; ")
}

// printPolicy is one line for people in a hurry, and the nodes below it.
func printPolicy(w io.Writer, l policyLine) error {
	first := fmt.Sprintf("enforced on %d/%d nodes", l.Enforced, l.Nodes)
	if l.Mode == enforcement.Audit {
		first = fmt.Sprintf("audited on %d/%d nodes", l.Enforced, l.Nodes)
	}
	if l.P99 != nil {
		first += ", p99 " + shown(l.P99)
	}
	fmt.Fprintln(w, first)
	for _, text := range l.NotUnderstood {
		fmt.Fprintf(w, "not understood: %s\n", text)
	}
	table := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(table, "\nNODE\tENFORCED\tGENERATION\tSINCE\tP99\tMESSAGE")
	for _, n := range l.ByNode {
		since, p99 := "-", "-"
		if !n.Since.IsZero() {
			since = n.Since.UTC().Format(time.RFC3339)
		}
		if len(n.latencies) > 0 {
			ms := milliseconds(enforcement.Quantile(0.99, n.latencies))
			p99 = shown(&ms)
		}
		message := n.Message
		if n.Reason != "" {
			message = string(n.Reason) + ": " + message
		}
		fmt.Fprintf(table, "%s\t%t\t%d\t%s\t%s\t%s\n", n.Node, n.Enforced, n.Generation, since, p99, message)
	}
	return table.Flush()
}
