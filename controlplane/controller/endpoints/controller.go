// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 the deprecated kind is what this package is for: clients still read it

package endpoints

import (
	"context"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"skep.dev/skep/controlplane/controller/endpointslice"
	"skep.dev/skep/controlplane/controller/loop"
)

const (
	workers       = 5
	managedLabel  = "endpoints.kubernetes.io/managed-by"
	managedValue  = "endpoint-controller"
	truncatedMark = "truncated"
)

// Controller reconciles one Service at a time.
type Controller struct {
	*loop.Loop
	client    kubernetes.Interface
	services  corelisters.ServiceLister
	pods      corelisters.PodLister
	endpoints corelisters.EndpointsLister
}

// New makes the controller and registers its watches.
func New(env loop.Env) *Controller {
	core := env.Informers.Core().V1()
	c := &Controller{
		client:    env.Client,
		services:  core.Services().Lister(),
		pods:      core.Pods().Lister(),
		endpoints: core.Endpoints().Lister(),
	}
	c.Loop = loop.New("endpoints", workers, env.Logger, c.reconcile)
	loop.Watch(core.Services().Informer(), loop.Changes(func(s *corev1.Service) { c.AddObject(s) }))
	loop.Watch(core.Pods().Informer(), loop.Handler(func(old, pod *corev1.Pod) {
		for _, key := range endpointslice.Affected(c.services, old, pod) {
			c.Add(key)
		}
	}))
	loop.Watch(core.Endpoints().Informer(), loop.Changes(func(e *corev1.Endpoints) { c.AddObject(e) }))
	return c
}

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	namespace, name, err := loop.Split(key)
	if err != nil {
		return 0, err
	}
	there, err := c.endpoints.Endpoints(namespace).Get(name)
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, err
	}
	service, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return 0, c.remove(ctx, there)
	}
	if err != nil {
		return 0, err
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName || service.Spec.Selector == nil || service.DeletionTimestamp != nil {
		return 0, nil
	}
	pods, err := c.pods.Pods(namespace).List(labels.Set(service.Spec.Selector).AsSelectorPreValidated())
	if err != nil {
		return 0, err
	}
	return 0, c.write(ctx, there, wanted(service, there, pods))
}

// wanted is the object as it should be; others' labels and annotations are kept.
func wanted(service *corev1.Service, there *corev1.Endpoints, pods []*corev1.Pod) *corev1.Endpoints {
	e := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: service.Namespace, Name: service.Name}}
	if there != nil {
		e = there.DeepCopy()
	}
	var truncated bool
	e.Subsets, truncated = subsets(service, pods)
	e.Labels = maps.Clone(service.Labels)
	if e.Labels == nil {
		e.Labels = map[string]string{}
	}
	e.Labels[managedLabel] = managedValue
	if service.Spec.ClusterIP == corev1.ClusterIPNone {
		e.Labels[corev1.IsHeadlessService] = ""
	}
	if truncated {
		if e.Annotations == nil {
			e.Annotations = map[string]string{}
		}
		e.Annotations[corev1.EndpointsOverCapacity] = truncatedMark
	} else {
		delete(e.Annotations, corev1.EndpointsOverCapacity)
	}
	return e
}

func (c *Controller) write(ctx context.Context, there, e *corev1.Endpoints) error {
	var err error
	if there == nil {
		_, err = c.client.CoreV1().Endpoints(e.Namespace).Create(ctx, e, metav1.CreateOptions{})
	} else if !apiequality.Semantic.DeepEqual(there, e) {
		_, err = c.client.CoreV1().Endpoints(e.Namespace).Update(ctx, e, metav1.UpdateOptions{})
	}
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write endpoints %s/%s: %w", e.Namespace, e.Name, err)
	}
	return nil
}

// remove deletes the object of a Service that is gone, unless somebody else made it.
func (c *Controller) remove(ctx context.Context, there *corev1.Endpoints) error {
	if there == nil || there.Labels[managedLabel] != managedValue {
		return nil
	}
	options := metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(there.UID))}
	err := c.client.CoreV1().Endpoints(there.Namespace).Delete(ctx, there.Name, options)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete endpoints %s/%s: %w", there.Namespace, there.Name, err)
	}
	return nil
}
