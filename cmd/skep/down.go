// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"skep.dev/skep/cmd/skep/internal/local"
)

func downCommand() *cobra.Command {
	var name string
	var keepData bool
	cmd := &cobra.Command{
		Use:     "down",
		Short:   "Remove a local cluster without a trace",
		GroupID: groupLocal,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := local.Down(cmd.Context(), name, keepData); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "cluster %s is gone\n", name)
			return nil
		},
	}
	nameFlag(cmd, &name)
	cmd.Flags().BoolVar(&keepData, "keep-data", false, "keep what \"skep up\" needs to bring the same cluster back: API objects, images and logs")
	return cmd
}
