// SPDX-License-Identifier: Apache-2.0

package replicaset

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"skep.dev/skep/controlplane/controller/claim"
	"skep.dev/skep/controlplane/controller/expect"
	"skep.dev/skep/controlplane/controller/loop"
	"skep.dev/skep/controlplane/controller/podstate"
)

const workers = 8

// Controller applies the plans.
type Controller struct {
	*loop.Loop
	client  kubernetes.Interface
	lister  appslisters.ReplicaSetLister
	sets    cache.Indexer
	pods    cache.Indexer
	pending *expect.Tracker
	events  record.EventRecorder
	now     func() time.Time
}

// New makes the controller and registers its watches.
func New(env loop.Env) *Controller {
	sets, pods := env.Informers.Apps().V1().ReplicaSets(), env.Informers.Core().V1().Pods()
	claim.Index(sets.Informer())
	claim.Index(pods.Informer())
	c := &Controller{
		client:  env.Client,
		lister:  sets.Lister(),
		sets:    sets.Informer().GetIndexer(),
		pods:    pods.Informer().GetIndexer(),
		pending: expect.New(env.Now),
		events:  env.Events("replicaset-controller"),
		now:     env.Now,
	}
	c.Loop = loop.New("replicaset", workers, env.Logger, c.reconcile)
	loop.Watch(sets.Informer(), loop.Handler(c.setChanged))
	loop.Watch(pods.Informer(), loop.Handler(c.podChanged))
	return c
}

func (c *Controller) setChanged(old, rs *appsv1.ReplicaSet) {
	if rs == nil {
		c.pending.Forget(key(old.Namespace, old.Name))
		rs = old
	}
	c.AddObject(rs)
}

// podChanged settles what was waited for and wakes the owner, before and after; an orphan wakes all that could adopt it.
func (c *Controller) podChanged(old, pod *corev1.Pod) {
	if old != nil {
		if owner := c.owner(old); owner != "" {
			if pod == nil {
				c.pending.Created(owner, old.Name)
				c.pending.Deleted(owner, old.UID)
			}
			c.Add(owner)
		}
	}
	if pod == nil {
		return
	}
	owner := c.owner(pod)
	switch {
	case owner != "":
		c.pending.Created(owner, pod.Name)
		if pod.DeletionTimestamp != nil {
			c.pending.Deleted(owner, pod.UID)
		}
		c.Add(owner)
	case metav1.GetControllerOfNoCopy(pod) == nil && pod.DeletionTimestamp == nil:
		c.wakeAdopters(pod)
	}
}

// owner is the key of the ReplicaSet that controls the pod; empty if none does.
func (c *Controller) owner(pod *corev1.Pod) string {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != kind.Kind || ref.APIVersion != kind.GroupVersion().String() {
		return ""
	}
	return key(pod.Namespace, ref.Name)
}

func (c *Controller) wakeAdopters(pod *corev1.Pod) {
	sets, err := c.lister.ReplicaSets(pod.Namespace).List(labels.Everything())
	if err != nil {
		return // a cache does not fail to list
	}
	for _, rs := range sets {
		selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
		if err == nil && !selector.Empty() && selector.Matches(labels.Set(pod.Labels)) {
			c.AddObject(rs)
		}
	}
}

func key(namespace, name string) string { return namespace + "/" + name }

func (c *Controller) reconcile(ctx context.Context, k string) (time.Duration, error) {
	namespace, name, err := loop.Split(k)
	if err != nil {
		return 0, err
	}
	rs, err := c.lister.ReplicaSets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.pending.Forget(k)
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	// Read before the pods: what settles it is in the cache before it is settled.
	settled := c.pending.Settled(k)
	pods, err := c.claim(ctx, rs)
	if err != nil {
		return 0, err
	}
	related, err := c.related(rs, pods)
	if err != nil {
		return 0, err
	}
	p := decide(snapshot{rs: rs, pods: pods, related: related, settled: settled, now: c.now()})
	reason, applyErr := c.apply(ctx, rs, p)
	message := ""
	if applyErr != nil {
		message = applyErr.Error()
	}
	if err := c.writeStatus(ctx, rs, withFailure(p.status, reason, message, c.now())); err != nil {
		return 0, err
	}
	return p.again, applyErr
}

// claim lists the pods that rs owns, after adopting and releasing.
func (c *Controller) claim(ctx context.Context, rs *appsv1.ReplicaSet) ([]*corev1.Pod, error) {
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("read the selector of %s/%s: %w", rs.Namespace, rs.Name, err)
	}
	candidates, err := claim.Candidates[*corev1.Pod](c.pods, rs)
	if err != nil {
		return nil, err
	}
	claims := claim.Sort(rs, selector, active(rs, candidates))
	for _, pod := range claims.Release {
		if err := c.patchOwner(ctx, pod, func() ([]byte, error) { return claim.ReleasePatch(rs.UID, pod.UID) }); err != nil {
			return nil, fmt.Errorf("release pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
	}
	if len(claims.Adopt) == 0 {
		return claims.Owned, nil
	}
	if err := c.stillThere(ctx, rs); err != nil {
		return nil, err
	}
	for _, pod := range claims.Adopt {
		ref := *metav1.NewControllerRef(rs, kind)
		if err := c.patchOwner(ctx, pod, func() ([]byte, error) { return claim.AdoptPatch(ref, pod.UID) }); err != nil {
			return nil, fmt.Errorf("adopt pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
	}
	return append(claims.Owned, claims.Adopt...), nil
}

// active drops finished orphans: a pod that has run to its end is not worth adopting.
func active(rs *appsv1.ReplicaSet, pods []*corev1.Pod) []*corev1.Pod {
	var kept []*corev1.Pod
	for _, pod := range pods {
		if podstate.Active(pod) || metav1.IsControlledBy(pod, rs) {
			kept = append(kept, pod)
		}
	}
	return kept
}

// stillThere asks the server, not the cache, that rs lives: adopting for a deleted owner would make the collector
// delete the user's pods.
func (c *Controller) stillThere(ctx context.Context, rs *appsv1.ReplicaSet) error {
	fresh, err := c.client.AppsV1().ReplicaSets(rs.Namespace).Get(ctx, rs.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("check %s/%s before adopting: %w", rs.Namespace, rs.Name, err)
	}
	if fresh.UID != rs.UID || fresh.DeletionTimestamp != nil {
		return fmt.Errorf("adopt for %s/%s: it has been deleted", rs.Namespace, rs.Name)
	}
	return nil
}

// patchOwner changes the pod's owner references. A pod that is gone, or another one by now, needs no change.
func (c *Controller) patchOwner(ctx context.Context, pod *corev1.Pod, make func() ([]byte, error)) error {
	patch, err := make()
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
		return nil
	}
	return err
}

// related lists the active pods of all ReplicaSets that have the same owner as rs.
func (c *Controller) related(rs *appsv1.ReplicaSet, own []*corev1.Pod) ([]*corev1.Pod, error) {
	ref := metav1.GetControllerOfNoCopy(rs)
	if ref == nil || len(own) <= int(wanted(rs)) {
		return own, nil // nothing will be deleted, or there are no siblings
	}
	siblings, err := c.sets.ByIndex(claim.IndexName, string(ref.UID))
	if err != nil {
		return nil, err
	}
	var all []*corev1.Pod
	for _, obj := range siblings {
		sibling, ok := obj.(*appsv1.ReplicaSet)
		if !ok {
			continue
		}
		pods, err := claim.Controlled[*corev1.Pod](c.pods, sibling)
		if err != nil {
			return nil, err
		}
		for _, pod := range pods {
			if podstate.Active(pod) {
				all = append(all, pod)
			}
		}
	}
	return all, nil
}

func (c *Controller) writeStatus(ctx context.Context, rs *appsv1.ReplicaSet, st appsv1.ReplicaSetStatus) error {
	if apiequality.Semantic.DeepEqual(rs.Status, st) {
		return nil
	}
	fresh := rs.DeepCopy()
	fresh.Status = st
	_, err := c.client.AppsV1().ReplicaSets(rs.Namespace).UpdateStatus(ctx, fresh, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write the status of %s/%s: %w", rs.Namespace, rs.Name, err)
	}
	return nil
}
