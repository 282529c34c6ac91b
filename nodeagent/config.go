// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"skep.dev/skep/nodeagent/intent"
)

// Config of one node's agent. Fields without a default are required.
type Config struct {
	// NodeName is the name of the Node object.
	NodeName string
	// NodeAddrs are the node's own addresses, the preferred family first; at most one of each family.
	NodeAddrs []netip.Addr
	// Credentials is a folder with ca.crt, kubeconfig, kubelet.crt and kubelet.key.
	Credentials string
	// ContainerdSocket and ContainerdNamespace say where this node's containers are.
	ContainerdSocket, ContainerdNamespace string
	// DataDir survives a reboot, RunDir does not.
	DataDir, RunDir string
	// CgroupParent is the control group that pods are made below.
	CgroupParent string
	// LogRoot is where container logs go; default DataDir/log/pods.
	LogRoot string
	// ClusterDomain is the suffix of Service names; default cluster.local.
	ClusterDomain string
	// ClusterDNS are the addresses of the cluster's DNS Service.
	ClusterDNS []netip.Addr
	// PullerSocket is where another process pulls images for this node; empty means that the agent pulls itself.
	PullerSocket string
	// Uplink is the device towards the other nodes.
	Uplink string
	// MaxPods defaults to 110.
	MaxPods int
	// Labels are added to the Node object.
	Labels map[string]string
	// KubeletPort is where the kubelet API listens; default 10250.
	KubeletPort uint16
	// Executable is this program; it serves as the container logger, too. Default: the running one.
	Executable string
	// Rules hands out the numbers of policy rules, and knows what they mean. Default: numbers that start again with every run.
	Rules *intent.RuleTable
	// LastGood keeps the last good versions of policies that are refused. Default: they are lost with the process.
	LastGood *intent.LastGood
	Logger   *slog.Logger
}

// Defaults of Config.
const (
	DefaultClusterDomain = "cluster.local"
	DefaultMaxPods       = 110
	DefaultKubeletPort   = 10250
)

// Validate reports every fault of the configuration.
func (c Config) Validate() error {
	var errs []error
	for name, v := range map[string]string{
		"NodeName": c.NodeName, "Credentials": c.Credentials, "ContainerdSocket": c.ContainerdSocket,
		"ContainerdNamespace": c.ContainerdNamespace, "DataDir": c.DataDir, "RunDir": c.RunDir, "CgroupParent": c.CgroupParent, "Uplink": c.Uplink,
	} {
		if v == "" {
			errs = append(errs, fmt.Errorf("%s is not set", name))
		}
	}
	for name, dir := range map[string]string{"DataDir": c.DataDir, "RunDir": c.RunDir, "Credentials": c.Credentials, "CgroupParent": c.CgroupParent} {
		if dir != "" && !filepath.IsAbs(dir) {
			errs = append(errs, fmt.Errorf("%s must be an absolute path: %s", name, dir))
		}
	}
	if strings.Trim(c.CgroupParent, "/") == "" && c.CgroupParent != "" {
		errs = append(errs, errors.New("CgroupParent must not be the root control group"))
	}
	if len(c.NodeAddrs) == 0 {
		errs = append(errs, errors.New("NodeAddrs is empty: a node needs an address"))
	}
	for _, a := range c.NodeAddrs {
		if !a.IsValid() {
			errs = append(errs, errors.New("NodeAddrs holds an invalid address"))
		}
	}
	if c.MaxPods < 0 {
		errs = append(errs, fmt.Errorf("MaxPods must not be negative: %d", c.MaxPods))
	}
	return errors.Join(errs...)
}

func (c *Config) setDefaults() error {
	if c.ClusterDomain == "" {
		c.ClusterDomain = DefaultClusterDomain
	}
	if c.MaxPods == 0 {
		c.MaxPods = DefaultMaxPods
	}
	if c.KubeletPort == 0 {
		c.KubeletPort = DefaultKubeletPort
	}
	if c.LogRoot == "" {
		c.LogRoot = filepath.Join(c.DataDir, "log", "pods")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Executable == "" {
		exe, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find own executable: %w", err)
		}
		c.Executable = exe
	}
	return nil
}
