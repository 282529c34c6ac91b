// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"skep.dev/skep/nodeagent/podlog"
)

func containerLogCommand() *cobra.Command {
	return &cobra.Command{
		Use:    podlog.Command + " DIR",
		Short:  "Write the logs of a node's containers; outlives the agent",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return podlog.RunLogger(cmd.Context(), args[0], logger())
		},
	}
}
