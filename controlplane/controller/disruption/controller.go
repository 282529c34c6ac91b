// SPDX-License-Identifier: Apache-2.0

package disruption

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/utils/ptr"

	"skep.dev/skep/controlplane/controller/loop"
)

const workers = 2

// Controller reconciles one budget at a time.
type Controller struct {
	*loop.Loop
	client      kubernetes.Interface
	budgets     policylisters.PodDisruptionBudgetLister
	pods        corelisters.PodLister
	sets        appslisters.ReplicaSetLister
	deployments appslisters.DeploymentLister
	now         func() time.Time
}

// New makes the controller and registers its watches.
func New(env loop.Env) *Controller {
	pods, apps, budgets := env.Informers.Core().V1().Pods(), env.Informers.Apps().V1(), env.Informers.Policy().V1().PodDisruptionBudgets()
	c := &Controller{
		client:      env.Client,
		budgets:     budgets.Lister(),
		pods:        pods.Lister(),
		sets:        apps.ReplicaSets().Lister(),
		deployments: apps.Deployments().Lister(),
		now:         env.Now,
	}
	c.Loop = loop.New("disruption", workers, env.Logger, c.reconcile)
	loop.Watch(budgets.Informer(), loop.Changes(func(b *policyv1.PodDisruptionBudget) { c.AddObject(b) }))
	loop.Watch(pods.Informer(), loop.Handler(c.podChanged))
	loop.Watch(apps.ReplicaSets().Informer(), loop.Handler(func(old, set *appsv1.ReplicaSet) {
		if old != nil && set != nil && !apiequality.Semantic.DeepEqual(old.Spec.Replicas, set.Spec.Replicas) {
			c.wake(set.Namespace, set.Spec.Template.Labels)
		}
	}))
	loop.Watch(apps.Deployments().Informer(), loop.Handler(func(old, d *appsv1.Deployment) {
		if old != nil && d != nil && !apiequality.Semantic.DeepEqual(old.Spec.Replicas, d.Spec.Replicas) {
			c.wake(d.Namespace, d.Spec.Template.Labels)
		}
	}))
	return c
}

func (c *Controller) podChanged(old, pod *corev1.Pod) {
	for _, p := range []*corev1.Pod{old, pod} {
		if p != nil {
			c.wake(p.Namespace, p.Labels)
		}
	}
}

// wake queues the budgets that select pods with these labels.
func (c *Controller) wake(namespace string, of labels.Set) {
	all, err := c.budgets.PodDisruptionBudgets(namespace).List(labels.Everything())
	if err != nil {
		return // a cache does not fail to list
	}
	for _, b := range all {
		if selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector); err == nil && selector.Matches(of) {
			c.AddObject(b)
		}
	}
}

func (c *Controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	namespace, name, err := loop.Split(key)
	if err != nil {
		return 0, err
	}
	b, err := c.budgets.PodDisruptionBudgets(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && b.DeletionTimestamp != nil {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		return 0, nil // the API refuses such selectors; the budget's status stays at nothing allowed
	}
	pods, err := c.pods.Pods(namespace).List(selector)
	if err != nil {
		return 0, err
	}
	owner := func(ref *metav1.OwnerReference) (types.UID, int, bool) { return c.scale(namespace, ref) }
	status, again := decide(b, pods, owner, c.now())
	if apiequality.Semantic.DeepEqual(status, b.Status) {
		return again, nil
	}
	b = b.DeepCopy()
	b.Status = status
	// The resource version makes this a conflict if an eviction was allowed meanwhile.
	_, err = c.client.PolicyV1().PodDisruptionBudgets(namespace).UpdateStatus(ctx, b, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("write the status of disruption budget %s: %w", key, err)
	}
	return again, nil
}

// scale says how many pods a pod's controller wants. A Deployment speaks for its sets, which want more than it does during a rollout.
func (c *Controller) scale(namespace string, ref *metav1.OwnerReference) (controller types.UID, want int, known bool) {
	if ref.Kind != "ReplicaSet" {
		return "", 0, false
	}
	set, err := c.sets.ReplicaSets(namespace).Get(ref.Name)
	if err != nil || set.UID != ref.UID {
		return "", 0, false
	}
	controller, replicas := set.UID, set.Spec.Replicas
	if owner := metav1.GetControllerOfNoCopy(set); owner != nil && owner.Kind == "Deployment" {
		if d, err := c.deployments.Deployments(namespace).Get(owner.Name); err == nil && d.UID == owner.UID {
			controller, replicas = d.UID, d.Spec.Replicas
		}
	}
	return controller, int(ptr.Deref(replicas, 1)), true // one is the API's default
}
