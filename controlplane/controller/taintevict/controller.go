// SPDX-License-Identifier: Apache-2.0

package taintevict

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"skep.dev/skep/controlplane/controller/loop"
	"skep.dev/skep/controlplane/controller/nodelifecycle"
)

const workers = 4

// Controller reconciles one pod at a time.
type Controller struct {
	*loop.Loop
	client kubernetes.Interface
	nodes  corelisters.NodeLister
	lister corelisters.PodLister
	pods   cache.Indexer
	events record.EventRecorder
	now    func() time.Time

	mu   sync.Mutex // guards seen
	seen map[string]time.Time
}

// New makes the controller and registers its watches.
func New(env loop.Env) *Controller {
	core := env.Informers.Core().V1()
	pods := core.Pods().Informer()
	nodelifecycle.IndexByNode(pods)
	c := &Controller{
		client: env.Client,
		nodes:  core.Nodes().Lister(),
		lister: core.Pods().Lister(),
		pods:   pods.GetIndexer(),
		events: env.Events("taint-eviction-controller"),
		now:    env.Now,
		seen:   map[string]time.Time{},
	}
	c.Loop = loop.New("taintevict", workers, env.Logger, c.reconcile)
	loop.Watch(core.Nodes().Informer(), loop.Handler(c.nodeChanged))
	loop.Watch(pods, loop.Handler(func(old, pod *corev1.Pod) {
		if pod != nil && pod.Spec.NodeName != "" && (old == nil || old.Spec.NodeName == "") {
			c.AddObject(pod)
		}
	}))
	return c
}

func (c *Controller) nodeChanged(old, node *corev1.Node) {
	if node == nil {
		c.remember(old, nil)
		return
	}
	c.remember(node, node.Spec.Taints)
	if old != nil && slices.EqualFunc(noExecute(old), noExecute(node), func(a, b corev1.Taint) bool { return a.MatchTaint(&b) && a.Value == b.Value }) {
		return
	}
	pods, err := nodelifecycle.PodsOf(c.pods, node.Name)
	if err != nil {
		c.Log().Error("list pods", "node", node.Name, "err", err)
	}
	for _, pod := range pods {
		c.AddObject(pod)
	}
}

func noExecute(n *corev1.Node) []corev1.Taint {
	var out []corev1.Taint
	for _, t := range n.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			out = append(out, t)
		}
	}
	return out
}

func seenKey(node string, t corev1.Taint) string { return node + "/" + t.Key + "=" + t.Value }

// remember notes when taints without a time were first seen; people's taints have none.
func (c *Controller) remember(node *corev1.Node, taints []corev1.Taint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	prefix := node.Name + "/"
	kept := map[string]time.Time{}
	for _, t := range taints {
		if t.Effect != corev1.TaintEffectNoExecute {
			continue
		}
		key := seenKey(node.Name, t)
		kept[key] = c.now()
		if at, known := c.seen[key]; known {
			kept[key] = at
		}
	}
	for key := range c.seen {
		if len(key) > len(prefix) && key[:len(prefix)] == prefix {
			delete(c.seen, key)
		}
	}
	for key, at := range kept {
		c.seen[key] = at
	}
}

func (c *Controller) added(node string) func(corev1.Taint) time.Time {
	return func(t corev1.Taint) time.Time {
		if t.TimeAdded != nil {
			return t.TimeAdded.Time
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if at, known := c.seen[seenKey(node, t)]; known {
			return at
		}
		return c.now()
	}
}

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	namespace, name, err := loop.Split(key)
	if err != nil {
		return 0, err
	}
	pod, err := c.lister.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && (pod.DeletionTimestamp != nil || pod.Spec.NodeName == "") {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	node, err := c.nodes.Get(pod.Spec.NodeName)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	v := decide(pod, node.Spec.Taints, c.added(node.Name))
	if !v.evict {
		return 0, nil
	}
	if wait := v.at.Sub(c.now()); wait > 0 {
		return wait, nil
	}
	return 0, c.evict(ctx, pod)
}

// evict says why in the pod's condition, and deletes it.
func (c *Controller) evict(ctx context.Context, pod *corev1.Pod) error {
	c.events.Eventf(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s/%s", pod.Namespace, pod.Name)
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status": map[string]any{"conditions": []corev1.PodCondition{{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(c.now()),
			Reason: "DeletionByTaintManager", Message: "Taint manager: deleting due to NoExecute taint",
		}}},
	})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("mark pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	err = c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("evict pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}
