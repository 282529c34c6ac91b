// SPDX-License-Identifier: Apache-2.0

package deployment

import (
	"context"
	"encoding/json"
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
	"skep.dev/skep/controlplane/controller/loop"
)

const workers = 5

// Controller applies the plans.
type Controller struct {
	*loop.Loop
	client kubernetes.Interface
	lister appslisters.DeploymentLister
	sets   cache.Indexer
	pods   cache.Indexer
	events record.EventRecorder
	now    func() time.Time
}

// New makes the controller and registers its watches.
func New(env loop.Env) *Controller {
	apps := env.Informers.Apps().V1()
	pods := env.Informers.Core().V1().Pods().Informer()
	claim.Index(apps.ReplicaSets().Informer())
	claim.Index(pods)
	c := &Controller{
		client: env.Client,
		lister: apps.Deployments().Lister(),
		sets:   apps.ReplicaSets().Informer().GetIndexer(),
		pods:   pods.GetIndexer(),
		events: env.Events("deployment-controller"),
		now:    env.Now,
	}
	c.Loop = loop.New("deployment", workers, env.Logger, c.reconcile)
	loop.Watch(apps.Deployments().Informer(), loop.Changes(func(d *appsv1.Deployment) { c.AddObject(d) }))
	loop.Watch(apps.ReplicaSets().Informer(), loop.Handler(c.setChanged))
	loop.Watch(pods, loop.Handler(c.podChanged))
	return c
}

func (c *Controller) setChanged(old, set *appsv1.ReplicaSet) {
	for _, s := range []*appsv1.ReplicaSet{old, set} {
		if s == nil {
			continue
		}
		ref := metav1.GetControllerOfNoCopy(s)
		switch {
		case ref != nil && ref.Kind == kind.Kind:
			c.Add(s.Namespace + "/" + ref.Name)
		case ref == nil && s == set && s.DeletionTimestamp == nil:
			c.wakeAdopters(s)
		}
	}
}

func (c *Controller) wakeAdopters(set *appsv1.ReplicaSet) {
	all, err := c.lister.Deployments(set.Namespace).List(labels.Everything())
	if err != nil {
		return // a cache does not fail to list
	}
	for _, d := range all {
		selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
		if err == nil && !selector.Empty() && selector.Matches(labels.Set(set.Labels)) {
			c.AddObject(d)
		}
	}
}

// podChanged matters to Recreate only: the last old pod's end lets the new ones start.
func (c *Controller) podChanged(old, pod *corev1.Pod) {
	if pod == nil {
		pod = old
	} else if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
		return
	}
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != "ReplicaSet" {
		return
	}
	obj, found, err := c.sets.GetByKey(pod.Namespace + "/" + ref.Name)
	if err != nil || !found {
		return
	}
	set, ok := obj.(*appsv1.ReplicaSet)
	if !ok {
		return
	}
	owner := metav1.GetControllerOfNoCopy(set)
	if owner == nil {
		return
	}
	d, err := c.lister.Deployments(pod.Namespace).Get(owner.Name)
	if err == nil && d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		c.AddObject(d)
	}
}

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	namespace, name, err := loop.Split(key)
	if err != nil {
		return 0, err
	}
	d, err := c.lister.Deployments(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	s := snapshot{deployment: d, now: c.now()}
	if s.sets, err = c.claim(ctx, d); err != nil {
		return 0, err
	}
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		if s.pods, err = c.podsBySet(s.sets); err != nil {
			return 0, err
		}
	}
	p := decide(s)
	return p.again, c.apply(ctx, s, p)
}

func (c *Controller) podsBySet(sets []*appsv1.ReplicaSet) (map[string][]*corev1.Pod, error) {
	out := map[string][]*corev1.Pod{}
	for _, set := range sets {
		pods, err := claim.Controlled[*corev1.Pod](c.pods, set)
		if err != nil {
			return nil, err
		}
		out[string(set.UID)] = pods
	}
	return out, nil
}

// claim lists the ReplicaSets that d owns, after adopting and releasing.
func (c *Controller) claim(ctx context.Context, d *appsv1.Deployment) ([]*appsv1.ReplicaSet, error) {
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("read the selector of %s/%s: %w", d.Namespace, d.Name, err)
	}
	candidates, err := claim.Candidates[*appsv1.ReplicaSet](c.sets, d)
	if err != nil {
		return nil, err
	}
	claims := claim.Sort(d, selector, candidates)
	for _, set := range claims.Release {
		patch, err := claim.ReleasePatch(d.UID, set.UID)
		if err := c.patchSet(ctx, set, patch, err); err != nil {
			return nil, fmt.Errorf("release replica set %s/%s: %w", set.Namespace, set.Name, err)
		}
	}
	if len(claims.Adopt) == 0 {
		return claims.Owned, nil
	}
	fresh, err := c.client.AppsV1().Deployments(d.Namespace).Get(ctx, d.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("check %s/%s before adopting: %w", d.Namespace, d.Name, err)
	}
	if fresh.UID != d.UID || fresh.DeletionTimestamp != nil {
		return nil, fmt.Errorf("adopt for %s/%s: it has been deleted", d.Namespace, d.Name)
	}
	for _, set := range claims.Adopt {
		patch, err := claim.AdoptPatch(*metav1.NewControllerRef(d, kind), set.UID)
		if err := c.patchSet(ctx, set, patch, err); err != nil {
			return nil, fmt.Errorf("adopt replica set %s/%s: %w", set.Namespace, set.Name, err)
		}
	}
	return append(claims.Owned, claims.Adopt...), nil
}

// patchSet changes owner references. A set that is gone, or another one by now, needs no change.
func (c *Controller) patchSet(ctx context.Context, set *appsv1.ReplicaSet, patch []byte, err error) error {
	if err != nil {
		return err
	}
	_, err = c.client.AppsV1().ReplicaSets(set.Namespace).Patch(ctx, set.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
		return nil
	}
	return err
}

// apply carries the plan out; what failed is tried again from a new snapshot.
func (c *Controller) apply(ctx context.Context, s snapshot, p plan) error {
	d := s.deployment
	for _, change := range p.update {
		if _, err := c.client.AppsV1().ReplicaSets(d.Namespace).Update(ctx, change.set, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("update replica set %s/%s: %w", d.Namespace, change.set.Name, err)
		}
		if change.scaled() {
			c.scaled(d, change.set.Name, replicas(change.old), replicas(change.set))
		}
	}
	if p.create != nil {
		if err := c.create(ctx, s, p); err != nil {
			return err
		}
	}
	for _, set := range p.remove {
		options := metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(set.UID))}
		err := c.client.AppsV1().ReplicaSets(d.Namespace).Delete(ctx, set.Name, options)
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete old replica set %s/%s: %w", d.Namespace, set.Name, err)
		}
	}
	if err := c.writeStatus(ctx, d, p.status); err != nil {
		return err
	}
	return c.writeRevision(ctx, d, p.revision)
}

func (c *Controller) scaled(d *appsv1.Deployment, set string, from, to int32) {
	direction := "up"
	if to < from {
		direction = "down"
	}
	c.events.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", direction, set, from, to)
}

// create makes the new ReplicaSet. When its name is taken by a set of another template or owner, the collision count
// moves on, and with it the name at the next try.
func (c *Controller) create(ctx context.Context, s snapshot, p plan) error {
	d, v := s.deployment, look(s)
	_, err := c.client.AppsV1().ReplicaSets(d.Namespace).Create(ctx, p.create, metav1.CreateOptions{})
	switch {
	case err == nil:
		if replicas(p.create) > 0 {
			c.scaled(d, p.create.Name, 0, replicas(p.create))
		}
		return nil
	case apierrors.IsAlreadyExists(err):
		return c.collision(ctx, d, p.create)
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	}
	c.events.Eventf(d, corev1.EventTypeWarning, reasonCreateFail, "Failed to create new replica set %q: %v", p.create.Name, err)
	if statusErr := c.writeStatus(ctx, d, v.createFailed(p.status, p.create.Name, err)); statusErr != nil {
		c.Log().Warn("report a refused replica set", "deployment", d.Namespace+"/"+d.Name, "err", statusErr)
	}
	return fmt.Errorf("create replica set %s/%s: %w", d.Namespace, p.create.Name, err)
}

func (c *Controller) collision(ctx context.Context, d *appsv1.Deployment, wanted *appsv1.ReplicaSet) error {
	there, err := c.client.AppsV1().ReplicaSets(d.Namespace).Get(ctx, wanted.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("look at replica set %s/%s, which is in the way: %w", d.Namespace, wanted.Name, err)
	}
	if metav1.IsControlledBy(there, d) && sameTemplate(&there.Spec.Template, &d.Spec.Template) {
		return nil // made by an earlier pass that the cache does not show yet
	}
	next := int32(1)
	if d.Status.CollisionCount != nil {
		next = *d.Status.CollisionCount + 1
	}
	st := *d.Status.DeepCopy()
	st.CollisionCount = &next
	if err := c.writeStatus(ctx, d, st); err != nil {
		return err
	}
	return fmt.Errorf("create replica set %s/%s: the name is taken, using another one", d.Namespace, wanted.Name)
}

func (c *Controller) writeStatus(ctx context.Context, d *appsv1.Deployment, st appsv1.DeploymentStatus) error {
	if apiequality.Semantic.DeepEqual(d.Status, st) {
		return nil
	}
	fresh := d.DeepCopy()
	fresh.Status = st
	_, err := c.client.AppsV1().Deployments(d.Namespace).UpdateStatus(ctx, fresh, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write the status of %s/%s: %w", d.Namespace, d.Name, err)
	}
	return nil
}

// writeRevision changes one annotation by patch: nobody else writes it, so there is nothing to conflict with.
func (c *Controller) writeRevision(ctx context.Context, d *appsv1.Deployment, revision string) error {
	if revision == "" || d.Annotations[revisionKey] == revision {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid":         d.UID,
		"annotations": map[string]string{revisionKey: revision},
	}})
	if err != nil {
		return err
	}
	_, err = c.client.AppsV1().Deployments(d.Namespace).Patch(ctx, d.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write the revision of %s/%s: %w", d.Namespace, d.Name, err)
	}
	return nil
}
