// SPDX-License-Identifier: Apache-2.0

package gc

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"

	"skep.dev/skep/controlplane/controller/loop"
	"skep.dev/skep/controlplane/controller/served"
)

const workers = 10

// Controller is the collector.
type Controller struct {
	*loop.Loop
	metadata  metadata.Interface
	discovery discovery.DiscoveryInterface
	watches   *watches

	mu      sync.Mutex // guards graph and catalog; not held during requests
	graph   *graph
	catalog *served.Catalog
}

// New makes the collector. Its watches begin with Run.
func New(env loop.Env, objects metadata.Interface, resources discovery.DiscoveryInterface) *Controller {
	c := &Controller{metadata: objects, discovery: resources, graph: newGraph(), catalog: &served.Catalog{}}
	c.Loop = loop.New("gc", workers, env.Logger, c.reconcile)
	c.watches = newWatches(c)
	return c
}

func (c *Controller) wake(uids []types.UID) {
	for _, uid := range uids {
		c.Add(string(uid))
	}
}

// seen takes over an object's state from a watch.
func (c *Controller) seen(resource schema.GroupVersionResource, m metav1.Object) {
	c.mu.Lock()
	wake := c.graph.set(newObject(resource, m))
	c.mu.Unlock()
	c.wake(wake)
}

// lost forgets an object that a watch has seen deleted.
func (c *Controller) lost(uid types.UID) {
	c.mu.Lock()
	wake := c.graph.drop(uid)
	c.mu.Unlock()
	c.wake(wake)
}

// Run watches and collects until the context ends.
func (c *Controller) Run(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() { c.watches.run(ctx) })
	// Until every watch has shown all there is, a dependent may be unknown, and its owner must not be let go without it.
	if c.watches.waitForFirst(ctx) {
		c.Loop.Run(ctx)
	}
	all.Wait()
}

// reconcile looks at one object.
func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	c.mu.Lock()
	o := c.graph.objects[types.UID(key)]
	c.mu.Unlock()
	if o == nil {
		return 0, nil
	}
	live, err := c.read(ctx, o)
	if live == nil || err != nil {
		return 0, err
	}
	now := newObject(o.resource, live)
	switch {
	case now.orphaning:
		return 0, c.orphan(ctx, now, live)
	case now.foreground:
		return 0, c.foreground(ctx, now, live)
	case now.deleting:
		return 0, nil
	}
	return 0, c.collect(ctx, now, live)
}

// read gets the object from the server; nil if it is gone or is another one by now.
func (c *Controller) read(ctx context.Context, o *object) (*metav1.PartialObjectMetadata, error) {
	live, err := c.client(o).Get(ctx, o.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", o, err)
	}
	if live.UID != o.uid {
		return nil, nil
	}
	return live, nil
}

func (c *Controller) client(o *object) metadata.ResourceInterface {
	return c.metadata.Resource(o.resource).Namespace(o.namespace)
}

// String names the object for errors.
func (o *object) String() string {
	if o.namespace == "" {
		return o.resource.Resource + "/" + o.name
	}
	return o.resource.Resource + " " + o.namespace + "/" + o.name
}

// collect deletes the object if no owner lives.
func (c *Controller) collect(ctx context.Context, o *object, live *metav1.PartialObjectMetadata) error {
	states := map[types.UID]ownerState{}
	for _, ref := range live.OwnerReferences {
		state, err := c.stateOf(ctx, o, ref)
		if err != nil {
			return err
		}
		states[ref.UID] = state
	}
	children := c.children(o.uid)
	blocked := slices.ContainsFunc(children, func(child *object) bool { return child.foreground && child.blocks(o.uid) })
	v := judge(live, func(uid types.UID) ownerState { return states[uid] }, blocked)
	switch v.action {
	case unlink:
		return c.patch(ctx, o, live, map[string]any{"ownerReferences": v.owners})
	case remove:
		if v.unblock {
			if err := c.unblock(ctx, o, children); err != nil {
				return err
			}
		}
		return c.remove(ctx, o, live, v.propagation)
	}
	return nil
}

func (c *Controller) children(uid types.UID) []*object {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.graph.children(uid)
}

// stateOf finds out what became of an owner. The graph is believed when it knows the owner or saw it go; otherwise the
// server is asked, and only its clear "not found" counts as absence.
func (c *Controller) stateOf(ctx context.Context, o *object, ref metav1.OwnerReference) (ownerState, error) {
	c.mu.Lock()
	owner := c.graph.objects[ref.UID]
	gone := c.graph.gone.has(ref.UID)
	resource, known := c.resource(ref)
	c.mu.Unlock()
	switch {
	// An owner in another namespace is no owner: its name means another object, or none, in this one.
	case owner != nil && (owner.namespace == "" || owner.namespace == o.namespace):
		if owner.foreground {
			return waiting, nil
		}
		return lives, nil
	case gone:
		return absent, nil
	case !known:
		return lives, fmt.Errorf("%s: owner %s %s %q: no such resource is served", o, ref.APIVersion, ref.Kind, ref.Name)
	case resource.Namespaced && o.namespace == "":
		return lives, nil // a cluster-wide object cannot have an owner in a namespace; leave it alone
	}
	namespace := ""
	if resource.Namespaced {
		namespace = o.namespace
	}
	live, err := c.metadata.Resource(resource.GroupVersionResource).Namespace(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && live.UID != ref.UID {
		c.mu.Lock()
		c.graph.gone.add(ref.UID)
		c.mu.Unlock()
		return absent, nil
	}
	if err != nil {
		return lives, fmt.Errorf("%s: read its owner %s: %w", o, ref.Name, err)
	}
	if newObject(resource.GroupVersionResource, live).foreground {
		return waiting, nil
	}
	return lives, nil
}

// resource finds what serves an owner's kind. The caller holds mu.
func (c *Controller) resource(ref metav1.OwnerReference) (served.Resource, bool) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return served.Resource{}, false
	}
	r, ok := c.catalog.Kinds[gv.WithKind(ref.Kind)]
	return r, ok
}

// foreground lets an owner go when nothing blocks it, and otherwise sees to it that what blocks it is deleted.
func (c *Controller) foreground(ctx context.Context, o *object, live *metav1.PartialObjectMetadata) error {
	children := c.children(o.uid)
	if released(o.uid, children) {
		return c.unfinalize(ctx, o, live, metav1.FinalizerDeleteDependents)
	}
	for _, child := range children {
		if !child.deleting {
			c.Add(string(child.uid))
		}
	}
	return nil
}

// orphan takes the owner's reference out of all dependents, and then lets the owner go.
func (c *Controller) orphan(ctx context.Context, o *object, live *metav1.PartialObjectMetadata) error {
	for _, child := range c.children(o.uid) {
		fresh, err := c.read(ctx, child)
		if err != nil {
			return err
		}
		if fresh == nil {
			continue
		}
		kept := slices.DeleteFunc(slices.Clone(fresh.OwnerReferences), func(ref metav1.OwnerReference) bool { return ref.UID == o.uid })
		if len(kept) == len(fresh.OwnerReferences) {
			continue
		}
		if err := c.patch(ctx, child, fresh, map[string]any{"ownerReferences": kept}); err != nil {
			return err
		}
	}
	return c.unfinalize(ctx, o, live, metav1.FinalizerOrphanDependents)
}

// unblock clears blockOwnerDeletion in the dependents that point at o.
func (c *Controller) unblock(ctx context.Context, o *object, children []*object) error {
	for _, child := range children {
		fresh, err := c.read(ctx, child)
		if err != nil {
			return err
		}
		if fresh == nil {
			continue
		}
		refs := slices.Clone(fresh.OwnerReferences)
		for i := range refs {
			if refs[i].UID == o.uid {
				no := false
				refs[i].BlockOwnerDeletion = &no
			}
		}
		if err := c.patch(ctx, child, fresh, map[string]any{"ownerReferences": refs}); err != nil {
			return err
		}
	}
	return nil
}

func (c *Controller) unfinalize(ctx context.Context, o *object, live *metav1.PartialObjectMetadata, finalizer string) error {
	kept := slices.DeleteFunc(slices.Clone(live.Finalizers), func(f string) bool { return f == finalizer })
	return c.patch(ctx, o, live, map[string]any{"finalizers": kept})
}

// patch changes metadata of exactly the state that was read.
func (c *Controller) patch(ctx context.Context, o *object, live *metav1.PartialObjectMetadata, metadata map[string]any) error {
	metadata["uid"] = live.UID
	metadata["resourceVersion"] = live.ResourceVersion
	body, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return err
	}
	_, err = c.client(o).Patch(ctx, o.name, types.MergePatchType, body, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("patch %s: %w", o, err)
	}
	return nil
}

// remove deletes exactly the state that was judged: an owner added meanwhile makes it fail and be judged again.
func (c *Controller) remove(ctx context.Context, o *object, live *metav1.PartialObjectMetadata, how metav1.DeletionPropagation) error {
	err := c.client(o).Delete(ctx, o.name, metav1.DeleteOptions{
		PropagationPolicy: &how,
		Preconditions:     &metav1.Preconditions{UID: &live.UID, ResourceVersion: &live.ResourceVersion},
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s: %w", o, err)
	}
	c.Log().Debug("deleted", "object", o.String(), "propagation", how)
	return nil
}
