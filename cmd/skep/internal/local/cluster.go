// SPDX-License-Identifier: Apache-2.0

// Package local runs a whole cluster on one machine: every node is a network namespace on a private fabric that
// has no route to the host's uplink, and the host reaches the cluster on 127.0.0.1 only.
//
// It starts the same processes that real hosts run, each in its node's network namespace and cgroup; it has
// no second implementation of anything. Every step looks at what exists first, so starting an existing cluster
// repairs it and removing a half-removed one finishes the work.
package local

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
)

// Where clusters of this machine live. They are variables so that tests can use folders of their own.
var (
	dataRoot = "/var/lib/skep"
	runRoot  = "/run/skep"
	bpfRoot  = "/sys/fs/bpf"
	netnsDir = "/run/netns"
)

// DefaultName is the cluster that commands mean when no name is given.
const DefaultName = "skep"

// nameFormat keeps a name short enough for socket paths (108 bytes) and valid as a part of node names.
var nameFormat = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,18}[a-z0-9])?$`)

// reservedNames are folders below dataRoot that a real host's server and agent use.
var reservedNames = map[string]bool{"server": true, "agent": true}

// Cluster names one local cluster and knows where its things are. It holds no state.
type Cluster struct {
	Name string
}

// ValidateName reports why name cannot be a cluster's name.
func ValidateName(name string) error {
	if !nameFormat.MatchString(name) || reservedNames[name] {
		return fmt.Errorf("cluster name %q: use 1 to 20 lower-case letters, digits and dashes, a letter first, and neither \"server\" nor \"agent\"", name)
	}
	return nil
}

// Clusters lists the clusters that have data on this machine, sorted by name.
func Clusters() []Cluster {
	files, _ := filepath.Glob(filepath.Join(dataRoot, "*", stateFile)) // the pattern is constant, so it cannot be malformed
	var clusters []Cluster
	for _, f := range files {
		clusters = append(clusters, Cluster{Name: filepath.Base(filepath.Dir(f))})
	}
	sort.Slice(clusters, func(i, j int) bool { return clusters[i].Name < clusters[j].Name })
	return clusters
}

// DataDir holds everything that survives a reboot.
func (c Cluster) DataDir() string { return filepath.Join(dataRoot, c.Name) }

// RunDir holds sockets, process records and pinned pod namespaces.
func (c Cluster) RunDir() string { return filepath.Join(runRoot, c.Name) }

// mountedBPF is a file that is there while the BPF file system is mounted by a cluster. Its name is that of no cluster.
func mountedBPF() string { return filepath.Join(runRoot, ".mounted-bpf") }

// PinDir is the folder of BPF pins.
func (c Cluster) PinDir() string { return filepath.Join(bpfRoot, "skep", c.Name) }

// Kubeconfig is the administrator's kubeconfig.
func (c Cluster) Kubeconfig() string { return filepath.Join(c.DataDir(), "kubeconfig") }

// ContextName is the context in the user's kubeconfig.
func (c Cluster) ContextName() string { return "skep-" + c.Name }

// ServerDir is the control plane's data folder.
func (c Cluster) ServerDir() string { return filepath.Join(c.DataDir(), "server") }

// LogFile is where a process of the cluster logs.
func (c Cluster) LogFile(process string) string {
	return filepath.Join(c.DataDir(), "log", process+".log")
}

// PullerSocket is where agents ask for image pulls.
func (c Cluster) PullerSocket() string { return filepath.Join(c.RunDir(), "puller.sock") }

// ContainerdSocket is the cluster's own containerd.
func (c Cluster) ContainerdSocket() string {
	return filepath.Join(c.RunDir(), "containerd", "containerd.sock")
}

// CgroupPath is the cluster's cgroup, relative to the root of each hierarchy.
func (c Cluster) CgroupPath() string { return "/skep/" + c.Name }

func (c Cluster) fabricNetns() string { return "skep-" + c.Name + "-fabric" }

// Node is one node of a local cluster; Index starts at 1.
type Node struct {
	Cluster Cluster
	Index   int
}

// Node returns the node with the given index.
func (c Cluster) Node(index int) Node { return Node{Cluster: c, Index: index} }

// Name is the node's name in the API.
func (n Node) Name() string { return n.Cluster.Name + "-" + strconv.Itoa(n.Index) }

// Netns is the name of the node's network namespace; it is also its containerd namespace.
func (n Node) Netns() string { return "skep-" + n.Cluster.Name + "-" + n.Name() }

// DataDir is the agent's data folder.
func (n Node) DataDir() string { return filepath.Join(n.Cluster.DataDir(), "nodes", n.Name()) }

// CredentialsDir holds the node's certificates and kubeconfig.
func (n Node) CredentialsDir() string { return filepath.Join(n.DataDir(), "credentials") }

// RunDir holds the agent's run-time state.
func (n Node) RunDir() string { return filepath.Join(n.Cluster.RunDir(), n.Name()) }

// AgentSocket is the agent's local status socket.
func (n Node) AgentSocket() string { return filepath.Join(n.RunDir(), "agent.sock") }

// PinDir is the folder of the node's BPF pins.
func (n Node) PinDir() string { return filepath.Join(n.Cluster.PinDir(), n.Name()) }

// CgroupPath is the node's cgroup, relative to the root of each hierarchy.
func (n Node) CgroupPath() string { return n.Cluster.CgroupPath() + "/" + n.Name() }

// The fabric: one bridge, one address of each family per node, no way out.
var (
	fabricIPv4 = netip.MustParsePrefix("172.29.0.0/24")
	fabricIPv6 = netip.MustParsePrefix("fd00:172:29::/64")
)

// MaxNodes is bounded by the fabric's IPv4 prefix.
const MaxNodes = 200

// Addrs are the node's addresses on the fabric, IPv4 first.
func (n Node) Addrs() []netip.Addr {
	return []netip.Addr{nth(fabricIPv4.Addr(), n.Index+1), nth(fabricIPv6.Addr(), n.Index+1)}
}

// nth returns the address i after base; i is small enough to change only the last byte.
func nth(base netip.Addr, i int) netip.Addr {
	b := base.AsSlice()
	b[len(b)-1] += byte(i)
	a, _ := netip.AddrFromSlice(b) // cannot fail: the slice has the length AsSlice gave it
	return a
}

// Exists reports whether the cluster has left data on this machine.
func (c Cluster) Exists() bool {
	_, err := os.Stat(filepath.Join(c.DataDir(), stateFile))
	return err == nil
}
