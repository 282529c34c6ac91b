// SPDX-License-Identifier: Apache-2.0

// Package dns answers for the cluster's names on a node. It is CoreDNS with the few plugins that a cluster
// needs, configured by values instead of a file.
//
// Names are answered from what was last heard from the API: when the API goes away, everything known goes on being
// answered. All listeners set SO_REUSEPORT, so a successor can start before its predecessor ends.
package dns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"text/template"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"

	// Each of these registers itself. What is not listed is not in the binary.
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/ready"
)

// Config says what to answer and where.
type Config struct {
	// Domain is the cluster's domain; empty is cluster.local.
	Domain string
	// Listen is host:port for UDP and TCP; empty is :53.
	Listen string
	// Health and Ready are host:port of the liveness and readiness pages; empty is :8080 and :8181.
	Health, Ready string
	// Upstream are resolvers for all other names: addresses, or files in the format of resolv.conf. Without one, other
	// names are refused, which is quicker to understand than a timeout.
	Upstream []string
	// Kubeconfig says how to reach the API; empty is as a pod does.
	Kubeconfig string
}

func (c Config) withDefaults() Config {
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&c.Domain, "cluster.local")
	set(&c.Listen, ":53")
	set(&c.Health, ":8080")
	set(&c.Ready, ":8181")
	return c
}

// Validate reports all faults at once.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	for _, address := range []string{c.Listen, c.Health, c.Ready} {
		if _, _, err := net.SplitHostPort(address); err != nil {
			errs = append(errs, fmt.Errorf("address %q: %w", address, err))
		}
	}
	// The values become words of a configuration text, so nothing may end a word or open a block.
	for _, word := range append([]string{c.Domain, c.Listen, c.Health, c.Ready, c.Kubeconfig}, c.Upstream...) {
		if strings.ContainsAny(word, " \t\r\n\"{}#$\\") {
			errs = append(errs, fmt.Errorf("%q holds a blank or a special character", word))
		}
	}
	return errors.Join(errs...)
}

// The addresses of pods and Services are in no registry's reverse zones, so the cluster answers for all of them unless
// there is someone else to ask.
var corefileTemplate = template.Must(template.New("corefile").Parse(`
{{- $reverse := "in-addr.arpa ip6.arpa" -}}
{{- if .Upstream}}.:{{.Port}}{{else}}{{.Domain}}:{{.Port}} in-addr.arpa:{{.Port}} ip6.arpa:{{.Port}}{{end}} {
	{{- if .Host}}
	bind {{.Host}}
	{{- end}}
	errors
	health {{.Health}}
	ready {{.Ready}}
	loadbalance
	cache 30 {
		disable success {{.Domain}}
		disable denial {{.Domain}}
	}
	kubernetes {{.Domain}} {{$reverse}} {
		pods insecure
		ttl 30
		{{- if .Kubeconfig}}
		kubeconfig {{.Kubeconfig}}
		{{- end}}
		{{- if .Upstream}}
		fallthrough {{$reverse}}
		{{- end}}
	}
	{{- if .Upstream}}
	forward .{{range .Upstream}} {{.}}{{end}} {
		max_concurrent 1000
	}
	{{- end}}
}
`))

// corefile renders the configuration. The cluster's own names are not cached: they are answered from memory anyway, and a
// cache would only add staleness.
func (c Config) corefile() ([]byte, error) {
	c = c.withDefaults()
	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = corefileTemplate.Execute(&b, struct {
		Config
		Host, Port string
	}{c, host, port})
	return b.Bytes(), err
}

// Run answers until the context ends. Only one can run in a process, because CoreDNS keeps its state in globals.
func Run(ctx context.Context, c Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	contents, err := c.corefile()
	if err != nil {
		return err
	}
	dnsserver.Quiet = true
	caddy.Quiet = true
	instance, err := caddy.Start(caddy.CaddyfileInput{Filepath: "skep", Contents: contents, ServerTypeName: "dns"})
	if err != nil {
		return fmt.Errorf("start DNS: %w", err)
	}
	<-ctx.Done()
	errs := instance.ShutdownCallbacks()
	return errors.Join(append(errs, instance.Stop())...)
}
