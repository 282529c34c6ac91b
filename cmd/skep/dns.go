// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/spf13/cobra"

	"skep.dev/skep/nodeagent/dns"
)

func dnsCommand() *cobra.Command {
	var cfg dns.Config
	cmd := &cobra.Command{
		Use:    "dns",
		Short:  "Answer for the cluster's names (runs as a pod on every node)",
		Hidden: true, // the control plane makes these pods; "skep server --upstream-dns" is what people set
		Args:   cobra.NoArgs,
		RunE: longRunning(func(ctx context.Context, _ []string) error {
			return dns.Run(ctx, cfg)
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&cfg.Domain, "domain", "cluster.local", "the cluster's domain")
	flags.StringVar(&cfg.Listen, "listen", ":53", "where to answer, UDP and TCP")
	flags.StringVar(&cfg.Health, "health", ":8080", "where the liveness page is")
	flags.StringVar(&cfg.Ready, "ready", ":8181", "where the readiness page is")
	flags.StringSliceVar(&cfg.Upstream, "upstream", nil, "resolvers for all other names: addresses or files like /etc/resolv.conf (default none: they are refused)")
	flags.StringVar(&cfg.Kubeconfig, "kubeconfig", "", "how to reach the API (default: as a pod)")
	return cmd
}
