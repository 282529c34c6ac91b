// SPDX-License-Identifier: Apache-2.0

// Package serviceaccount gives each namespace the ServiceAccount that pods use when they name none.
package serviceaccount

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"skep.dev/skep/controlplane/controller/loop"
)

const (
	workers = 2
	account = "default"
)

// Controller reconciles one namespace at a time.
type Controller struct {
	*loop.Loop
	client     kubernetes.Interface
	namespaces corelisters.NamespaceLister
	accounts   corelisters.ServiceAccountLister
}

// New makes the controller and registers its watches.
func New(env loop.Env) *Controller {
	core := env.Informers.Core().V1()
	c := &Controller{client: env.Client, namespaces: core.Namespaces().Lister(), accounts: core.ServiceAccounts().Lister()}
	c.Loop = loop.New("serviceaccount", workers, env.Logger, c.reconcile)
	loop.Watch(core.Namespaces().Informer(), loop.Changes(func(n *corev1.Namespace) { c.Add(n.Name) }))
	loop.Watch(core.ServiceAccounts().Informer(), loop.Handler(func(old, sa *corev1.ServiceAccount) {
		if sa == nil && old.Name == account {
			c.Add(old.Namespace)
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
	if _, err = c.accounts.ServiceAccounts(name).Get(account); err == nil || !apierrors.IsNotFound(err) {
		return 0, err
	}
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: account}}
	_, err = c.client.CoreV1().ServiceAccounts(name).Create(ctx, sa, metav1.CreateOptions{})
	if err == nil || apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return 0, nil
	}
	return 0, fmt.Errorf("create the default service account of %s: %w", name, err)
}
