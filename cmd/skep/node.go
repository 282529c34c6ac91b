// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/spf13/cobra"

	"skep.dev/skep/controlplane/cert"
)

func nodeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "Let hosts into the cluster", GroupID: groupHost,
		Example: "  skep node credentials worker-1 --address 192.0.2.11 --server https://192.0.2.10:6443 --out worker-1"}
	cmd.AddCommand(nodeCredentialsCommand())
	return cmd
}

func nodeCredentialsCommand() *cobra.Command {
	var dataDir, out, server string
	var addresses []string
	cmd := &cobra.Command{
		Use:   "credentials NODE",
		Short: "Issue a node's certificates and kubeconfig, on the host of the control plane",
		Long: `credentials signs, with the cluster's CA, what the agent of one node needs: a client certificate for the API, a serving
certificate for logs and exec, and a kubeconfig. Whoever has the folder is that node, so move it over a safe channel and keep
it readable by root only. The certificates last a year; issue them again, with the same command, before that.`,
		Example: `  skep node credentials worker-1 --address 192.0.2.11 --server https://192.0.2.10:6443 --out worker-1
  scp -r worker-1 worker-1:/var/lib/skep/agent/credentials`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			addrs, err := parseAddrs(addresses)
			if err != nil {
				return err
			}
			ca, err := cert.Open(filepath.Join(dataDir, "pki"))
			if err != nil {
				return err
			}
			if err := ca.IssueNode(out, args[0], addrs, server); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "credentials of node %s are in %s\n", args[0], out)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&dataDir, "data-dir", defaultServerDir, "data folder of the control plane")
	flags.StringSliceVar(&addresses, "address", nil, "address of the node, once for each family")
	flags.StringVar(&server, "server", "", "URL of the API server as the node reaches it")
	flags.StringVar(&out, "out", "", "folder to write")
	for _, name := range []string{"address", "server", "out"} {
		_ = cmd.MarkFlagRequired(name) // the flag exists, so this cannot fail
	}
	return cmd
}

func parseAddrs(texts []string) ([]netip.Addr, error) {
	addrs := make([]netip.Addr, len(texts))
	for i, text := range texts {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("address %q: %w", text, err)
		}
		addrs[i] = addr
	}
	return addrs, nil
}

func parsePrefixes(texts []string) ([]netip.Prefix, error) {
	prefixes := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("address range %q: %w", text, err)
		}
		prefixes[i] = prefix.Masked()
	}
	return prefixes, nil
}
