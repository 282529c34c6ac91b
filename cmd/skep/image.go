// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"skep.dev/skep/cmd/skep/internal/images"
)

func imageCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Bring images onto the nodes", GroupID: groupLocal}
	cmd.AddCommand(imageLoadCommand())
	return cmd
}

func imageLoadCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "load FILE...",
		Short: "Load images from files to every node of a local cluster",
		Long:  "load takes docker archives (docker save) and OCI layouts, as tar files or folders, and loads them to every node.",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return images.Load(cmd.Context(), cmd.OutOrStdout(), name, args)
		},
	}
	nameFlag(cmd, &name)
	return cmd
}
