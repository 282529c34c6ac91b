// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"

	"github.com/spf13/cobra"

	"skep.dev/skep/cmd/skep/internal/local"
	"skep.dev/skep/cmd/skep/internal/status"
)

func statusCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the health of a local cluster: control plane, nodes, datapath",
		Long: `status shows the health of the control plane, the nodes and their datapath: attached programs, fill of the maps,
verdicts and drops. On a real host it shows the agent of that host.`,
		Example: `  skep status
  skep status --name test`,
		GroupID: groupLocal,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return status.Show(cmd.Context(), cmd.OutOrStdout(), cmp.Or(name, local.Meant()))
		},
	}
	existingNameFlag(cmd, &name)
	return cmd
}
