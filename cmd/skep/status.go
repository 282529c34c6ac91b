// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"skep.dev/skep/cmd/skep/internal/status"
)

func statusCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the health of a local cluster: control plane, nodes, datapath",
		Long: `status shows the health of the control plane, the nodes and their datapath: attached programs, fill of the maps,
verdicts and drops. On a real host it shows the agent of that host.`,
		GroupID: groupLocal,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return status.Show(cmd.Context(), cmd.OutOrStdout(), name)
		},
	}
	nameFlag(cmd, &name)
	return cmd
}
