// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"

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
	coreEvents: expire,
	newEvents:  expire,
}

// registrar holds the storage of every resource that the built-in server serves.
type registrar struct {
	types *types
	// resources holds the main resource of each kind.
	resources map[schema.GroupResource]*resource
	// storage maps group-version and path below it ("pods", "pods/status") to what serves it.
	storage map[schema.GroupVersion]map[string]rest.Storage
}

// newRegistrar makes the stores of all kinds, then lets the special ones change or add to theirs.
func newRegistrar(t *types, list []kinds.Kind, options generic.RESTOptionsGetter) (*registrar, error) {
	r := &registrar{
		types:     t,
		resources: map[schema.GroupResource]*resource{},
		storage:   map[schema.GroupVersion]map[string]rest.Storage{},
	}
	for _, k := range list {
		res, err := newResource(t, k, options)
		if err != nil {
			return nil, err
		}
		r.resources[groupResource(k)] = res
		r.add(res, "", res)
		if k.HasStatus {
			r.add(res, "status", newStatusResource(t, res))
		}
		if k.Scale != nil {
			r.add(res, "scale", &scaleResource{resource: res, scale: k.Scale})
		}
	}
	for gr, apply := range specials {
		res, ok := r.resources[gr]
		if !ok {
			continue
		}
		if err := apply(r, res); err != nil {
			return nil, fmt.Errorf("set up %s: %w", gr, err)
		}
	}
	return r, nil
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
