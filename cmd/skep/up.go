// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"skep.dev/skep/cmd/skep/internal/local"
	"skep.dev/skep/controlplane/cert"
)

func upCommand() *cobra.Command {
	var cfg local.Config
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a local cluster, or repair or grow the one that is there",
		Long: `up starts a cluster on this machine. Every node is a network namespace on a private fabric without a way to the
host's network; the host reaches the API on 127.0.0.1. It is harmless to run it again: what runs stays, what is missing
is started, and processes of another build of skep are replaced.

The context skep-NAME is added to $KUBECONFIG or ~/.kube/config and becomes the current one. Pods of a local
cluster have no network outside the cluster; images are pulled by a process in the host's network.`,
		Example: `  skep up
  skep up --name test --nodes 3`,
		GroupID: groupLocal,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if cfg.Executable, err = executable(); err != nil {
				return err
			}
			cfg.Issue = issueNode
			cfg.Out = cmd.OutOrStdout()
			return local.Up(cmd.Context(), cfg)
		},
	}
	nameFlag(cmd, &cfg.Name)
	flags := cmd.Flags()
	flags.IntVar(&cfg.Nodes, "nodes", 0, "number of nodes (default 1, or what the cluster has)")
	flags.IntVar(&cfg.APIPort, "api-port", 0, "port of 127.0.0.1 for the API (default 6443 or, if that is taken, any free one)")
	flags.DurationVar(&cfg.Timeout, "timeout", 0, "how long the start may take (default 3m)")
	flags.BoolVar(&cfg.UnsafeNoFsync, "unsafe-no-fsync", false, "do not wait for the disk: faster, and a power cut may lose the cluster")
	return cmd
}

// issueNode signs a node's credentials with the cluster's CA.
func issueNode(pkiDir string, n local.Node, serverURL string) error {
	ca, err := cert.Open(pkiDir)
	if err != nil {
		return err
	}
	return ca.IssueNode(n.CredentialsDir(), n.Name(), n.Addrs(), serverURL)
}

// executable is this binary by its real path, since links may change under a running cluster.
func executable() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(path)
}
