// SPDX-License-Identifier: Apache-2.0

// Package nodeipam gives each node its share of the pod addresses, in spec.podCIDRs.
package nodeipam

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"

	"skep.dev/skep/controlplane/controller/loop"
)

// Range is a range of pod addresses and the size of a node's share.
type Range struct {
	CIDR netip.Prefix
	Bits int
}

// Controller reconciles one node at a time; its single worker owns the book.
type Controller struct {
	*loop.Loop
	client kubernetes.Interface
	nodes  corelisters.NodeLister
	events record.EventRecorder
	book   *book
}

// New makes the controller and registers its watches.
func New(env loop.Env, ranges []Range) (*Controller, error) {
	b, err := newBook(ranges)
	if err != nil {
		return nil, err
	}
	nodes := env.Informers.Core().V1().Nodes()
	c := &Controller{client: env.Client, nodes: nodes.Lister(), events: env.Events("cidrAllocator"), book: b}
	c.Loop = loop.New("nodeipam", 1, env.Logger, c.reconcile)
	loop.Watch(nodes.Informer(), loop.Handler(func(old, node *corev1.Node) {
		if node == nil {
			c.Add(old.Name)
		} else if old == nil || len(node.Spec.PodCIDRs) == 0 {
			c.Add(node.Name)
		}
	}))
	return c, nil
}

// Run notes what nodes already have before it hands out anything.
func (c *Controller) Run(ctx context.Context) {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		c.Log().Error("list nodes", "err", err)
		return
	}
	for _, n := range nodes {
		c.note(n)
	}
	c.Loop.Run(ctx)
}

func (c *Controller) note(n *corev1.Node) {
	for _, clash := range c.book.note(n.Name, prefixes(n)) {
		c.Log().Error("two nodes have the same pod CIDR", "node", n.Name, "cidr", clash.String())
		c.events.Eventf(n, corev1.EventTypeWarning, "CIDRNotAvailable", "Pod CIDR %s is also that of another node", clash)
	}
}

// prefixes reads spec.podCIDRs, leaving out what is no prefix.
func prefixes(n *corev1.Node) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range n.Spec.PodCIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}

func (c *Controller) reconcile(ctx context.Context, name string) (time.Duration, error) {
	node, err := c.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		c.book.release(name)
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if len(node.Spec.PodCIDRs) > 0 {
		c.note(node)
		return 0, nil
	}
	shares, err := c.book.assign(name)
	if err != nil {
		c.events.Eventf(node, corev1.EventTypeNormal, "CIDRNotAvailable", "Node %s status is now: CIDRNotAvailable", name)
		return 0, fmt.Errorf("assign pod CIDRs to %s: %w", name, err)
	}
	if len(shares) == 0 {
		return 0, nil
	}
	return 0, c.write(ctx, node, shares)
}

// write patches the spec. When the answer is lost the node keeps its entry in the book, so the next try writes the same
// shares and no other node can get them.
func (c *Controller) write(ctx context.Context, node *corev1.Node, shares []netip.Prefix) error {
	text := make([]string, len(shares))
	for i, s := range shares {
		text[i] = s.String()
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID},
		"spec":     map[string]any{"podCIDR": text[0], "podCIDRs": text},
	})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Nodes().Patch(ctx, node.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write pod CIDRs of %s: %w", node.Name, err)
	}
	return nil
}
