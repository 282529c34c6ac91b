// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"skep.dev/skep/cmd/skep/internal/local"
)

func kubeconfigCommand() *cobra.Command {
	var name string
	var path bool
	cmd := &cobra.Command{
		Use:     "kubeconfig",
		Short:   "Print the local cluster's kubeconfig",
		Example: `  export KUBECONFIG=$(skep kubeconfig --path)`,
		GroupID: groupLocal,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c := local.Cluster{Name: cmp.Or(name, local.Meant())}
			if _, err := c.Nodes(); err != nil {
				return err
			}
			if path {
				fmt.Fprintln(cmd.OutOrStdout(), c.Kubeconfig())
				return nil
			}
			content, err := os.ReadFile(c.Kubeconfig())
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(content)
			return err
		},
	}
	existingNameFlag(cmd, &name)
	cmd.Flags().BoolVar(&path, "path", false, "print the file's path instead")
	return cmd
}

func nameFlag(cmd *cobra.Command, name *string) {
	cmd.Flags().StringVar(name, "name", local.DefaultName, "name of the local cluster")
}

// existingNameFlag is for commands that look at a cluster: without a name they take the only one, as kubectl commands do.
func existingNameFlag(cmd *cobra.Command, name *string) {
	cmd.Flags().StringVar(name, "name", "", fmt.Sprintf("name of the local cluster (default %q, or the only one there is)", local.DefaultName))
}
