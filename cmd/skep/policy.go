// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"

	"github.com/spf13/cobra"

	"skep.dev/skep/cmd/skep/internal/local"
	"skep.dev/skep/cmd/skep/internal/status"
)

func policyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Look into what policies do", Example: "  skep policy stats", GroupID: groupLocal}
	cmd.AddCommand(policyStatsCommand())
	return cmd
}

func policyStatsCommand() *cobra.Command {
	var name, output string
	var options status.PolicyOptions
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Count what each rule of each policy has decided",
		Long: `stats counts what each rule of each NetworkPolicy and ClusterNetworkPolicy has decided, summed over the nodes. RULE is the
position in spec.ingress or spec.egress, from 0; "default deny" is what no rule allowed to a pod, and POLICY then names all the
policies that isolate it. A rule that has never decided anything is shown with 0.

What is counted are judgements: the first packet of a connection; every packet of one that is refused, so an attempt that TCP or
a program repeats counts again; and one packet of each open connection after each change of policy on its node. All other
packets follow their connection without being judged. CONNECTIONS and PACKETS are therefore the same number today, and BYTES are
those of the judged packets only, Ethernet headers included. A connection between two pods is judged twice, by the sender's
egress and the receiver's ingress policy, and each counts its own rule. A rule that says Pass decides nothing and has no numbers.
A rule starts again at 0 when its policy's spec changes, and on a node when its last pod there goes.

All namespaces are shown, or one with -n; ClusterNetworkPolicies always. On a real host the numbers are this host's.`,
		Example: `  skep policy stats
  skep policy stats -n shop
  skep policy stats --node skep-2 -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "" && output != "json" {
				return errors.New(`--output takes "json" only`)
			}
			options.JSON = output == "json"
			return status.Policy(cmd.Context(), cmd.OutOrStdout(), cmp.Or(name, local.Meant()), options)
		},
	}
	existingNameFlag(cmd, &name)
	flags := cmd.Flags()
	flags.StringVarP(&options.Namespace, "namespace", "n", "", "only NetworkPolicies of this namespace (and ClusterNetworkPolicies)")
	flags.BoolP("all-namespaces", "A", false, "all namespaces, which is what happens without -n")
	flags.StringVar(&options.Node, "node", "", "count on this node alone")
	flags.StringVarP(&output, "output", "o", "", "\"json\" for programs")
	cmd.MarkFlagsMutuallyExclusive("namespace", "all-namespaces")
	return cmd
}
