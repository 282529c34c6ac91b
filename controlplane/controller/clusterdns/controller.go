// SPDX-License-Identifier: Apache-2.0

package clusterdns

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"skep.dev/skep/controlplane/controller/loop"
)

const workers = 2

// accountKey is the key of the work on the ServiceAccount; no node can have this name.
const accountKey = "/account"

// Controller reconciles the pod of one node at a time.
type Controller struct {
	*loop.Loop
	client   kubernetes.Interface
	nodes    corelisters.NodeLister
	pods     corelisters.PodLister
	accounts corelisters.ServiceAccountLister
	domain   string
	upstream []string
}

// New makes the controller and registers its watches. domain is the cluster's DNS zone, upstream answers for all others.
func New(env loop.Env, domain string, upstream []string) *Controller {
	core := env.Informers.Core().V1()
	c := &Controller{
		client:   env.Client,
		nodes:    core.Nodes().Lister(),
		pods:     core.Pods().Lister(),
		accounts: core.ServiceAccounts().Lister(),
		domain:   domain,
		upstream: upstream,
	}
	c.Loop = loop.New("clusterdns", workers, env.Logger, c.reconcile)
	c.Add(accountKey)
	loop.Watch(core.Nodes().Informer(), loop.Handler(func(old, node *corev1.Node) {
		switch {
		case node == nil:
			c.Add(old.Name)
		case old == nil || old.Annotations[Executable] != node.Annotations[Executable]:
			c.Add(node.Name)
		}
	}))
	loop.Watch(core.Pods().Informer(), loop.Changes(func(pod *corev1.Pod) {
		if node, ours := strings.CutPrefix(pod.Name, podName("")); ours && pod.Namespace == namespace {
			c.Add(node)
		}
	}))
	loop.Watch(core.ServiceAccounts().Informer(), loop.Handler(func(old, sa *corev1.ServiceAccount) {
		if sa == nil && old.Namespace == namespace && old.Name == account {
			c.Add(accountKey)
		}
	}))
	return c
}

func (c *Controller) reconcile(ctx context.Context, name string) (time.Duration, error) {
	if name == accountKey {
		return 0, c.account(ctx)
	}
	node, err := c.nodes.Get(name)
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, err
	}
	there, err := c.pods.Pods(namespace).Get(podName(name))
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, err
	}
	if node == nil && there != nil && there.Labels["k8s-app"] != podLabels["k8s-app"] {
		return 0, nil // somebody else's pod whose name begins like ours
	}
	switch todo, pod := decide(node, there, command(c.domain, c.upstream)); todo {
	case create:
		_, err := c.client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return 0, fmt.Errorf("create the DNS pod of %s: %w", name, err)
		}
	case replace:
		err := c.client.CoreV1().Pods(namespace).Delete(ctx, there.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(there.UID))})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return 0, fmt.Errorf("delete the DNS pod of %s: %w", name, err)
		}
	}
	return 0, nil
}

// account makes the ServiceAccount of the DNS pods.
func (c *Controller) account(ctx context.Context) error {
	if _, err := c.accounts.ServiceAccounts(namespace).Get(account); err == nil || !apierrors.IsNotFound(err) {
		return err
	}
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: account}}
	if _, err := c.client.CoreV1().ServiceAccounts(namespace).Create(ctx, sa, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create service account %s/%s: %w", namespace, account, err)
	}
	return nil
}
