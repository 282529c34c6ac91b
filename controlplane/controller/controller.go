// SPDX-License-Identifier: Apache-2.0

// Package controller runs all control loops of the cluster in one process.
package controller

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/record"

	"skep.dev/skep/controlplane/controller/clusterdns"
	"skep.dev/skep/controlplane/controller/deployment"
	"skep.dev/skep/controlplane/controller/disruption"
	"skep.dev/skep/controlplane/controller/endpoints"
	"skep.dev/skep/controlplane/controller/endpointslice"
	"skep.dev/skep/controlplane/controller/gc"
	"skep.dev/skep/controlplane/controller/loop"
	"skep.dev/skep/controlplane/controller/namespace"
	"skep.dev/skep/controlplane/controller/nodeipam"
	"skep.dev/skep/controlplane/controller/nodelifecycle"
	"skep.dev/skep/controlplane/controller/podgc"
	"skep.dev/skep/controlplane/controller/policystatus"
	"skep.dev/skep/controlplane/controller/replicaset"
	"skep.dev/skep/controlplane/controller/rootca"
	"skep.dev/skep/controlplane/controller/serviceaccount"
	"skep.dev/skep/controlplane/controller/taintevict"
)

// Config is what the controllers need. The clients must not limit their own rate: the server's priority levels do that.
type Config struct {
	Client    kubernetes.Interface
	Metadata  metadata.Interface
	Discovery discovery.DiscoveryInterface
	// Informers are started by Run; their owner shuts the factory down after Run has returned.
	Informers informers.SharedInformerFactory
	Logger    *slog.Logger
	// RootCA is the PEM bundle by which pods know the API server.
	RootCA []byte
	// ClusterCIDRs are split among the nodes: at most one of each family. NodeMaskIPv4 and NodeMaskIPv6 are the sizes of
	// a node's share; zero means 24 and 64.
	ClusterCIDRs               []netip.Prefix
	NodeMaskIPv4, NodeMaskIPv6 int
	// ClusterDomain is the zone that the DNS pods answer for.
	ClusterDomain string
	// UpstreamDNS are the resolvers that they ask for all other names.
	UpstreamDNS []string

	// Dynamic, Mapper and DNSAddrs (of the kube-dns Service) belong to what a server offers its controllers; no loop
	// needs them today.
	Dynamic  dynamic.Interface
	Mapper   meta.RESTMapper
	DNSAddrs []netip.Addr
}

// Validate reports all faults at once.
func (c *Config) Validate() error {
	var errs []error
	need := func(ok bool, what string) {
		if !ok {
			errs = append(errs, errors.New("controllers: "+what))
		}
	}
	need(c.Client != nil, "no client")
	need(c.Metadata != nil, "no metadata client")
	need(c.Discovery != nil, "no discovery client")
	need(c.Informers != nil, "no informers")
	need(c.Logger != nil, "no logger")
	need(c.ClusterDomain != "", "no cluster domain")
	return errors.Join(errs...)
}

// Run starts every loop, and returns when the context has ended and all have stopped.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: cfg.Client.CoreV1().Events("")})
	env := loop.Env{
		Client:    cfg.Client,
		Informers: cfg.Informers,
		Logger:    cfg.Logger,
		Now:       time.Now,
		Events: func(component string) record.EventRecorder {
			return broadcaster.NewRecorder(clientscheme.Scheme, corev1.EventSource{Component: component})
		},
	}
	loops, err := assemble(env, cfg)
	if err != nil {
		return err
	}
	cfg.Informers.Start(ctx.Done())
	for kind, ok := range cfg.Informers.WaitForCacheSync(ctx.Done()) {
		if !ok && ctx.Err() == nil {
			cfg.Logger.Warn("watch did not start", "component", "controller", "kind", kind.String())
		}
	}
	if ctx.Err() != nil {
		return nil // told to stop before the start was complete
	}
	var running sync.WaitGroup
	for _, l := range loops {
		running.Go(func() { l.Run(ctx) })
	}
	cfg.Logger.Info("controllers run", "component", "controller", "loops", len(loops))
	running.Wait()
	return nil
}

// assemble makes all loops; their watches must be registered before the informers start.
func assemble(env loop.Env, cfg Config) ([]loop.Controller, error) {
	nodeRanges, err := nodeipam.New(env, ranges(cfg))
	if err != nil {
		return nil, err
	}
	return []loop.Controller{
		replicaset.New(env),
		deployment.New(env),
		endpointslice.New(env),
		endpoints.New(env),
		namespace.New(env, cfg.Metadata, cfg.Discovery),
		serviceaccount.New(env),
		rootca.New(env, cfg.RootCA),
		nodeRanges,
		gc.New(env, cfg.Metadata, cfg.Discovery),
		clusterdns.New(env, cfg.ClusterDomain, cfg.UpstreamDNS),
		nodelifecycle.New(env),
		taintevict.New(env),
		podgc.New(env),
		disruption.New(env),
		policystatus.New(env),
	}, nil
}

// Sizes of a node's share of the pod addresses where the configuration gives none.
const (
	defaultMaskIPv4 = 24
	defaultMaskIPv6 = 64
)

func ranges(cfg Config) []nodeipam.Range {
	var out []nodeipam.Range
	for _, cidr := range cfg.ClusterCIDRs {
		bits := cmp.Or(cfg.NodeMaskIPv4, defaultMaskIPv4)
		if cidr.Addr().Is6() {
			bits = cmp.Or(cfg.NodeMaskIPv6, defaultMaskIPv6)
		}
		out = append(out, nodeipam.Range{CIDR: cidr, Bits: bits})
	}
	return out
}
