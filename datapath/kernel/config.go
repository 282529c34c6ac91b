// SPDX-License-Identifier: Apache-2.0

// Package kernel is the real Datapath: it loads the programs, attaches them and keeps their maps in agreement with intent.
package kernel

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"time"

	"skep.dev/skep/datapath/conntrack"
)

// Config says for which node a Datapath works. It runs inside that node's network namespace.
type Config struct {
	// Node is the node's name, for logs.
	Node string
	// PinDir is a directory below a BPF file system, which is mounted if it is /sys/fs/bpf and missing. Everything in it is
	// adopted. Empty: nothing outlives the process (tests).
	PinDir string
	// CgroupPath is the absolute path of the cgroup, in the cgroup2 mount, below which all processes have their
	// sockets balanced. Empty: no socket-level balancing; packets are balanced all the same.
	CgroupPath string
	// Uplink is the name of the device to other nodes. Empty: none.
	Uplink string
	// NodeAddrs are this node's own addresses: packets from the uplink that claim them are dropped. SetNodes adds to them.
	NodeAddrs []netip.Addr
	// ServiceCIDRs are where Service addresses lie, at most one prefix of each family. Addresses outside are never balanced
	// unless their family has no prefix here.
	ServiceCIDRs []netip.Prefix
	// PodCIDRs are where the pods of all nodes have their addresses.
	PodCIDRs []netip.Prefix
	// ConntrackMax is how many flows are remembered. Default 131072. A table that exists keeps its size.
	ConntrackMax int
	// SweepInterval is how often old flows are looked for. Default 15 s.
	SweepInterval time.Duration
	// Timeouts of idle flows. Default conntrack.DefaultTimeouts.
	Timeouts conntrack.Timeouts
	// NoTCX attaches by clsact even where the kernel has tcx.
	NoTCX  bool
	Logger *slog.Logger
}

const (
	defaultConntrackMax  = 131072
	defaultSweepInterval = 15 * time.Second
	minConntrack         = 1024
)

func (c Config) withDefaults() Config {
	if c.ConntrackMax == 0 {
		c.ConntrackMax = defaultConntrackMax
	}
	if c.SweepInterval == 0 {
		c.SweepInterval = defaultSweepInterval
	}
	if c.Timeouts == (conntrack.Timeouts{}) {
		c.Timeouts = conntrack.DefaultTimeouts
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate reports all faults at once.
func (c Config) Validate() error {
	var errs []error
	if c.PinDir != "" && !filepath.IsAbs(c.PinDir) {
		errs = append(errs, fmt.Errorf("pin directory %q is not absolute", c.PinDir))
	}
	if c.CgroupPath != "" && !filepath.IsAbs(c.CgroupPath) {
		errs = append(errs, fmt.Errorf("cgroup path %q is not absolute", c.CgroupPath))
	}
	if c.ConntrackMax != 0 && c.ConntrackMax < minConntrack {
		errs = append(errs, fmt.Errorf("%d connections are too few: at least %d", c.ConntrackMax, minConntrack))
	}
	var families [2]int
	for _, p := range c.ServiceCIDRs {
		if !p.IsValid() {
			errs = append(errs, errors.New("a service prefix is not valid"))
		} else if p.Addr().Is4() {
			families[0]++
		} else {
			families[1]++
		}
	}
	if families[0] > 1 || families[1] > 1 {
		errs = append(errs, fmt.Errorf("service prefixes %v: at most one of each family", c.ServiceCIDRs))
	}
	return errors.Join(errs...)
}
