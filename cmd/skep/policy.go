// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/rest"

	"skep.dev/skep/cmd/skep/internal/local"
	"skep.dev/skep/cmd/skep/internal/policy"
)

func policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Look into what policies do",
		Long: `policy asks the nodes of a cluster about its policies, by way of the API server: it works from everywhere where kubectl
does, with the same contexts. It takes the verbs list on nodes and get on nodes/proxy. docs/policy.md says what policies mean.`,
		Example: "  skep policy status\n  skep policy stats",
		GroupID: groupOther,
	}
	cmd.AddCommand(policyStatusCommand(), policyStatsCommand())
	return cmd
}

// target are the flags that say which cluster is meant, as kubectl has them, and a local cluster's name.
type target struct {
	*genericclioptions.ConfigFlags
	name string
	all  bool
}

func targetFlags(cmd *cobra.Command) *target {
	all := genericclioptions.NewConfigFlags(true)
	t := &target{ConfigFlags: &genericclioptions.ConfigFlags{
		KubeConfig: all.KubeConfig, Context: all.Context, Namespace: all.Namespace, Impersonate: all.Impersonate, ImpersonateGroup: all.ImpersonateGroup,
	}}
	flags := cmd.Flags()
	t.AddFlags(flags)
	existingNameFlag(cmd, &t.name)
	flags.BoolVarP(&t.all, "all-namespaces", "A", false, "all namespaces, which is what happens without -n")
	cmd.MarkFlagsMutuallyExclusive("namespace", "all-namespaces")
	cmd.MarkFlagsMutuallyExclusive("name", "kubeconfig")
	cmd.MarkFlagsMutuallyExclusive("name", "context")
	return t
}

// config is that of the cluster that is meant, found as kubectl's commands find it.
func (t *target) config(cmd *cobra.Command) (*rest.Config, error) {
	switch {
	case t.name != "":
		c := local.Cluster{Name: t.name}
		if _, err := c.Nodes(); err != nil {
			return nil, err
		}
		*t.KubeConfig = c.Kubeconfig()
	case !cmd.Flags().Changed("kubeconfig") && !cmd.Flags().Changed("context"):
		*t.KubeConfig = local.KubeconfigFallback(nil, os.Getenv("KUBECONFIG"))
	}
	return t.ToRESTConfig()
}

// jsonOutput adds the flag --output and returns what reads it.
func jsonOutput(cmd *cobra.Command) func() (bool, error) {
	output := cmd.Flags().StringP("output", "o", "", "\"json\" for programs")
	return func() (bool, error) {
		if *output != "" && *output != "json" {
			return false, errors.New(`--output takes "json" only`)
		}
		return *output == "json", nil
	}
}

func policyStatusCommand() *cobra.Command {
	var options policy.StatusOptions
	var wait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "status [NAME]",
		Short: "Say on how many nodes policies are in force, and how long that took",
		Long: `status says on how many nodes the present version of each NetworkPolicy and ClusterNetworkPolicy is in force, and why not where
it is not. With a NAME it is about one policy, in the namespace of -n or of the context, or a ClusterNetworkPolicy with --cluster,
and shows what each node says.

All nodes that are Ready are asked at the same time; one that does not answer within 5 seconds counts as not enforcing. P50 and P99
are of the last 32 versions on each node, from the moment in which the node heard of a version to the last write to its maps. Versions
that were there before the node's agent started have none.

The exit code is 1 when something is not in force on every node, so that --wait makes a script go on only when it is.`,
		Example: `  skep policy status
  skep policy status web -n shop
  skep policy status guard --cluster
  skep apply -f policy.yaml && skep policy status web -n shop --wait --timeout 10s`,
		Args: cobra.MaximumNArgs(1),
	}
	t := targetFlags(cmd)
	asJSON := jsonOutput(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&options.Cluster, "cluster", false, "only ClusterNetworkPolicies")
	flags.StringVar(&options.Node, "node", "", "ask this node alone")
	flags.BoolVar(&wait, "wait", false, "wait until everything that is asked for is in force")
	flags.DurationVar(&timeout, "timeout", time.Minute, "how long to --wait")
	cmd.MarkFlagsMutuallyExclusive("cluster", "namespace")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if options.JSON, err = asJSON(); err != nil {
			return err
		}
		config, err := t.config(cmd)
		if err != nil {
			return err
		}
		if wait {
			options.Wait = timeout
		}
		options.Namespace = *t.Namespace
		if len(args) == 1 && !options.Cluster {
			options.Name = args[0]
			if options.Namespace, _, err = t.ToRawKubeConfigLoader().Namespace(); err != nil {
				return err
			}
		} else if len(args) == 1 {
			options.Name = args[0]
		}
		return policy.Status(cmd.Context(), cmd.OutOrStdout(), config, options)
	}
	return cmd
}

func policyStatsCommand() *cobra.Command {
	var options policy.StatsOptions
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Count what each rule of each policy has decided",
		Long: `stats counts what each rule of each NetworkPolicy and ClusterNetworkPolicy has decided, summed over the nodes. RULE is the
position in spec.ingress or spec.egress, from 0; "default deny" is what no rule allowed to a pod, and POLICY then names all the
policies that isolate it. A rule that has never decided anything is shown with 0.

A connection is counted once for each rule that comes to decide about it, and its packets and bytes as they pass, in both directions,
Ethernet headers included. Nothing is remembered of a connection that is refused, so an attempt that TCP or a program repeats counts
again. A connection between two pods is judged twice, by the sender's egress and the receiver's ingress policy, and each counts its own
rule. A rule that says Pass decides nothing and has no numbers.

A rule with MODE audit decides nothing either: its numbers are what it would decide, WOULD DENY and WOULD ALLOW the connections about
which it would have decided otherwise. A rule starts again at 0 when its policy's spec or mode changes, and on a node when its last
pod there goes; a default deny when other policies isolate the pods than did, or in another mode. SINCE is when the first node began to count.

All namespaces are shown, or one with -n; ClusterNetworkPolicies always.`,
		Example: `  skep policy stats
  skep policy stats -n shop
  skep policy stats --node skep-2 -o json`,
		Args: cobra.NoArgs,
	}
	t := targetFlags(cmd)
	asJSON := jsonOutput(cmd)
	cmd.Flags().StringVar(&options.Node, "node", "", "count on this node alone")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if options.JSON, err = asJSON(); err != nil {
			return err
		}
		config, err := t.config(cmd)
		if err != nil {
			return err
		}
		options.Namespace = *t.Namespace
		return policy.Stats(cmd.Context(), cmd.OutOrStdout(), config, options)
	}
	return cmd
}
