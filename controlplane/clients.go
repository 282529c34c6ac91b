// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"context"
	"fmt"
	"net/netip"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/restmapper"

	"skep.dev/skep/controlplane/apiserver"
	"skep.dev/skep/controlplane/controller"
	"skep.dev/skep/controlplane/ipam"
	"skep.dev/skep/controlplane/scheduler"
)

// runClients runs the controllers and the scheduler on the in-process transport.
func runClients(ctx context.Context, config Config, server *apiserver.Server) error {
	client, err := kubernetes.NewForConfig(server.Loopback())
	if err != nil {
		return fmt.Errorf("make the controllers' client: %w", err)
	}
	// Nobody here reads managed fields, and they are about half of a small object.
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(dropManagedFields))
	defer factory.Shutdown()
	controllers, err := controllerConfig(config, server, client, factory)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := controller.Run(ctx, controllers); err != nil {
			return fmt.Errorf("run the controllers: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		err := scheduler.Run(ctx, scheduler.Config{Client: client, Informers: factory, Logger: config.Logger})
		if err != nil {
			return fmt.Errorf("run the scheduler: %w", err)
		}
		return nil
	})
	return group.Wait()
}

func controllerConfig(config Config, server *apiserver.Server, client kubernetes.Interface, factory informers.SharedInformerFactory) (controller.Config, error) {
	dyn, err := dynamic.NewForConfig(server.Loopback())
	if err != nil {
		return controller.Config{}, fmt.Errorf("make the dynamic client: %w", err)
	}
	meta, err := metadata.NewForConfig(server.Loopback())
	if err != nil {
		return controller.Config{}, fmt.Errorf("make the metadata client: %w", err)
	}
	dns, err := dnsAddresses(config.ServiceCIDRs)
	if err != nil {
		return controller.Config{}, err
	}
	return controller.Config{
		Client:        client,
		Dynamic:       dyn,
		Metadata:      meta,
		Discovery:     client.Discovery(),
		Mapper:        restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery())),
		Informers:     factory,
		Logger:        config.Logger,
		RootCA:        server.CA(),
		ClusterCIDRs:  config.ClusterCIDRs,
		NodeMaskIPv4:  config.NodeMaskIPv4,
		NodeMaskIPv6:  config.NodeMaskIPv6,
		DNSAddrs:      dns,
		ClusterDomain: config.ClusterDomain,
		UpstreamDNS:   config.UpstreamDNS,
	}, nil
}

// dnsAddresses are the fixed addresses of the kube-dns Service.
func dnsAddresses(cidrs []netip.Prefix) ([]netip.Addr, error) {
	var addrs []netip.Addr
	for _, p := range cidrs {
		addr, err := ipam.Nth(p, ipam.DNSOffset)
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

func dropManagedFields(obj any) (any, error) {
	if o, err := meta.Accessor(obj); err == nil {
		o.SetManagedFields(nil)
	}
	return obj, nil
}
