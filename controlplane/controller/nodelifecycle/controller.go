// SPDX-License-Identifier: Apache-2.0

package nodelifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"skep.dev/skep/controlplane/controller/loop"
)

const (
	workers = 8
	// lookAgain is how often a node is looked at when nothing about it changes.
	lookAgain = 5 * time.Second
	// nodeIndex finds the pods of a node.
	nodeIndex = "skep/node"
)

// Controller reconciles one node at a time.
type Controller struct {
	*loop.Loop
	client kubernetes.Interface
	nodes  corelisters.NodeLister
	pods   cache.Indexer
	events record.EventRecorder
	now    func() time.Time

	mu    sync.Mutex // guards heard
	heard map[string]heartbeat
}

// heartbeat is the last sign of life, by our own clock: the node's clock may be wrong.
type heartbeat struct {
	sign string
	at   time.Time
}

// New makes the controller and registers its watches.
func New(env loop.Env) *Controller {
	core := env.Informers.Core().V1()
	pods := core.Pods().Informer()
	IndexByNode(pods)
	c := &Controller{
		client: env.Client,
		nodes:  core.Nodes().Lister(),
		pods:   pods.GetIndexer(),
		events: env.Events("node-controller"),
		now:    env.Now,
		heard:  map[string]heartbeat{},
	}
	c.Loop = loop.New("nodelifecycle", workers, env.Logger, c.reconcile)
	loop.Watch(core.Nodes().Informer(), loop.Changes(func(n *corev1.Node) {
		c.hear(n.Name, "status "+heartbeatOf(n))
		c.Add(n.Name)
	}))
	loop.Watch(env.Informers.Coordination().V1().Leases().Informer(), loop.Changes(func(l *coordinationv1.Lease) {
		if l.Namespace == corev1.NamespaceNodeLease && l.Spec.RenewTime != nil {
			c.hear(l.Name, "lease "+l.Spec.RenewTime.String())
		}
	}))
	return c
}

// IndexByNode adds the index that finds the pods of a node, once.
func IndexByNode(pods cache.SharedIndexInformer) {
	if _, there := pods.GetIndexer().GetIndexers()[nodeIndex]; there {
		return
	}
	err := pods.AddIndexers(cache.Indexers{nodeIndex: func(obj any) ([]string, error) {
		if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
			return []string{pod.Spec.NodeName}, nil
		}
		return nil, nil
	}})
	if err != nil && !pods.IsStopped() { // see loop.Watch
		panic(fmt.Sprintf("index an informer: %v", err))
	}
}

// PodsOf lists the pods of a node.
func PodsOf(pods cache.Indexer, node string) ([]*corev1.Pod, error) {
	objects, err := pods.ByIndex(nodeIndex, node)
	if err != nil {
		return nil, fmt.Errorf("look up the pods of %s: %w", node, err)
	}
	var out []*corev1.Pod
	for _, obj := range objects {
		if pod, ok := obj.(*corev1.Pod); ok {
			out = append(out, pod)
		}
	}
	return out, nil
}

func heartbeatOf(n *corev1.Node) string {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.LastHeartbeatTime.String()
		}
	}
	return ""
}

// hear notes a sign of life, if it is a new one.
func (c *Controller) hear(node, sign string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kind := sign[:1]
	if old, known := c.heard[kind+node]; !known || old.sign != sign {
		c.heard[kind+node] = heartbeat{sign: sign, at: c.now()}
	}
}

// lastHeard is the newer of lease and status. A node that was never heard of counts from now on, so that a control plane
// that was away does not take everybody for dead.
func (c *Controller) lastHeard(node string) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.heard["s"+node].at
	if lease := c.heard["l"+node].at; lease.After(last) {
		last = lease
	}
	if last.IsZero() {
		last = c.now()
		c.heard["s"+node] = heartbeat{at: last}
	}
	return last
}

func (c *Controller) forget(node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.heard, "s"+node)
	delete(c.heard, "l"+node)
}

func (c *Controller) reconcile(ctx context.Context, name string) (time.Duration, error) {
	node, err := c.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		c.forget(name)
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	now := c.now()
	if now.Sub(c.lastHeard(name)) > Grace {
		if conditions := silence(node, now); conditions != nil {
			if node, err = c.writeConditions(ctx, node, conditions); err != nil || node == nil {
				return lookAgain, err
			}
			c.Log().Info("node is silent", "node", name)
		}
	}
	if want, same := taints(node, c.mayEvict(node), now); !same {
		if err := c.writeTaints(ctx, node, want); err != nil {
			return 0, err
		}
	}
	decide := unready
	switch status(node, corev1.NodeReady) {
	case unsaid:
		return lookAgain, nil
	case corev1.ConditionTrue:
		decide = readyAgain
	}
	return lookAgain, c.markPods(ctx, node, decide, now)
}

// mayEvict is false when no node at all is heard of: then it is more likely that we are cut off than that all of them are
// dead, and ending every pod of the cluster would help nobody.
func (c *Controller) mayEvict(node *corev1.Node) bool {
	if status(node, corev1.NodeReady) != corev1.ConditionUnknown {
		return true
	}
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return false
	}
	for _, n := range nodes {
		if n.Name != node.Name && status(n, corev1.NodeReady) == corev1.ConditionTrue {
			return true
		}
	}
	return false
}

func (c *Controller) writeConditions(ctx context.Context, node *corev1.Node, conditions []corev1.NodeCondition) (*corev1.Node, error) {
	fresh := node.DeepCopy()
	fresh.Status.Conditions = conditions
	updated, err := c.client.CoreV1().Nodes().UpdateStatus(ctx, fresh, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("write the conditions of node %s: %w", node.Name, err)
	}
	c.events.Eventf(node, corev1.EventTypeNormal, "NodeNotReady", "Node %s status is now: NodeNotReady", node.Name)
	return updated, nil
}

// writeTaints replaces the list, but only in the state that was seen: others write taints too.
func (c *Controller) writeTaints(ctx context.Context, node *corev1.Node, want []corev1.Taint) error {
	if want == nil {
		want = []corev1.Taint{}
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID, "resourceVersion": node.ResourceVersion},
		"spec":     map[string]any{"taints": want},
	})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write the taints of node %s: %w", node.Name, err)
	}
	return nil
}

// markPods makes the pods of a node that is not ready drop out of their Services, and brings them back with the node: an agent that
// was only cut off has written what it knows, and does not write it again.
func (c *Controller) markPods(ctx context.Context, node *corev1.Node, decide func(*corev1.Pod, time.Time) *corev1.PodCondition, now time.Time) error {
	pods, err := PodsOf(c.pods, node.Name)
	if err != nil {
		return err
	}
	for _, pod := range pods {
		condition := decide(pod, now)
		if condition == nil {
			continue
		}
		patch, err := json.Marshal(map[string]any{
			// What the agent writes meanwhile wins.
			"metadata": map[string]any{"uid": pod.UID, "resourceVersion": pod.ResourceVersion},
			"status":   map[string]any{"conditions": []corev1.PodCondition{*condition}},
		})
		if err != nil {
			return err
		}
		_, err = c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("mark pod %s/%s as ready or not, like its node: %w", pod.Namespace, pod.Name, err)
		}
		if condition.Status == corev1.ConditionFalse {
			c.events.Event(pod, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
		}
	}
	return nil
}
