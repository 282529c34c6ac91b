// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternal "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/util/dryrun"
)

var disruptionBudgets = schema.GroupResource{Group: policyv1.GroupName, Resource: "poddisruptionbudgets"}

// budgetRetrySeconds is when a client should try again.
const budgetRetrySeconds = 10

// podEviction serves pods/eviction: a deletion that asks the pod's disruption budget first.
type podEviction struct {
	pods      *registry.Store
	registrar *registrar
}

var (
	_ rest.NamedCreater             = (*podEviction)(nil)
	_ rest.GroupVersionKindProvider = (*podEviction)(nil)
)

func (e *podEviction) New() runtime.Object { return &policyv1.Eviction{} }

// Destroy does nothing, the main resource owns the store.
func (e *podEviction) Destroy() {}

func (e *podEviction) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return policyv1.SchemeGroupVersion.WithKind("Eviction")
}

func (e *podEviction) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	eviction := obj.(*policyv1.Eviction)
	if eviction.Name != "" && eviction.Name != name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	pod, err := getPod(ctx, e.pods, name)
	if err != nil {
		return nil, err
	}
	if validate != nil {
		if err := validate(ctx, eviction.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	deletion := eviction.DeleteOptions
	if deletion == nil {
		deletion = &metav1.DeleteOptions{}
	}
	deletion = deletion.DeepCopy()
	if len(deletion.DryRun) == 0 {
		deletion.DryRun = options.DryRun
	}
	if !evictable(pod) {
		if err := e.askBudget(ctx, pod, dryrun.IsDryRun(deletion.DryRun)); err != nil {
			return nil, err
		}
	}
	// The budget was asked about this pod, not about a later one of its name.
	if deletion.Preconditions == nil {
		deletion.Preconditions = &metav1.Preconditions{}
	}
	if deletion.Preconditions.UID == nil {
		deletion.Preconditions.UID = &pod.UID
	}
	if _, _, err := e.pods.Delete(ctx, name, rest.ValidateAllObjectFunc, deletion); err != nil {
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess, Code: 201}, nil
}

// evictable pods do not count as healthy for any budget.
func evictable(pod *corev1.Pod) bool {
	switch pod.Status.Phase {
	case corev1.PodSucceeded, corev1.PodFailed, corev1.PodPending:
		return true
	}
	return pod.DeletionTimestamp != nil
}

// askBudget takes one disruption from the budget that covers the pod, if any does.
func (e *podEviction) askBudget(ctx context.Context, pod *corev1.Pod, dryRun bool) error {
	budgets, ok := e.registrar.resources[disruptionBudgets]
	if !ok {
		return nil
	}
	obj, err := budgets.List(ctx, &metainternal.ListOptions{})
	if err != nil {
		return err
	}
	var covering []policyv1.PodDisruptionBudget
	for _, b := range obj.(*policyv1.PodDisruptionBudgetList).Items {
		selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err == nil && selector.Matches(labels.Set(pod.Labels)) {
			covering = append(covering, b)
		}
	}
	switch len(covering) {
	case 0:
		return nil
	case 1:
		if spares(&covering[0], pod) {
			return nil
		}
		return e.takeDisruption(ctx, budgets.Store, covering[0].Name, pod, dryRun)
	}
	return apierrors.NewInternalError(fmt.Errorf("this pod has more than one PodDisruptionBudget, which the eviction subresource does not support"))
}

// spares says that evicting the pod costs the budget nothing: the pod is not ready, and the budget lets such pods go. Nothing
// is wrong when it becomes ready a moment later; the budget then has one more than it counted.
func spares(b *policyv1.PodDisruptionBudget, pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return false
		}
	}
	if p := b.Spec.UnhealthyPodEvictionPolicy; p != nil && *p == policyv1.AlwaysAllow {
		return true
	}
	// IfHealthyBudget, the default
	return b.Status.ObservedGeneration >= b.Generation && b.Status.DesiredHealthy > 0 && b.Status.CurrentHealthy >= b.Status.DesiredHealthy
}

func (e *podEviction) takeDisruption(ctx context.Context, store *registry.Store, name string, pod *corev1.Pod, dryRun bool) error {
	key, err := store.KeyFunc(ctx, name)
	if err != nil {
		return err
	}
	err = store.Storage.GuaranteedUpdate(ctx, key, &policyv1.PodDisruptionBudget{}, true, nil, storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
		budget := obj.(*policyv1.PodDisruptionBudget)
		if equality.Semantic.DeepEqual(budget, &policyv1.PodDisruptionBudget{}) {
			return nil, apierrors.NewNotFound(disruptionBudgets, name) // gone meanwhile, which allows the eviction
		}
		return budget, disrupt(budget, pod)
	}), dryRun, nil)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// disrupt counts the pod as disrupted, or refuses. The controller of budgets reconciles the count later.
func disrupt(b *policyv1.PodDisruptionBudget, pod *corev1.Pod) error {
	if b.Status.ObservedGeneration < b.Generation {
		err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", budgetRetrySeconds)
		err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause,
			Message: fmt.Sprintf("The disruption budget %s is still being processed by the server.", b.Name)})
		return err
	}
	if b.Status.DisruptionsAllowed <= 0 {
		err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
		err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause,
			Message: fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", b.Name, b.Status.DesiredHealthy, b.Status.CurrentHealthy)})
		return err
	}
	b.Status.DisruptionsAllowed--
	if b.Status.DisruptedPods == nil {
		b.Status.DisruptedPods = map[string]metav1.Time{}
	}
	b.Status.DisruptedPods[pod.Name] = metav1.Now()
	return nil
}
