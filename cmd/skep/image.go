// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"

	"github.com/spf13/cobra"

	"skep.dev/skep/cmd/skep/internal/images"
	"skep.dev/skep/cmd/skep/internal/local"
)

func imageCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Bring images onto the nodes", Example: "  skep image load app.tar", GroupID: groupLocal}
	cmd.AddCommand(imageLoadCommand())
	return cmd
}

func imageLoadCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "load FILE...",
		Short: "Load images from files to every node of a local cluster",
		Long: `load takes docker archives (docker save) and OCI layouts, as tar files or folders, and loads them to every node. A pod then
runs the image by the name that is printed; with the tag "latest" it also needs imagePullPolicy: IfNotPresent.`,
		Example: `  docker save app:1 -o app.tar && skep image load app.tar
  skep image load --name test app.tar oci-layout/`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("name at least one file: skep image load FILE")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return images.Load(cmd.Context(), cmd.OutOrStdout(), cmp.Or(name, local.Meant()), args)
		},
	}
	existingNameFlag(cmd, &name)
	return cmd
}
