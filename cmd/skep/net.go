// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"skep.dev/skep/cmd/skep/internal/status"
)

func netCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "net", Short: "Look into the packet path", GroupID: groupLocal}
	cmd.AddCommand(netDropsCommand())
	return cmd
}

func netDropsCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "drops",
		Short: "Count dropped packets by node and reason",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return status.Drops(cmd.Context(), cmd.OutOrStdout(), name)
		},
	}
	nameFlag(cmd, &name)
	return cmd
}
