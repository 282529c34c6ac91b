// SPDX-License-Identifier: Apache-2.0

// Package status shows a person how a cluster and its datapath are.
package status

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"skep.dev/skep/cmd/skep/internal/agentapi"
	"skep.dev/skep/cmd/skep/internal/local"
	"skep.dev/skep/datapath"
)

// hostSocket is the agent of a real host.
const hostSocket = "/run/skep/agent/agent.sock"

// shownTargets is how many devices of one program are named.
const shownTargets = 4

// answerLimit bounds each question, so that one dead part does not hide the others.
const answerLimit = 5 * time.Second

// node is an agent that can be asked.
type node struct {
	name, socket string
	status       datapath.Status
	err          error
}

// Show prints the state of the named local cluster or, where there is none, of this host's agent. It returns an
// error when something is not healthy.
func Show(ctx context.Context, w io.Writer, name string) error {
	nodes, err := find(name)
	if err != nil {
		return err
	}
	var errs []error
	if c := (local.Cluster{Name: name}); c.Exists() {
		errs = append(errs, showCluster(ctx, w, c))
	}
	ask(ctx, nodes)
	for _, n := range nodes {
		errs = append(errs, showNode(w, n))
	}
	return errors.Join(errs...)
}

// Drops prints the drop counters of all nodes.
func Drops(ctx context.Context, w io.Writer, name string) error {
	nodes, err := find(name)
	if err != nil {
		return err
	}
	ask(ctx, nodes)
	var errs []error
	table := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(table, "NODE\tREASON\tPACKETS\tBYTES")
	for _, n := range nodes {
		if n.err != nil {
			errs = append(errs, fmt.Errorf("node %s: %w", n.name, n.err))
		}
		for _, d := range counted(n.status.Drops) {
			fmt.Fprintf(table, "%s\t%s\t%d\t%d\n", n.name, d.Name, d.Packets, d.Bytes)
		}
	}
	return errors.Join(append(errs, table.Flush())...)
}

func find(name string) ([]node, error) {
	c := local.Cluster{Name: name}
	if !c.Exists() {
		if _, err := os.Stat(hostSocket); err == nil {
			return []node{{name: "this host", socket: hostSocket}}, nil
		}
	}
	list, err := c.Nodes()
	if err != nil {
		return nil, err
	}
	var nodes []node
	for _, n := range list {
		nodes = append(nodes, node{name: n.Name(), socket: n.AgentSocket()})
	}
	return nodes, nil
}

func ask(ctx context.Context, nodes []node) {
	for i := range nodes {
		ctx, cancel := context.WithTimeout(ctx, answerLimit)
		nodes[i].status, nodes[i].err = agentapi.Status(ctx, nodes[i].socket)
		cancel()
	}
}

func showCluster(ctx context.Context, w io.Writer, c local.Cluster) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return fmt.Errorf("read the cluster's kubeconfig: %w", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if _, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").MaxRetries(0).DoRaw(ctx); err != nil {
		fmt.Fprintf(w, "Control plane  %s  NOT READY: %v\n", config.Host, err)
		return fmt.Errorf("the control plane does not answer: look at %s, or run \"skep up --name %s\" to start what has ended", c.LogFile("server"), c.Name)
	}
	version, err := client.Discovery().ServerVersion()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "Control plane  %s  ready  %s\n", config.Host, version.GitVersion)
	return showObjects(ctx, w, client)
}

func showObjects(ctx context.Context, w io.Writer, client kubernetes.Interface) error {
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	pods, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(table, "\nNODE\tREADY\tADDRESSES\tPODS")
	var unready []string
	for _, n := range nodes.Items {
		state := readyCondition(&n)
		if state != corev1.ConditionTrue {
			unready = append(unready, n.Name)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", n.Name, state, addresses(&n), phases(pods.Items, n.Name))
	}
	if pending := phases(pods.Items, ""); pending != "none" {
		fmt.Fprintf(table, "(no node yet)\t\t\t%s\n", pending)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(unready) > 0 {
		return fmt.Errorf("not ready: %s", strings.Join(unready, ", "))
	}
	return nil
}

func readyCondition(n *corev1.Node) corev1.ConditionStatus {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return corev1.ConditionUnknown
}

func addresses(n *corev1.Node) string {
	var list []string
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			list = append(list, a.Address)
		}
	}
	return strings.Join(list, ",")
}

// phases counts the node's pods by phase.
func phases(pods []corev1.Pod, node string) string {
	counts := map[corev1.PodPhase]int{}
	for _, p := range pods {
		if p.Spec.NodeName == node {
			counts[p.Status.Phase]++
		}
	}
	var parts []string
	for _, phase := range []corev1.PodPhase{corev1.PodRunning, corev1.PodPending, corev1.PodSucceeded, corev1.PodFailed, corev1.PodUnknown} {
		if counts[phase] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", counts[phase], phase))
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

func showNode(w io.Writer, n node) error {
	fmt.Fprintf(w, "\nDatapath of %s\n", n.name)
	if n.err != nil {
		fmt.Fprintf(w, "  the agent does not answer: %v\n", n.err)
		return fmt.Errorf("the agent of node %s does not answer (what is attached goes on working)", n.name)
	}
	for _, warning := range n.status.Warnings {
		fmt.Fprintf(w, "  warning: %s\n", warning)
	}
	table := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(table, "  PROGRAM\tHOOK\tATTACHED TO")
	for _, p := range grouped(n.status.Programs) {
		fmt.Fprintf(table, "  %s\t%s\t%s\n", p.Name, p.Hook, p.Target)
	}
	fmt.Fprintln(table, "\n  MAP\tENTRIES\tMAX\tFILL")
	for _, m := range n.status.Maps {
		fmt.Fprintf(table, "  %s\t%d\t%d\t%s\n", m.Name, m.Entries, m.Max, percent(m))
	}
	counters(table, "VERDICT", n.status.Verdicts)
	counters(table, "DROP REASON", n.status.Drops)
	return table.Flush()
}

func counters(w io.Writer, title string, list []datapath.Counter) {
	list = counted(list)
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(w, "\n  %s\tPACKETS\tBYTES\n", title)
	for _, c := range list {
		fmt.Fprintf(w, "  %s\t%d\t%d\n", c.Name, c.Packets, c.Bytes)
	}
}

// grouped joins the devices that a program is attached to: a node has as many as pods.
func grouped(programs []datapath.Program) []datapath.Program {
	type key struct{ name, hook string }
	targets := map[key][]string{}
	for _, p := range programs {
		k := key{p.Name, p.Hook}
		targets[k] = append(targets[k], p.Target)
	}
	var out []datapath.Program
	for k, list := range targets {
		slices.Sort(list)
		target := strings.Join(list, " ")
		if len(list) > shownTargets {
			target = fmt.Sprintf("%s and %d more", strings.Join(list[:shownTargets], " "), len(list)-shownTargets)
		}
		out = append(out, datapath.Program{Name: k.name, Hook: k.hook, Target: target})
	}
	slices.SortFunc(out, func(a, b datapath.Program) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Hook, b.Hook))
	})
	return out
}

// counted leaves out what never happened and puts the most frequent first.
func counted(list []datapath.Counter) []datapath.Counter {
	out := slices.DeleteFunc(slices.Clone(list), func(c datapath.Counter) bool { return c.Packets == 0 })
	slices.SortStableFunc(out, func(a, b datapath.Counter) int { return cmp.Compare(b.Packets, a.Packets) })
	return out
}

func percent(m datapath.MapFill) string {
	if m.Max == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", 100*float64(m.Entries)/float64(m.Max))
}
