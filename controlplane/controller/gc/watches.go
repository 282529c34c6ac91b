// SPDX-License-Identifier: Apache-2.0

package gc

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"

	"skep.dev/skep/controlplane/controller/served"
)

const (
	// rediscover is how often the list of resources is read again, so that new kinds take part soon.
	rediscover = 5 * time.Second
	// firstSync bounds the wait for a watch at the start: a resource that cannot be listed must not stop the collector.
	firstSync = 30 * time.Second
)

// watches follow the metadata of everything that can be deleted.
type watches struct {
	controller *Controller
	running    map[schema.GroupVersionResource]*watch // used by run only
	first      chan struct{}                          // closed when the first round has synced
}

type watch struct {
	stop   context.CancelFunc
	done   chan struct{}
	synced func() bool
}

func newWatches(c *Controller) *watches {
	return &watches{controller: c, running: map[schema.GroupVersionResource]*watch{}, first: make(chan struct{})}
}

// run keeps the set of watches as the set of resources until the context ends.
func (w *watches) run(ctx context.Context) {
	ticker := time.NewTicker(rediscover)
	defer ticker.Stop()
	announced := false
	for {
		if w.follow(ctx) && !announced {
			w.sync(ctx)
			close(w.first)
			announced = true
		}
		select {
		case <-ctx.Done():
			for resource := range w.running {
				w.end(resource)
			}
			return
		case <-ticker.C:
		}
	}
}

// waitForFirst waits until all that is there has been seen once. It is false when the context ended first.
func (w *watches) waitForFirst(ctx context.Context) bool {
	select {
	case <-w.first:
		return true
	case <-ctx.Done():
		return false
	}
}

func (w *watches) sync(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, firstSync)
	defer cancel()
	var waits []cache.InformerSynced
	for _, one := range w.running {
		waits = append(waits, one.synced)
	}
	if !cache.WaitForCacheSync(ctx.Done(), waits...) {
		w.controller.Log().Warn("some resources could not be listed in time; collecting without them")
	}
}

// follow reads what is served, starts and ends watches. It is false if nothing could be read.
func (w *watches) follow(ctx context.Context) bool {
	c := w.controller
	catalog, err := served.Read(c.discovery)
	if err != nil {
		if ctx.Err() == nil {
			c.Log().Warn("read the list of resources, trying again", "err", err)
		}
		return false
	}
	c.mu.Lock()
	c.catalog = catalog
	c.mu.Unlock()
	wanted := map[schema.GroupVersionResource]bool{}
	for _, r := range catalog.Preferred {
		if collectable(r) {
			wanted[r.GroupVersionResource] = true
		}
	}
	for resource := range w.running {
		_, failed := catalog.Failed[resource.GroupVersion()]
		if !wanted[resource] && !failed {
			w.end(resource)
			w.forget(resource)
		}
	}
	for resource := range wanted {
		if w.running[resource] == nil {
			if err := w.begin(ctx, resource); err != nil {
				c.Log().Error("watch", "resource", resource.String(), "err", err)
			}
		}
	}
	return true
}

// collectable leaves out Events: they are many, own nothing and end by themselves.
func collectable(r served.Resource) bool {
	return r.Can("list", "watch", "delete", "get") && r.Resource != "events"
}

func (w *watches) begin(ctx context.Context, resource schema.GroupVersionResource) error {
	c := w.controller
	informer := metadatainformer.NewFilteredMetadataInformer(c.metadata, resource, metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer()
	if err := informer.SetTransform(strip); err != nil {
		return fmt.Errorf("set transform: %w", err)
	}
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { w.changed(resource, obj) },
		UpdateFunc: func(_, obj any) { w.changed(resource, obj) },
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if m, ok := obj.(metav1.Object); ok {
				c.lost(m.GetUID())
			}
		},
	})
	if err != nil {
		return fmt.Errorf("add handler: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	one := &watch{stop: stop, done: make(chan struct{}), synced: registration.HasSynced}
	w.running[resource] = one
	go func() {
		defer close(one.done)
		informer.RunWithContext(ctx)
	}()
	return nil
}

func (w *watches) changed(resource schema.GroupVersionResource, obj any) {
	if m, ok := obj.(metav1.Object); ok {
		w.controller.seen(resource, m)
	}
}

// strip keeps only what the graph needs.
func strip(obj any) (any, error) {
	if m, ok := obj.(*metav1.PartialObjectMetadata); ok {
		m.Labels, m.Annotations, m.ManagedFields = nil, nil, nil
	}
	return obj, nil
}

// end stops a watch and waits for it.
func (w *watches) end(resource schema.GroupVersionResource) {
	one := w.running[resource]
	delete(w.running, resource)
	one.stop()
	<-one.done
}

// forget takes the objects of a resource that is served no more out of the graph. They are not taken for deleted: a
// resource may vanish for a moment while its definition changes.
func (w *watches) forget(resource schema.GroupVersionResource) {
	c := w.controller
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, uid := range c.graph.ofResource(resource) {
		c.graph.forget(uid)
	}
}
