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
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

var namespaces = schema.GroupResource{Resource: "namespaces"}

// served are the abilities of a resource, less the deletion of a whole collection: nobody may delete all namespaces
// with one request.
type served interface {
	rest.Storage
	rest.Scoper
	rest.Getter
	rest.Lister
	rest.Watcher
	rest.CreaterUpdater
	rest.ResetFieldsStrategy
	rest.ShortNamesProvider
	rest.CategoriesProvider
	rest.SingularNameProvider
	rest.StorageWithReadiness
}

// namespaceResource deletes in two steps: the first request turns the namespace Terminating, and it goes when the
// last finalizer of its spec is taken off through /finalize.
//
//	Active --delete--> Terminating --spec.finalizers empty and metadata.finalizers empty--> gone
type namespaceResource struct {
	served
	store *registry.Store
}

var _ rest.GracefulDeleter = (*namespaceResource)(nil)

func serveNamespaces(r *registrar, res *resource) error {
	res.ShouldDeleteDuringUpdate = func(_ context.Context, _ string, obj, _ runtime.Object) bool {
		return len(obj.(*corev1.Namespace).Spec.Finalizers) == 0
	}
	r.add(res, "", &namespaceResource{served: res, store: res.Store})
	store := *res.Store
	s := finalizeStrategy{res.UpdateStrategy.(strategy)}
	store.CreateStrategy, store.DeleteStrategy = nil, nil
	store.UpdateStrategy, store.ResetFieldsStrategy = s, s
	r.add(res, "finalize", &namespaceFinalize{store: &store})
	return nil
}

func (n *namespaceResource) StorageVersion() runtime.GroupVersioner { return n.store.StorageVersion() }

func (n *namespaceResource) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	obj, err := n.store.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, false, err
	}
	ns := obj.(*corev1.Namespace)
	if options == nil {
		options = metav1.NewDeleteOptions(0)
	}
	preconditions, err := deletePreconditions(ns, options)
	if err != nil {
		return nil, false, err
	}
	if ns.DeletionTimestamp == nil {
		ns, err = n.terminate(ctx, name, validate, options, preconditions)
		if err != nil {
			return nil, false, err
		}
	}
	if len(ns.Spec.Finalizers) > 0 || len(ns.Finalizers) > 0 {
		return ns, false, nil
	}
	return n.store.Delete(ctx, name, validate, options)
}

func deletePreconditions(ns *corev1.Namespace, options *metav1.DeleteOptions) (*storage.Preconditions, error) {
	p := &storage.Preconditions{UID: &ns.UID}
	if options.Preconditions == nil {
		return p, nil
	}
	if want := options.Preconditions.UID; want != nil && *want != ns.UID {
		return nil, apierrors.NewConflict(namespaces, ns.Name,
			fmt.Errorf("precondition failed: UID in precondition: %v, UID in object meta: %v", *want, ns.UID))
	}
	if want := options.Preconditions.ResourceVersion; want != nil && *want != ns.ResourceVersion {
		return nil, apierrors.NewConflict(namespaces, ns.Name,
			fmt.Errorf("precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", *want, ns.ResourceVersion))
	}
	return p, nil
}

// terminate is the first step.
func (n *namespaceResource) terminate(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions,
	preconditions *storage.Preconditions) (*corev1.Namespace, error) {
	key, err := n.store.KeyFunc(ctx, name)
	if err != nil {
		return nil, err
	}
	out := &corev1.Namespace{}
	err = n.store.Storage.GuaranteedUpdate(ctx, key, out, false, preconditions, storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
		if validate != nil {
			if err := validate(ctx, obj); err != nil {
				return nil, err
			}
		}
		ns := obj.(*corev1.Namespace)
		if ns.DeletionTimestamp == nil {
			now, grace := metav1.Now(), int64(0)
			ns.DeletionTimestamp, ns.DeletionGracePeriodSeconds = &now, &grace
		}
		ns.Status.Phase = corev1.NamespaceTerminating
		return ns, nil
	}), dryrun.IsDryRun(options.DryRun), nil)
	if storage.IsNotFound(err) {
		return nil, apierrors.NewNotFound(namespaces, name)
	}
	return out, err
}

// namespaceFinalize serves /finalize.
type namespaceFinalize struct{ store *registry.Store }

var _ rest.Updater = (*namespaceFinalize)(nil)

func (n *namespaceFinalize) New() runtime.Object { return n.store.New() }

// Destroy does nothing, the main resource owns the store.
func (n *namespaceFinalize) Destroy() {}

func (n *namespaceFinalize) Update(ctx context.Context, name string, objInfo rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return n.store.Update(ctx, name, objInfo, create, update, false, options)
}

func (n *namespaceFinalize) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return n.store.GetResetFields()
}

// finalizeStrategy lets spec.finalizers through and keeps the status.
type finalizeStrategy struct{ strategy }

func (s finalizeStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	ns, before := obj.(*corev1.Namespace), old.(*corev1.Namespace)
	clearTypeMeta(ns)
	clearTypeMeta(before)
	ns.Status = before.Status
}

func (s finalizeStrategy) ValidateUpdate(_ context.Context, obj, _ runtime.Object) field.ErrorList {
	if s.kind.Validate == nil {
		return nil
	}
	return s.kind.Validate(obj.(*corev1.Namespace))
}

func (s finalizeStrategy) AllowCreateOnUpdate(context.Context) bool { return false }
