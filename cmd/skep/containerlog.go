// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/spf13/cobra"

	"skep.dev/skep/nodeagent/podlog"
)

func containerLogCommand() *cobra.Command {
	return &cobra.Command{
		Use:    podlog.Command + " DIR",
		Short:  "Write the logs of a node's containers; outlives the agent",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: longRunning(func(ctx context.Context, args []string) error {
			return podlog.RunLogger(ctx, args[0], logger())
		}),
	}
}
