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
		Use:   "down",
		Short: "Remove a local cluster without a trace",
		Long: `down removes a local cluster: processes, containers, namespaces, mounts, cgroups, BPF pins, its context in the kubeconfig and all
data. It works on half a cluster and after a crash, and running it again is harmless.`,
		Example: `  skep down
  skep down --name test --keep-data`,
		GroupID: groupLocal,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			was := (local.Cluster{Name: name}).Exists()
			if err := local.Down(cmd.Context(), name, keepData); err != nil {
				return err
			}
			if !was {
				fmt.Fprintf(cmd.OutOrStdout(), "there was no cluster %s; nothing of one is left\n", name)
				return nil
			}
			fmt.Fprintf(cmd.OutOrStdout(), "cluster %s is gone\n", name)
			return nil
		},
	}
	nameFlag(cmd, &name)
	cmd.Flags().BoolVar(&keepData, "keep-data", false, "keep what \"skep up\" needs to bring the same cluster back: API objects, images and logs")
	return cmd
}
