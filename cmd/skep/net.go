// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"

	"github.com/spf13/cobra"

	"skep.dev/skep/cmd/skep/internal/local"
	"skep.dev/skep/cmd/skep/internal/status"
)

func netCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "net", Short: "Look into the packet path", Example: "  skep net drops", GroupID: groupLocal}
	cmd.AddCommand(netDropsCommand())
	return cmd
}

func netDropsCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "drops",
		Short: "Count dropped packets by node and reason",
		Long: `drops counts the packets that the datapath has dropped, by node and reason, the most frequent first. Packets that a policy
refuses have the reasons policy_ingress and policy_egress; docs/architecture.md says which program judges which packet. The
counters start when the node's datapath is attached and go on when the agent restarts. On a real host it shows this host.`,
		Example: `  skep net drops
  watch skep net drops --name test`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return status.Drops(cmd.Context(), cmd.OutOrStdout(), cmp.Or(name, local.Meant()))
		},
	}
	existingNameFlag(cmd, &name)
	return cmd
}
