// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/util/dryrun"
)

// podBinding serves pods/binding: it gives a pod its node, once.
type podBinding struct{ store *registry.Store }

var (
	_ rest.NamedCreater             = (*podBinding)(nil)
	_ rest.GroupVersionKindProvider = (*podBinding)(nil)
)

func (b *podBinding) New() runtime.Object { return &corev1.Binding{} }

// Destroy does nothing, the main resource owns the store.
func (b *podBinding) Destroy() {}

func (b *podBinding) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return corev1.SchemeGroupVersion.WithKind("Binding")
}

func (b *podBinding) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	binding := obj.(*corev1.Binding)
	if binding.Name != "" && binding.Name != name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Binding object")
	}
	if errs := validateBinding(binding); len(errs) > 0 {
		return nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Binding").GroupKind(), name, errs)
	}
	if validate != nil {
		if err := validate(ctx, binding.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	key, err := b.store.KeyFunc(ctx, name)
	if err != nil {
		return nil, err
	}
	var preconditions *storage.Preconditions
	if binding.UID != "" || binding.ResourceVersion != "" {
		preconditions = &storage.Preconditions{}
		if binding.UID != "" {
			preconditions.UID = &binding.UID
		}
		if binding.ResourceVersion != "" {
			preconditions.ResourceVersion = &binding.ResourceVersion
		}
	}
	update := storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
		pod := obj.(*corev1.Pod)
		if err := bind(pod, binding); err != nil {
			return nil, apierrors.NewConflict(schema.GroupResource{Resource: "pods/binding"}, name, err)
		}
		return pod, nil
	})
	err = b.store.Storage.GuaranteedUpdate(ctx, key, &corev1.Pod{}, false, preconditions, update, dryrun.IsDryRun(options.DryRun), nil)
	switch {
	case storage.IsNotFound(err):
		return nil, apierrors.NewNotFound(pods, name)
	case storage.IsConflict(err), storage.IsInvalidObj(err):
		return nil, apierrors.NewConflict(schema.GroupResource{Resource: "pods/binding"}, name, err)
	case err != nil:
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

func validateBinding(b *corev1.Binding) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("target")
	if b.Target.Kind != "" && b.Target.Kind != "Node" {
		errs = append(errs, field.NotSupported(path.Child("kind"), b.Target.Kind, []string{"Node", "<empty>"}))
	}
	if b.Target.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	return errs
}

// bind assigns the pod, or says why it cannot be.
func bind(pod *corev1.Pod, b *corev1.Binding) error {
	switch {
	case pod.DeletionTimestamp != nil:
		return fmt.Errorf("pod %s is being deleted, cannot be assigned to a host", pod.Name)
	case pod.Spec.NodeName != "":
		return fmt.Errorf("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
	case len(pod.Spec.SchedulingGates) > 0:
		return fmt.Errorf("pod %v has non-empty .spec.schedulingGates", pod.Name)
	}
	pod.Spec.NodeName = b.Target.Name
	for k, v := range b.Annotations {
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[k] = v
	}
	setScheduled(pod)
	return nil
}

func setScheduled(pod *corev1.Pod) {
	now := metav1.Now()
	want := corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: now, ObservedGeneration: pod.Generation}
	for i, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled {
			if c.Status == corev1.ConditionTrue {
				want.LastTransitionTime = c.LastTransitionTime
			}
			pod.Status.Conditions[i] = want
			return
		}
	}
	pod.Status.Conditions = append(pod.Status.Conditions, want)
}

// legacyBinding serves the collection "bindings", which names the pod in the object.
type legacyBinding struct{ *podBinding }

var (
	_ rest.Creater              = (*legacyBinding)(nil)
	_ rest.Scoper               = (*legacyBinding)(nil)
	_ rest.SingularNameProvider = (*legacyBinding)(nil)
)

func (*legacyBinding) NamespaceScoped() bool { return true }

func (*legacyBinding) GetSingularName() string { return "binding" }

func (b *legacyBinding) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	return b.podBinding.Create(ctx, obj.(*corev1.Binding).Name, obj, validate, options)
}
