// SPDX-License-Identifier: Apache-2.0

package main

// What a real host uses unless told otherwise; docs/architecture.md lists the same.
const (
	defaultServerDir   = "/var/lib/skep/server"
	defaultAgentDir    = "/var/lib/skep/agent"
	defaultAgentRun    = "/run/skep/agent"
	defaultAgentPins   = "/sys/fs/bpf/skep/agent"
	defaultCgroup      = "/skep"
	defaultDomain      = "cluster.local"
	defaultContainerd  = "/run/containerd/containerd.sock"
	defaultContainerNS = "skep"
)

// The cluster's address ranges. Server and agents must agree on them.
var (
	defaultServiceCIDRs = []string{"10.96.0.0/16", "fd00:10:96::/112"}
	defaultPodCIDRs     = []string{"10.244.0.0/16", "fd00:10:244::/56"}
	defaultClusterDNS   = []string{"10.96.0.10", "fd00:10:96::a"}
)
