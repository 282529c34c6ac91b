// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// hostname is the pod's own name as its processes see it, at most 63 characters.
func hostname(pod *v1.Pod, node string) string {
	switch {
	case pod.Spec.HostNetwork:
		return node
	case pod.Spec.HostnameOverride != nil:
		return *pod.Spec.HostnameOverride
	}
	name := pod.Spec.Hostname
	if name == "" {
		name = pod.Name
	}
	if len(name) > 63 {
		name = strings.TrimRight(name[:63], "-.")
	}
	return name
}

// etcHosts is the pod's /etc/hosts.
func etcHosts(pod *v1.Pod, host, domain string, addrs []netip.Addr) string {
	var b strings.Builder
	b.WriteString("# Written by the node for this pod. Use hostAliases to add entries.\n")
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n")
	b.WriteString("fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
	names := host
	if pod.Spec.Subdomain != "" {
		names = fmt.Sprintf("%s.%s.%s.svc.%s\t%s", host, pod.Spec.Subdomain, pod.Namespace, domain, host)
	}
	for _, a := range addrs {
		fmt.Fprintf(&b, "%s\t%s\n", a, names)
	}
	for _, alias := range pod.Spec.HostAliases {
		fmt.Fprintf(&b, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, "\t"))
	}
	return b.String()
}

// resolvConf is the pod's /etc/resolv.conf; node is the text of the node's.
func resolvConf(pod *v1.Pod, domain string, cluster []netip.Addr, node string) string {
	var servers, search, options []string
	policy := pod.Spec.DNSPolicy
	if policy == "" {
		policy = v1.DNSClusterFirst
	}
	// ClusterFirst means the node's resolver for pods in the node's network, unless they ask for more.
	clusterFirst := policy == v1.DNSClusterFirstWithHostNet || policy == v1.DNSClusterFirst && !pod.Spec.HostNetwork
	switch {
	case policy == v1.DNSNone:
	case clusterFirst && len(cluster) > 0:
		for _, a := range cluster {
			servers = append(servers, a.String())
		}
		search = []string{pod.Namespace + ".svc." + domain, "svc." + domain, domain}
		_, nodeSearch, _ := parseResolv(node)
		search = append(search, nodeSearch...)
		options = []string{"ndots:5"}
	default:
		servers, search, options = parseResolv(node)
	}
	if c := pod.Spec.DNSConfig; c != nil {
		servers = append(servers, c.Nameservers...)
		search = append(search, c.Searches...)
		options = mergeOptions(options, c.Options)
	}
	return formatResolv(unique(servers), unique(search), options)
}

func parseResolv(text string) (servers, search, options []string) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			servers = append(servers, fields[1])
		case "search":
			search = slices.DeleteFunc(slices.Clone(fields[1:]), func(s string) bool { return s == "." })
		case "options":
			options = append(options, fields[1:]...)
		}
	}
	return servers, search, options
}

func mergeOptions(have []string, more []v1.PodDNSConfigOption) []string {
	for _, o := range more {
		have = slices.DeleteFunc(have, func(s string) bool { name, _, _ := strings.Cut(s, ":"); return name == o.Name })
		text := o.Name
		if o.Value != nil && *o.Value != "" {
			text += ":" + *o.Value
		}
		have = append(have, text)
	}
	return have
}

func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func formatResolv(servers, search, options []string) string {
	var b strings.Builder
	// The resolver reads at most three servers.
	for _, s := range servers[:min(len(servers), 3)] {
		b.WriteString("nameserver " + s + "\n")
	}
	if len(search) > 0 {
		b.WriteString("search " + strings.Join(search, " ") + "\n")
	}
	if len(options) > 0 {
		b.WriteString("options " + strings.Join(options, " ") + "\n")
	}
	return b.String()
}

// writeEtcFiles writes the pod's hosts, hostname and resolv.conf and returns their directory.
func (a *agent) writeEtcFiles(pod *v1.Pod, addrs []netip.Addr) (string, error) {
	dir := filepath.Join(a.volumes.PodDir(string(pod.UID)), "etc")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("write /etc files of pod: %w", err)
	}
	host := hostname(pod, a.cfg.NodeName)
	hosts := etcHosts(pod, host, a.cfg.ClusterDomain, addrs)
	if pod.Spec.HostNetwork {
		if own, err := os.ReadFile("/etc/hosts"); err == nil {
			hosts = string(own)
			for _, alias := range pod.Spec.HostAliases {
				hosts += alias.IP + "\t" + strings.Join(alias.Hostnames, "\t") + "\n"
			}
		}
	}
	node, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		node = nil
	}
	for name, text := range map[string]string{
		"hosts": hosts, "hostname": host + "\n", "resolv.conf": resolvConf(pod, a.cfg.ClusterDomain, a.cfg.ClusterDNS, string(node)),
	} {
		// The files are bound into containers, so they are written in place, never replaced.
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return "", fmt.Errorf("write /etc files of pod: %w", err)
		}
	}
	return dir, nil
}
