// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"skep.dev/skep/cmd/skep/internal/agentapi"
	"skep.dev/skep/cmd/skep/internal/preflight"
	"skep.dev/skep/datapath/kernel"
	"skep.dev/skep/nodeagent"
	"skep.dev/skep/nodeagent/intent"
)

// agentFlags are texts that become the configurations of the agent and of the datapath.
type agentFlags struct {
	agent                  nodeagent.Config
	datapath               kernel.Config
	nodeIPs, clusterDNS    []string
	serviceCIDRs, podCIDRs []string
}

// containerdWait is how long containerd may take to listen before the agent says that it is not there.
const containerdWait = 10 * time.Second

func agentCommand() *cobra.Command {
	var f agentFlags
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run a node: its pods on containerd, and its datapath",
		Long: `agent makes this host a node of the cluster and stays in the foreground. It needs root, a running containerd and the folder
that "skep node credentials" made on the host of the control plane. When it ends, pods, Services and policy stay as they are,
and the next start takes them over. docs/hosts.md goes through it step by step.`,
		Example: `  skep agent --node-ips 192.0.2.11
  skep agent --node-name worker-1 --node-ips 192.0.2.11,2001:db8::11 --uplink eth1`,
		GroupID: groupHost,
		Args:    cobra.NoArgs,
		RunE: longRunning(func(ctx context.Context, _ []string) error {
			if err := f.complete(); err != nil {
				return err
			}
			return runAgent(ctx, f)
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&f.agent.NodeName, "node-name", "", "name of the node in the API (default: this host's name)")
	flags.StringSliceVar(&f.nodeIPs, "node-ips", nil, "addresses of the node, at most one of each family, the preferred one first")
	flags.StringVar(&f.agent.Credentials, "credentials", filepath.Join(defaultAgentDir, "credentials"), "folder made by \"skep node credentials\"")
	flags.StringVar(&f.agent.ContainerdSocket, "containerd-socket", defaultContainerd, "containerd to use")
	flags.StringVar(&f.agent.ContainerdNamespace, "containerd-namespace", defaultContainerNS, "namespace in containerd")
	flags.StringVar(&f.agent.DataDir, "data-dir", defaultAgentDir, "what survives a reboot")
	flags.StringVar(&f.agent.RunDir, "run-dir", defaultAgentRun, "what does not")
	flags.StringVar(&f.datapath.PinDir, "pin-dir", defaultAgentPins, "folder of BPF pins")
	flags.StringVar(&f.agent.CgroupParent, "cgroup", defaultCgroup, "cgroup of the pods, in every hierarchy")
	flags.StringVar(&f.datapath.CgroupPath, "socket-cgroup", "", "cgroup2 folder whose processes reach Services through their sockets (default: all processes of the host)")
	flags.StringVar(&f.agent.PullerSocket, "puller-socket", "", "let a process at this socket pull images")
	flags.StringVar(&f.agent.Uplink, "uplink", "", "device towards the other nodes (default: the one that has the first of the node's addresses)")
	flags.StringVar(&f.agent.ClusterDomain, "cluster-domain", defaultDomain, "the cluster's DNS domain")
	flags.StringSliceVar(&f.clusterDNS, "cluster-dns", defaultClusterDNS, "addresses of the kube-dns Service")
	flags.StringSliceVar(&f.serviceCIDRs, "service-cidrs", defaultServiceCIDRs, "address ranges of Services, as the server has them")
	flags.StringSliceVar(&f.podCIDRs, "pod-cidrs", defaultPodCIDRs, "address ranges of pods, as the server has them")
	flags.IntVar(&f.agent.MaxPods, "max-pods", nodeagent.DefaultMaxPods, "how many pods the node takes")
	flags.StringToStringVar(&f.agent.Labels, "node-labels", nil, "labels of the node")
	flags.Uint16Var(&f.agent.KubeletPort, "kubelet-port", nodeagent.DefaultKubeletPort, "port of the kubelet API")
	flags.IntVar(&f.datapath.ConntrackMax, "conntrack-max", 0, "connections that are tracked at most (default: chosen by the datapath)")
	_ = cmd.MarkFlagRequired("node-ips") // the flag exists, so this cannot fail
	return cmd
}

// complete parses the texts and fills what the two configurations share.
func (f *agentFlags) complete() (err error) {
	var errs [7]error
	f.agent.NodeAddrs, errs[0] = parseAddrs(f.nodeIPs)
	f.agent.ClusterDNS, errs[1] = parseAddrs(f.clusterDNS)
	f.datapath.ServiceCIDRs, errs[2] = parsePrefixes(f.serviceCIDRs)
	f.datapath.PodCIDRs, errs[3] = parsePrefixes(f.podCIDRs)
	if f.datapath.CgroupPath == "" {
		f.datapath.CgroupPath, errs[4] = preflight.Cgroup2Mount()
	} else if _, err := os.Stat(f.datapath.CgroupPath); err != nil {
		errs[4] = fmt.Errorf("--socket-cgroup: %w; make the cgroup first, and start in it what shall reach Services", err)
	}
	if f.agent.NodeName == "" {
		f.agent.NodeName, errs[5] = os.Hostname()
	}
	if f.agent.Uplink == "" && len(f.agent.NodeAddrs) > 0 {
		f.agent.Uplink, errs[6] = deviceOf(f.agent.NodeAddrs[0])
	}
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	if f.agent.Executable, err = executable(); err != nil {
		return err
	}
	f.agent.Logger = logger()
	f.datapath.Logger = f.agent.Logger.With("component", "datapath")
	f.datapath.Node, f.datapath.Uplink, f.datapath.NodeAddrs = f.agent.NodeName, f.agent.Uplink, f.agent.NodeAddrs
	return nil
}

// runAgent runs the node until the context ends. The datapath stays attached afterwards.
func runAgent(ctx context.Context, f agentFlags) error {
	err := preflight.Run(preflight.Root, preflight.Kernel, preflight.BPF, preflight.Cgroup2, preflight.Socket(f.agent.ContainerdSocket, "containerd", containerdWait))
	if err != nil {
		return err
	}
	dp, err := kernel.New(ctx, f.datapath)
	if err != nil {
		return err
	}
	defer dp.Close()
	f.agent.Rules, f.agent.LastGood = ruleTable(f.agent), lastGood(f.agent)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return agentapi.Serve(ctx, filepath.Join(f.agent.RunDir, "agent.sock"), dp)
	})
	group.Go(func() error { return nodeagent.Run(ctx, f.agent, dp) })
	return group.Wait()
}

// ruleTable continues the numbers of rules of the runs before. A disk that is full must not stop policy from being enforced; what
// suffers is attribution after a restart.
func ruleTable(cfg nodeagent.Config) *intent.RuleTable {
	table, err := intent.NewRuleTable(filepath.Join(cfg.DataDir, "rules"))
	if err != nil {
		cfg.Logger.Error("rule numbers will not outlive this process", "err", err)
		table, _ = intent.NewRuleTable("") // cannot fail without a path
	}
	return table
}

// lastGood goes on from the last good versions of the policies that the run before has refused. Where one cannot be read nothing is known of
// what was in force.
func lastGood(cfg nodeagent.Config) *intent.LastGood {
	found, err := intent.NewLastGood(filepath.Join(cfg.DataDir, "last-good"))
	if err != nil {
		cfg.Logger.Error("last good versions of policies are lost; pods that such a policy selects are cut off if it is still refused", "err", err)
	}
	return found
}

// deviceOf finds the device that has an address.
func deviceOf(addr netip.Addr) (string, error) {
	devices, err := net.Interfaces()
	if err != nil {
		return "", err
	}
	for _, d := range devices {
		addrs, err := d.Addrs()
		if err != nil {
			return "", fmt.Errorf("addresses of %s: %w", d.Name, err)
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr() == addr {
				return d.Name, nil
			}
		}
	}
	return "", fmt.Errorf("no device of this host has the address %s: correct --node-ips, or name the device with --uplink", addr)
}
