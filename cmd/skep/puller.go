// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/spf13/cobra"

	"skep.dev/skep/cmd/skep/internal/images"
)

func pullerCommand() *cobra.Command {
	var containerd, listen string
	cmd := &cobra.Command{
		Use:    "puller",
		Short:  "Pull images for nodes that have no way to a registry",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: longRunning(func(ctx context.Context, _ []string) error {
			return images.Pull(ctx, containerd, listen)
		}),
	}
	cmd.Flags().StringVar(&containerd, "containerd-socket", defaultContainerd, "containerd to pull into")
	cmd.Flags().StringVar(&listen, "listen", "", "unix socket on which agents ask")
	_ = cmd.MarkFlagRequired("listen") // the flag exists, so this cannot fail
	return cmd
}
