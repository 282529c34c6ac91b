// SPDX-License-Identifier: Apache-2.0

// Package rootca publishes the cluster's CA in each namespace, so that pods can trust the API server.
package rootca

import (
	"context"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"skep.dev/skep/controlplane/controller/loop"
)

const (
	workers     = 2
	configMap   = "kube-root-ca.crt"
	bundleKey   = "ca.crt"
	description = "kubernetes.io/description"
)

// Controller reconciles one namespace at a time.
type Controller struct {
	*loop.Loop
	client     kubernetes.Interface
	namespaces corelisters.NamespaceLister
	maps       corelisters.ConfigMapLister
	data       map[string]string
}

// New makes the controller and registers its watches. bundle is PEM.
func New(env loop.Env, bundle []byte) *Controller {
	core := env.Informers.Core().V1()
	c := &Controller{
		client:     env.Client,
		namespaces: core.Namespaces().Lister(),
		maps:       core.ConfigMaps().Lister(),
		data:       map[string]string{bundleKey: string(bundle)},
	}
	c.Loop = loop.New("rootca", workers, env.Logger, c.reconcile)
	loop.Watch(core.Namespaces().Informer(), loop.Changes(func(n *corev1.Namespace) { c.Add(n.Name) }))
	loop.Watch(core.ConfigMaps().Informer(), loop.Changes(func(m *corev1.ConfigMap) {
		if m.Name == configMap {
			c.Add(m.Namespace)
		}
	}))
	return c
}

func (c *Controller) reconcile(ctx context.Context, name string) (time.Duration, error) {
	ns, err := c.namespaces.Get(name)
	if apierrors.IsNotFound(err) || err == nil && ns.DeletionTimestamp != nil {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	there, err := c.maps.ConfigMaps(name).Get(configMap)
	switch {
	case apierrors.IsNotFound(err):
		_, err = c.client.CoreV1().ConfigMaps(name).Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{
				Namespace:   name,
				Name:        configMap,
				Annotations: map[string]string{description: "The CA that signed the API server's certificate. For nothing else."},
			},
			Data: c.data,
		}, metav1.CreateOptions{})
	case err == nil && !maps.Equal(there.Data, c.data):
		fresh := there.DeepCopy()
		fresh.Data = c.data
		_, err = c.client.CoreV1().ConfigMaps(name).Update(ctx, fresh, metav1.UpdateOptions{})
	}
	if err == nil || apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return 0, nil
	}
	return 0, fmt.Errorf("publish the CA in %s: %w", name, err)
}
