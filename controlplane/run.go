// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"skep.dev/skep/controlplane/apiserver"
	"skep.dev/skep/controlplane/cert"
	"skep.dev/skep/controlplane/etcd"
	"skep.dev/skep/controlplane/kinds/catalog"
)

// Run starts the store, the API server, the controllers and the scheduler, and blocks until ctx ends or one of
// them fails. It stops them in reverse order and leaves nothing behind.
func Run(ctx context.Context, config Config) error {
	if err := config.Validate(); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	config = config.withDefaults()
	logLibraries(config.Logger)
	// The port first: it is the usual mistake, and nothing is to be undone yet.
	listener, err := listen(config.BindAddress, config.SecurePort)
	if err != nil {
		return err
	}
	return run(ctx, config, listener)
}

func run(ctx context.Context, config Config, listener net.Listener) error {
	// The API server closes it when it gets that far; a second close only reports that.
	defer func() { _ = listener.Close() }()
	authority, serving, err := credentials(config)
	if err != nil {
		return err
	}
	endpoints, member, err := store(ctx, config)
	if err != nil {
		return err
	}
	if member != nil {
		defer member.Close()
	}
	server, err := apiserver.New(apiserver.Config{
		Kinds:            catalog.Kinds(),
		EtcdEndpoints:    endpoints,
		Listener:         listener,
		AdvertiseAddress: config.AdvertiseAddress,
		ServiceCIDRs:     config.ServiceCIDRs,
		ClusterDomain:    config.ClusterDomain,
		Authority:        authority,
		Serving:          serving,
		Logger:           config.Logger.With("component", "apiserver"),
	})
	if err != nil {
		return err
	}
	return serve(ctx, config, member, server)
}

// serve runs the server, and its in-process clients once it is ready. What started last stops first.
func serve(ctx context.Context, config Config, member *etcd.Member, server *apiserver.Server) error {
	started := time.Now()
	serverCtx, stopServer := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServer()
	servers, serverCtx := errgroup.WithContext(serverCtx)
	if member != nil {
		servers.Go(func() error { return member.Wait(serverCtx) })
	}
	servers.Go(func() error { return server.Run(serverCtx) })

	clients, clientCtx := errgroup.WithContext(ctx)
	// A server that fails takes its clients along.
	clientCtx, stopClients := context.WithCancel(clientCtx)
	defer stopClients()
	defer context.AfterFunc(serverCtx, stopClients)()
	clients.Go(func() error {
		if err := server.WaitReady(clientCtx); err != nil {
			return ignoreCanceled(clientCtx, err)
		}
		config.Logger.Info("API server is ready", "took", time.Since(started))
		return runClients(clientCtx, config, server)
	})
	err := clients.Wait()
	stopServer()
	return errors.Join(err, servers.Wait())
}

func ignoreCanceled(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// credentials opens the CA and issues the server's own certificates and the administrator's kubeconfig.
func credentials(config Config) (*cert.Authority, cert.Pair, error) {
	if err := os.MkdirAll(config.DataDir, 0o700); err != nil {
		return nil, cert.Pair{}, fmt.Errorf("the data directory %s cannot be used, choose another one: %w", config.DataDir, err)
	}
	authority, err := cert.Open(filepath.Join(config.DataDir, "pki"))
	if err != nil {
		return nil, cert.Pair{}, err
	}
	names, addrs, err := servingNames(config)
	if err != nil {
		return nil, cert.Pair{}, err
	}
	serving, err := authority.Serving(names, addrs)
	if err != nil {
		return nil, cert.Pair{}, err
	}
	admin, err := authority.Admin()
	if err != nil {
		return nil, cert.Pair{}, err
	}
	return authority, serving, authority.WriteKubeconfig(config.KubeconfigOut, "skep", "admin", config.KubeconfigServer, admin)
}

// store returns the URLs of the store, and the member when it runs in this process.
func store(ctx context.Context, config Config) ([]string, *etcd.Member, error) {
	if len(config.EtcdEndpoints) > 0 {
		return config.EtcdEndpoints, nil, nil
	}
	dir := filepath.Join(config.DataDir, "etcd")
	member, err := etcd.Start(ctx, etcd.Config{
		Dir: dir, UnsafeNoFsync: config.EtcdUnsafeNoFsync, Logger: config.Logger.With("component", "etcd"),
	})
	if err != nil {
		return nil, nil, fmt.Errorf("start the store in %s: %w", dir, err)
	}
	return []string{member.Endpoint()}, member, nil
}
