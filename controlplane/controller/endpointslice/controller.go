// SPDX-License-Identifier: Apache-2.0

// Package endpointslice publishes the pods of each Service with a selector as EndpointSlices. The decision is that of the
// published k8s.io/endpointslice; here are its watches.
package endpointslice

import (
	"context"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/endpointslice"
	"k8s.io/endpointslice/topologycache"
	sliceutil "k8s.io/endpointslice/util"
	"k8s.io/klog/v2"

	"skep.dev/skep/controlplane/controller/loop"
	"skep.dev/skep/controlplane/controller/podstate"
)

const (
	workers = 5
	// ManagedBy is the value of the label endpointslice.kubernetes.io/managed-by on our slices.
	ManagedBy = "endpointslice-controller.k8s.io"
	// perSlice is upstream's default size of a slice.
	perSlice = 100
)

// Controller reconciles one Service at a time.
type Controller struct {
	*loop.Loop
	services   corelisters.ServiceLister
	pods       corelisters.PodLister
	nodes      corelisters.NodeLister
	slices     discoverylisters.EndpointSliceLister
	reconciler *endpointslice.Reconciler
	tracker    *sliceutil.EndpointSliceTracker
	triggers   *sliceutil.TriggerTimeTracker
	topology   *topologycache.TopologyCache
}

// New makes the controller and registers its watches.
func New(env loop.Env) *Controller {
	core, slices := env.Informers.Core().V1(), env.Informers.Discovery().V1().EndpointSlices()
	c := &Controller{
		services: core.Services().Lister(),
		pods:     core.Pods().Lister(),
		nodes:    core.Nodes().Lister(),
		slices:   slices.Lister(),
		tracker:  sliceutil.NewEndpointSliceTracker(),
		triggers: sliceutil.NewTriggerTimeTracker(),
		topology: topologycache.NewTopologyCache(),
	}
	c.reconciler = endpointslice.NewReconciler(env.Client, c.nodes, perSlice, c.tracker, c.topology,
		env.Events("endpoint-slice-controller"), ManagedBy, endpointslice.WithPreferSameTrafficDistributionEnabled(true))
	c.Loop = loop.New("endpointslice", workers, env.Logger, c.reconcile)
	loop.Watch(core.Services().Informer(), loop.Changes(func(s *corev1.Service) { c.AddObject(s) }))
	loop.Watch(core.Pods().Informer(), loop.Handler(c.podChanged))
	loop.Watch(core.Nodes().Informer(), loop.Handler(c.nodeChanged))
	loop.Watch(slices.Informer(), loop.Handler(c.sliceChanged))
	return c
}

// podChanged wakes the Services that select the pod, or did.
func (c *Controller) podChanged(old, pod *corev1.Pod) {
	for _, key := range Affected(c.services, old, pod) {
		c.Add(key)
	}
}

// Affected lists the keys of the Services whose endpoints a pod's change may alter. old is nil for a new pod, pod for a
// deleted one.
func Affected(services corelisters.ServiceLister, old, pod *corev1.Pod) []string {
	var change *sliceutil.PodProjectionKey
	switch {
	case old == nil:
		change = sliceutil.GetPodUpdateProjectionKey(nil, pod)
	case pod == nil:
		change = sliceutil.GetPodUpdateProjectionKey(nil, old)
	case podstate.Terminal(old) != podstate.Terminal(pod) || old.Spec.NodeName != pod.Spec.NodeName:
		change = sliceutil.GetPodUpdateProjectionKey(nil, pod)
	default:
		change = sliceutil.GetPodUpdateProjectionKey(old, pod)
	}
	keys, err := sliceutil.GetServicesToUpdate(services, change)
	if err != nil {
		return nil // a cache does not fail to list
	}
	return keys.UnsortedList()
}

// sliceChanged undoes what others do to our slices. What we wrote ourselves is recognised by its generation.
func (c *Controller) sliceChanged(old, slice *discoveryv1.EndpointSlice) {
	switch {
	case slice == nil:
		if c.reconciler.ManagedByController(old) && c.tracker.Has(old) && !c.tracker.HandleDeletion(old) {
			c.addService(old)
		}
	case old != nil && c.reconciler.ManagedByChanged(old, slice):
		c.addService(old)
		c.addService(slice)
	case c.reconciler.ManagedByController(slice) && c.tracker.ShouldSync(slice):
		c.addService(slice)
	}
}

func (c *Controller) addService(slice *discoveryv1.EndpointSlice) {
	if key, err := endpointslice.ServiceControllerKey(slice); err == nil {
		c.Add(key)
	}
}

// nodeChanged keeps the zones, and wakes everything when a node comes: its pods were left out while it was unknown.
func (c *Controller) nodeChanged(old, node *corev1.Node) {
	if old != nil && node != nil && sameTopology(old, node) {
		return // a heartbeat
	}
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return // a cache does not fail to list
	}
	c.topology.SetNodes(klog.Background(), nodes)
	moved := old != nil && node != nil && old.Labels[corev1.LabelTopologyZone] != node.Labels[corev1.LabelTopologyZone]
	if old != nil && node != nil && !moved {
		for _, key := range c.topology.GetOverloadedServices() {
			c.Add(key)
		}
		return
	}
	services, err := c.services.List(labels.Everything())
	if err != nil {
		return
	}
	for _, s := range services {
		c.AddObject(s)
	}
}

// sameTopology says that two versions of a node are the same to the topology cache, which goes through all nodes for each change.
func sameTopology(a, b *corev1.Node) bool {
	return maps.Equal(a.Labels, b.Labels) && a.Status.Allocatable.Cpu().Equal(*b.Status.Allocatable.Cpu()) && readiness(a) == readiness(b)
}

func readiness(n *corev1.Node) corev1.ConditionStatus {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return corev1.ConditionUnknown
}

func (c *Controller) reconcile(_ context.Context, key string) (time.Duration, error) {
	namespace, name, err := loop.Split(key)
	if err != nil {
		return 0, err
	}
	service, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.triggers.DeleteService(namespace, name)
		c.reconciler.DeleteService(namespace, name)
		c.tracker.DeleteService(namespace, name)
		return 0, nil // the collector deletes the slices
	}
	if err != nil {
		return 0, err
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName || service.Spec.Selector == nil {
		return 0, nil
	}
	pods, err := c.pods.Pods(namespace).List(labels.Set(service.Spec.Selector).AsSelectorPreValidated())
	if err != nil {
		return 0, err
	}
	ours := labels.Set{discoveryv1.LabelServiceName: name, discoveryv1.LabelManagedBy: ManagedBy}.AsSelectorPreValidated()
	slices, err := c.slices.EndpointSlices(namespace).List(ours)
	if err != nil {
		return 0, err
	}
	live := slices[:0:0]
	for _, s := range slices {
		if s.DeletionTimestamp == nil {
			live = append(live, s)
		}
	}
	if c.tracker.StaleSlices(service, live) {
		return 0, fmt.Errorf("endpoint slices of %s: %w", key, loop.ErrStale)
	}
	trigger := c.triggers.ComputeEndpointLastChangeTriggerTime(namespace, service, pods)
	if err := c.reconciler.Reconcile(klog.Background(), service, pods, live, trigger); err != nil {
		return 0, fmt.Errorf("endpoint slices of %s: %w", key, err)
	}
	return 0, nil
}
