// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net/netip"

	"github.com/spf13/cobra"

	"skep.dev/skep/controlplane"
)

// serverFlags are texts that become a controlplane.Config.
type serverFlags struct {
	cfg                    controlplane.Config
	bind, advertise        string
	serviceCIDRs, podCIDRs []string
}

func serverCommand() *cobra.Command {
	var f serverFlags
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run the control plane: store, API server, controllers, scheduler",
		Long: `server runs the control plane on this host and stays in the foreground. At its first start it makes the cluster's CA and the
administrator's kubeconfig (kubeconfig in the data folder). It runs no pods: for those, start "skep agent" on this and on
other hosts, after "skep node credentials" has let them in. docs/hosts.md goes through it step by step.`,
		Example: `  skep server --advertise-address 192.0.2.10 --upstream-dns /etc/resolv.conf
  KUBECONFIG=/var/lib/skep/server/kubeconfig skep get nodes`,
		GroupID: groupHost,
		Args:    cobra.NoArgs,
		RunE: longRunning(func(ctx context.Context, _ []string) error {
			cfg, err := f.config()
			if err != nil {
				return err
			}
			return controlplane.Run(ctx, cfg)
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&f.cfg.DataDir, "data-dir", defaultServerDir, "where the store and the CA are")
	flags.StringSliceVar(&f.cfg.EtcdEndpoints, "etcd-endpoints", nil, "use this etcd instead of the built-in one")
	flags.BoolVar(&f.cfg.EtcdUnsafeNoFsync, "unsafe-no-fsync", false, "do not wait for the disk: a power cut may lose the cluster")
	flags.StringVar(&f.bind, "bind-address", "::", "address to listen on")
	flags.StringVar(&f.advertise, "advertise-address", "", "address at which nodes and pods reach this server (default: that of the interface with the default route)")
	flags.Uint16Var(&f.cfg.SecurePort, "secure-port", 6443, "port to listen on")
	flags.StringSliceVar(&f.serviceCIDRs, "service-cidrs", defaultServiceCIDRs, "address ranges of Services, one for each family")
	flags.StringSliceVar(&f.podCIDRs, "pod-cidrs", defaultPodCIDRs, "address ranges of pods, one for each family")
	flags.IntVar(&f.cfg.NodeMaskIPv4, "node-mask-ipv4", 24, "prefix length of a node's share of the IPv4 pod addresses")
	flags.IntVar(&f.cfg.NodeMaskIPv6, "node-mask-ipv6", 64, "prefix length of a node's share of the IPv6 pod addresses")
	flags.StringVar(&f.cfg.ClusterDomain, "cluster-domain", defaultDomain, "the cluster's DNS domain")
	flags.StringSliceVar(&f.cfg.UpstreamDNS, "upstream-dns", nil, "resolvers that pods reach through the cluster's DNS: addresses, or /etc/resolv.conf for each node's own (default none: other names are refused)")
	flags.StringVar(&f.cfg.KubeconfigOut, "kubeconfig-out", "", "where to write the administrator's kubeconfig (default: kubeconfig in the data folder)")
	flags.StringVar(&f.cfg.KubeconfigServer, "kubeconfig-server", "", "URL of the server in that kubeconfig (default: the advertised address)")
	flags.StringSliceVar(&f.cfg.ExtraSANs, "extra-sans", nil, "further names and addresses of the serving certificate")
	return cmd
}

func (f serverFlags) config() (controlplane.Config, error) {
	cfg := f.cfg
	cfg.Logger = logger()
	var errs [4]error
	cfg.BindAddress, errs[0] = netip.ParseAddr(f.bind)
	if f.advertise != "" {
		cfg.AdvertiseAddress, errs[1] = netip.ParseAddr(f.advertise)
	}
	cfg.ServiceCIDRs, errs[2] = parsePrefixes(f.serviceCIDRs)
	cfg.ClusterCIDRs, errs[3] = parsePrefixes(f.podCIDRs)
	return cfg, errors.Join(errs[:]...)
}
