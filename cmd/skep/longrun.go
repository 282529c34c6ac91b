// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/spf13/cobra"

	"skep.dev/skep/cmd/skep/internal/footprint"
)

// longRunning makes a command's function one that gives back, after its start, the memory that only the start needed.
func longRunning(run func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ctx, cancel := context.WithCancel(cmd.Context())
		trimmed := make(chan struct{})
		go func() {
			defer close(trimmed)
			if err := footprint.TrimWhenSettled(ctx); err != nil {
				logger().Debug("memory is not given back", "err", err)
			}
		}()
		err := run(ctx, args)
		cancel()
		<-trimmed
		return err
	}
}
