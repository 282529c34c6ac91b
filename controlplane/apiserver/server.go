// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/kube-aggregator/pkg/apiserver"

	"skep.dev/skep/controlplane/cert"
	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/rbac"
	"skep.dev/skep/controlplane/token"
)

// Config is everything the API server needs. All fields must be set unless they say otherwise.
type Config struct {
	Kinds []kinds.Kind
	// EtcdEndpoints are URLs of the store.
	EtcdEndpoints []string
	// Listener accepts the TLS connections; the server closes it.
	Listener net.Listener
	// AdvertiseAddress is where nodes and pods reach this server; it becomes the endpoint of the kubernetes Service.
	AdvertiseAddress netip.Addr
	// ServiceCIDRs are the ranges of Service addresses, at most one per family; the first is the default family.
	ServiceCIDRs []netip.Prefix
	// ClusterDomain is the DNS domain of the cluster.
	ClusterDomain string
	Authority     *cert.Authority
	// Serving is the server's certificate.
	Serving cert.Pair
	Logger  *slog.Logger
}

// Server is an assembled API server.
type Server struct {
	config    Config
	transport *inProcess
	loopback  *rest.Config
	informers informers.SharedInformerFactory
	client    kubernetes.Interface
	chain     *aggregator
	registrar *registrar
	issuer    *token.Issuer
	// rbac is nil when the kinds of rbac.authorization.k8s.io are not served.
	rbac *rbac.Authorizer
}

// aggregator is the head of the chain, ready to run.
type aggregator struct {
	*apiserver.APIAggregator
	run func(context.Context) error
}

// New assembles a server. It connects to the store but serves nothing before Run.
func New(config Config) (*Server, error) {
	s := &Server{config: config, transport: newInProcess()}
	s.loopback = loopbackConfig(s.transport)
	client, err := kubernetes.NewForConfig(s.Loopback())
	if err != nil {
		return nil, fmt.Errorf("make the loopback client: %w", err)
	}
	s.client = client
	s.informers = informers.NewSharedInformerFactory(client, resyncPeriod)
	if s.serves("rbac.authorization.k8s.io", "roles", "rolebindings", "clusterroles", "clusterrolebindings") {
		s.rbac = rbac.New(rbac.FromInformers(s.informers))
	}
	if err := s.assemble(); err != nil {
		return nil, err
	}
	return s, nil
}

// resyncPeriod is zero: informers of the server itself need no reminder of what they know.
const resyncPeriod = 0

// Run serves until ctx ends and requests in flight are answered.
func (s *Server) Run(ctx context.Context) error {
	if err := s.chain.run(ctx); err != nil {
		return fmt.Errorf("serve the API: %w", err)
	}
	return nil
}

// readyPoll is how often WaitReady asks.
const readyPoll = 10 * time.Millisecond

// WaitReady returns when /readyz says ok.
func (s *Server) WaitReady(ctx context.Context) error {
	ticker := time.NewTicker(readyPoll)
	defer ticker.Stop()
	var last error
	for {
		_, last = s.client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		if last == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("the API server did not become ready: %w", errors.Join(ctx.Err(), last))
		}
	}
}

// Informers are the server's own shared informers, fed by the in-process transport.
func (s *Server) Informers() informers.SharedInformerFactory { return s.informers }

// Client is a typed client on the in-process transport, as system:masters.
func (s *Server) Client() kubernetes.Interface { return s.client }

// CA is the PEM bundle by which clients know the server.
func (s *Server) CA() []byte { return s.config.Authority.CA() }

// port is where the server listens; it may have been chosen by the kernel.
func (s *Server) port() (int32, error) {
	_, text, err := net.SplitHostPort(s.config.Listener.Addr().String())
	if err != nil {
		return 0, fmt.Errorf("read the port of %s: %w", s.config.Listener.Addr(), err)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	return int32(port), err
}
