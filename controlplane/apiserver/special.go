// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"
	"net/netip"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"

	"skep.dev/skep/controlplane/kinds"
)

// special is what one kind has and no other: it may change the store's hooks and add subresources. Everything
// else about a kind is data in its kinds.Kind.
type special func(*registrar, *resource) error

// specials is the only place where generic code meets kinds by name.
var specials = map[schema.GroupResource]special{
	coreEvents:      expire,
	newEvents:       expire,
	services:        serveServices,
	serviceAccounts: serveTokens,
	namespaces:      serveNamespaces,
	pods:            servePods,
	nodes:           serveNodes,
}

// registrar holds the storage of every resource that the built-in server serves.
type registrar struct {
	types *types
	// resources holds the main resource of each kind.
	resources map[schema.GroupResource]*resource
	// storage maps group-version and path below it ("pods", "pods/status") to what serves it.
	storage map[schema.GroupVersion]map[string]rest.Storage

	serviceCIDRs []netip.Prefix
	// server gives special kinds the issuer of tokens and the way to nodes.
	server *Server
	// toNodes is made when the first kind needs it.
	toNodes *nodeClient
}

// nodeClient is the one way to node agents, so that connections are shared.
func (r *registrar) nodeClient() (*nodeClient, error) {
	var err error
	if r.toNodes == nil {
		r.toNodes, err = newNodeClient(boundObjects{r.server}, r.server.config.Authority)
	}
	return r.toNodes, err
}

// serve makes the stores of all kinds, then lets the special ones change or add to theirs.
func (r *registrar) serve(list []kinds.Kind, options generic.RESTOptionsGetter) error {
	t := r.types
	for _, k := range list {
		res, err := newResource(t, k, options)
		if err != nil {
			return err
		}
		gr := groupResource(k)
		r.resources[gr] = res
		r.add(res, "", res)
		// Before the subresources, which share the store with its hooks.
		if apply, ok := specials[gr]; ok {
			if err := apply(r, res); err != nil {
				return fmt.Errorf("set up %s: %w", gr, err)
			}
		}
		if k.HasStatus {
			r.add(res, "status", newStatusResource(t, res))
		}
		if k.Scale != nil {
			r.add(res, "scale", &scaleResource{main: res, scale: k.Scale})
		}
	}
	return nil
}

// add serves storage as a subresource of res, or as res itself when subresource is empty.
func (r *registrar) add(res *resource, subresource string, storage rest.Storage) {
	path := res.kind.Resource
	if subresource != "" {
		path += "/" + subresource
	}
	r.addVirtual(res.kind.GroupVersionKind.GroupVersion(), path, storage)
}

// addVirtual serves storage that belongs to no stored kind.
func (r *registrar) addVirtual(gv schema.GroupVersion, path string, storage rest.Storage) {
	if r.storage[gv] == nil {
		r.storage[gv] = map[string]rest.Storage{}
	}
	r.storage[gv][path] = storage
}
