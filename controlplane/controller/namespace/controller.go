// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"

	"skep.dev/skep/controlplane/controller/loop"
	"skep.dev/skep/controlplane/controller/served"
)

const (
	workers = 4
	// lookAgain is the pause while content is still there; finalizers and pods take their time.
	lookAgain = 500 * time.Millisecond
	// pageSize bounds one listing of what is left.
	pageSize = 500
)

// Controller reconciles one namespace at a time.
type Controller struct {
	*loop.Loop
	client     kubernetes.Interface
	metadata   metadata.Interface
	discovery  discovery.DiscoveryInterface
	namespaces corelisters.NamespaceLister
	now        func() time.Time
}

// New makes the controller and registers its watch.
func New(env loop.Env, objects metadata.Interface, resources discovery.DiscoveryInterface) *Controller {
	namespaces := env.Informers.Core().V1().Namespaces()
	c := &Controller{client: env.Client, metadata: objects, discovery: resources, namespaces: namespaces.Lister(), now: env.Now}
	c.Loop = loop.New("namespace", workers, env.Logger, c.reconcile)
	loop.Watch(namespaces.Informer(), loop.Handler(func(_, ns *corev1.Namespace) {
		if ns != nil && ns.DeletionTimestamp != nil {
			c.Add(ns.Name)
		}
	}))
	return c
}

func (c *Controller) reconcile(ctx context.Context, name string) (time.Duration, error) {
	cached, err := c.namespaces.Get(name)
	if apierrors.IsNotFound(err) || err == nil && (cached.DeletionTimestamp == nil || !holds(cached)) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	// Deleting everything in the wrong namespace cannot be undone: ask the server, not the cache.
	ns, err := c.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read namespace %s: %w", name, err)
	}
	if ns.UID != cached.UID || ns.DeletionTimestamp == nil || !holds(ns) {
		return 0, nil
	}
	catalog, err := served.Read(c.discovery)
	if err != nil {
		return 0, err
	}
	left := c.empty(ctx, name, catalog)
	if err := c.report(ctx, ns, left); err != nil {
		return 0, err
	}
	if !left.empty() {
		return lookAgain, nil
	}
	return 0, c.finalize(ctx, name, ns)
}

// holds reports whether the namespace still waits for this controller.
func holds(ns *corev1.Namespace) bool {
	return slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes)
}

// empty deletes the content: first the pods, and the rest when no pod is left. A pod that is still shutting down must not
// lose the network policies that protect it, nor its volumes' data.
func (c *Controller) empty(ctx context.Context, namespace string, catalog *served.Catalog) *leftover {
	left := &leftover{}
	for gv := range catalog.Failed {
		left.undiscovered = append(left.undiscovered, gv.String())
	}
	slices.Sort(left.undiscovered)
	pods := func(r served.Resource) bool { return r.Group == "" && r.Resource == "pods" }
	for _, podsNow := range []bool{true, false} {
		for _, r := range catalog.Preferred {
			if r.Namespaced && r.Can("list", "delete") && pods(r) == podsNow {
				c.emptyOne(ctx, namespace, r, left)
			}
		}
		if len(left.resources)+len(left.errs) > 0 {
			break
		}
	}
	return left
}

// emptyOne deletes all objects of one resource and notes what is still there afterwards.
func (c *Controller) emptyOne(ctx context.Context, namespace string, r served.Resource, left *leftover) {
	client := c.metadata.Resource(r.GroupVersionResource).Namespace(namespace)
	there, err := client.List(ctx, metav1.ListOptions{Limit: pageSize})
	if apierrors.IsNotFound(err) || err == nil && len(there.Items) == 0 {
		return // not served any more, or nothing there
	}
	if err == nil {
		err = c.deleteAll(ctx, client, r, there.Items)
	}
	if err == nil {
		there, err = client.List(ctx, metav1.ListOptions{Limit: pageSize})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		left.errs = append(left.errs, err.Error())
		return
	}
	if err != nil {
		return
	}
	name := r.Resource + "."
	if r.Group != "" {
		name = r.GroupResource().String()
	}
	for i := range there.Items {
		left.count(name, there.Items[i].Finalizers)
	}
	if there.RemainingItemCount != nil {
		left.resources[name] += int(*there.RemainingItemCount)
	}
}

func (c *Controller) deleteAll(ctx context.Context, client metadata.ResourceInterface, r served.Resource, items []metav1.PartialObjectMetadata) error {
	background := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{PropagationPolicy: &background}
	if r.Can("deletecollection") {
		err := client.DeleteCollection(ctx, options, metav1.ListOptions{})
		if err == nil || !apierrors.IsMethodNotSupported(err) && !apierrors.IsNotFound(err) {
			return err
		}
	}
	for i := range items {
		if err := client.Delete(ctx, items[i].Name, options); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// report writes phase and conditions.
func (c *Controller) report(ctx context.Context, ns *corev1.Namespace, left *leftover) error {
	changed := ns.Status.Phase != corev1.NamespaceTerminating
	ns.Status.Phase = corev1.NamespaceTerminating
	if !merge(&ns.Status, left.conditions(), c.now()) && !changed {
		return nil
	}
	fresh, err := c.client.CoreV1().Namespaces().UpdateStatus(ctx, ns, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write the status of namespace %s: %w", ns.Name, err)
	}
	*ns = *fresh
	return nil
}

func (c *Controller) finalize(ctx context.Context, name string, ns *corev1.Namespace) error {
	ns.Spec.Finalizers = slices.DeleteFunc(ns.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	_, err := c.client.CoreV1().Namespaces().Finalize(ctx, ns, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("finalize namespace %s: %w", name, err)
	}
	return nil
}
