// SPDX-License-Identifier: Apache-2.0

// Package controlplane runs the Kubernetes control plane in one process: store, API server, controllers, scheduler.
package controlplane

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Config says how a control plane runs. The zero value of a field means its default.
type Config struct {
	// DataDir holds etcd/ and pki/. Default /var/lib/skep/server.
	DataDir string
	// EtcdEndpoints are the URLs of an external store. Default: a store inside the process.
	EtcdEndpoints []string
	// EtcdUnsafeNoFsync lets the inner store acknowledge writes before they are on disk; for throw-away clusters.
	EtcdUnsafeNoFsync bool
	// BindAddress is where the API is served. Default: every address.
	BindAddress netip.Addr
	// AdvertiseAddress is where nodes and pods reach this server. Default: BindAddress when it is one address,
	// else the address of the interface with the default route; loopback when there is none.
	AdvertiseAddress netip.Addr
	// SecurePort is the TLS port. Default 6443.
	SecurePort uint16
	// ServiceCIDRs are the ranges of Service addresses, one per family, the default family first.
	// Default 10.96.0.0/16, fd00:10:96::/112.
	ServiceCIDRs []netip.Prefix
	// ClusterCIDRs are the ranges of pod addresses, one per family. Default 10.244.0.0/16, fd00:10:244::/56.
	ClusterCIDRs []netip.Prefix
	// NodeMaskIPv4 and NodeMaskIPv6 are the prefix lengths of a node's share of ClusterCIDRs. Default 24 and 64.
	NodeMaskIPv4, NodeMaskIPv6 int
	// ClusterDomain is the cluster's DNS domain. Default cluster.local.
	ClusterDomain string
	// UpstreamDNS are the resolvers that the cluster's DNS asks for all other names: addresses, or files of the nodes like
	// /etc/resolv.conf. Without one, other names are refused.
	UpstreamDNS []string
	// KubeconfigOut is where the first administrator's kubeconfig is written. Default DataDir/kubeconfig.
	KubeconfigOut string
	// KubeconfigServer is the server's URL in that kubeconfig. Default: https on AdvertiseAddress and SecurePort.
	KubeconfigServer string
	// ExtraSANs are further names and addresses of the serving certificate.
	ExtraSANs []string
	// Logger receives the log. Default: slog.Default().
	Logger *slog.Logger
}

const (
	defaultDataDir       = "/var/lib/skep/server"
	defaultSecurePort    = 6443
	defaultNodeMaskIPv4  = 24
	defaultNodeMaskIPv6  = 64
	defaultClusterDomain = "cluster.local"
)

// withDefaults fills the zero fields.
func (c Config) withDefaults() Config {
	if c.DataDir == "" {
		c.DataDir = defaultDataDir
	}
	if !c.BindAddress.IsValid() {
		c.BindAddress = netip.IPv6Unspecified()
	}
	if c.SecurePort == 0 {
		c.SecurePort = defaultSecurePort
	}
	if !c.AdvertiseAddress.IsValid() {
		c.AdvertiseAddress = advertised(c.BindAddress)
	}
	if len(c.ServiceCIDRs) == 0 {
		c.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")}
	}
	if len(c.ClusterCIDRs) == 0 {
		c.ClusterCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/56")}
	}
	if c.NodeMaskIPv4 == 0 {
		c.NodeMaskIPv4 = defaultNodeMaskIPv4
	}
	if c.NodeMaskIPv6 == 0 {
		c.NodeMaskIPv6 = defaultNodeMaskIPv6
	}
	if c.ClusterDomain == "" {
		c.ClusterDomain = defaultClusterDomain
	}
	if c.KubeconfigOut == "" {
		c.KubeconfigOut = filepath.Join(c.DataDir, "kubeconfig")
	}
	if c.KubeconfigServer == "" {
		c.KubeconfigServer = "https://" + netip.AddrPortFrom(c.AdvertiseAddress, c.SecurePort).String()
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// Validate reports every fault at once.
func (c Config) Validate() error {
	c = c.withDefaults()
	errs := []error{
		validateFamilies("service CIDRs", c.ServiceCIDRs),
		validateFamilies("cluster CIDRs", c.ClusterCIDRs),
		validateMask("node mask IPv4", c.NodeMaskIPv4, c.ClusterCIDRs, true),
		validateMask("node mask IPv6", c.NodeMaskIPv6, c.ClusterCIDRs, false),
	}
	for _, s := range c.ServiceCIDRs {
		if s.IsValid() && s.Addr().BitLen()-s.Bits() > maxServiceBits {
			errs = append(errs, fmt.Errorf("service CIDR %s is too large: at most %d host bits", s, maxServiceBits))
		}
		if s.IsValid() && s.Addr().BitLen()-s.Bits() < minServiceBits {
			errs = append(errs, fmt.Errorf("service CIDR %s is too small: at least %d host bits", s, minServiceBits))
		}
		for _, p := range c.ClusterCIDRs {
			if s.Overlaps(p) {
				errs = append(errs, fmt.Errorf("service CIDR %s and cluster CIDR %s overlap", s, p))
			}
		}
	}
	if problems := validation.IsDNS1123Subdomain(c.ClusterDomain); len(problems) > 0 {
		errs = append(errs, fmt.Errorf("cluster domain %q: %s", c.ClusterDomain, strings.Join(problems, ", ")))
	}
	if c.AdvertiseAddress.IsUnspecified() || c.AdvertiseAddress.IsMulticast() {
		errs = append(errs, fmt.Errorf("advertise address %s cannot be reached", c.AdvertiseAddress))
	}
	for _, e := range append([]string{c.KubeconfigServer}, c.EtcdEndpoints...) {
		if u, err := url.Parse(e); err != nil || u.Scheme == "" {
			errs = append(errs, fmt.Errorf("%q is not a URL", e))
		}
	}
	return errors.Join(errs...)
}

const (
	// maxServiceBits and minServiceBits bound the size of a Service range: the allocator keeps one bit per address,
	// and kubernetes and kube-dns have fixed places in it.
	maxServiceBits = 20
	minServiceBits = 4
)

func validateFamilies(what string, prefixes []netip.Prefix) error {
	var v4, v6 int
	for _, p := range prefixes {
		if !p.IsValid() || p != p.Masked() {
			return fmt.Errorf("%s: %s is not a network prefix", what, p)
		}
		if p.Addr().Is4() {
			v4++
		} else {
			v6++
		}
	}
	if v4 > 1 || v6 > 1 {
		return fmt.Errorf("%s: at most one per family, got %v", what, prefixes)
	}
	return nil
}

func validateMask(what string, bits int, prefixes []netip.Prefix, v4 bool) error {
	for _, p := range prefixes {
		if p.IsValid() && p.Addr().Is4() == v4 && (bits < p.Bits() || bits > p.Addr().BitLen()) {
			return fmt.Errorf("%s: /%d does not fit into %s", what, bits, p)
		}
	}
	return nil
}
