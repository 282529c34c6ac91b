// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/util/dryrun"

	metainternal "k8s.io/apimachinery/pkg/apis/meta/internalversion"
)

var services = schema.GroupResource{Resource: "services"}

// serviceResource serves Services: each write runs as a transaction with the allocator of addresses and node ports.
type serviceResource struct {
	*resource
	allocator *allocator
}

func serveServices(r *registrar, res *resource) error {
	s := &serviceResource{resource: res}
	s.allocator = newAllocator(r.serviceCIDRs, s.listAll)
	res.BeginCreate = s.beginCreate
	res.BeginUpdate = s.beginUpdate
	res.AfterDelete = func(obj runtime.Object, options *metav1.DeleteOptions) {
		if svc, ok := obj.(*corev1.Service); ok && !dryrun.IsDryRun(options.DryRun) {
			s.allocator.release(held(&svc.Spec))
		}
	}
	r.add(res, "", s)
	return nil
}

func (s *serviceResource) listAll(ctx context.Context) ([]corev1.Service, error) {
	ctx = genericrequest.WithNamespace(genericrequest.WithRequestInfo(ctx, &genericrequest.RequestInfo{}), metav1.NamespaceAll)
	obj, err := s.ListPredicate(ctx, storage.Everything, &metainternal.ListOptions{})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.ServiceList).Items, nil
}

// transaction is what one request took and what it will free. The store may try several times when others write
// the same Service; each try starts afresh.
type transaction struct {
	taken []holding
	freed []holding
}

type transactionKey struct{}

func (s *serviceResource) begin(ctx context.Context) (context.Context, *transaction) {
	t := &transaction{}
	return context.WithValue(ctx, transactionKey{}, t), t
}

// end settles the transaction once the outcome of the write is known.
func (s *serviceResource) end(t *transaction, err error, dryRun []string) {
	switch {
	case dryrun.IsDryRun(dryRun):
		s.allocator.release(t.taken)
	case err == nil:
		s.allocator.release(t.freed)
	case refused(err):
		s.allocator.release(t.taken)
	}
	// Any other error leaves open whether the write happened: keep both until the next start.
}

// refused tells errors that were raised before anything was stored.
func refused(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) ||
		apierrors.IsBadRequest(err) || apierrors.IsForbidden(err)
}

func (s *serviceResource) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	ctx, t := s.begin(ctx)
	out, err := s.resource.Create(ctx, obj, validate, options)
	s.end(t, err, options.DryRun)
	return out, err
}

func (s *serviceResource) Update(ctx context.Context, name string, objInfo rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, forceCreate bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	ctx, t := s.begin(ctx)
	out, created, err := s.resource.Update(ctx, name, objInfo, create, update, forceCreate, options)
	s.end(t, err, options.DryRun)
	return out, created, err
}

func (s *serviceResource) beginCreate(ctx context.Context, obj runtime.Object, _ *metav1.CreateOptions) (registry.FinishFunc, error) {
	return s.try(ctx, obj.(*corev1.Service), nil)
}

func (s *serviceResource) beginUpdate(ctx context.Context, obj, old runtime.Object, _ *metav1.UpdateOptions) (registry.FinishFunc, error) {
	svc, before := obj.(*corev1.Service), old.(*corev1.Service)
	// The strategy would do this only after the hook: carry over what the client left out.
	s.kind.PrepareForUpdate(ctx, svc, before)
	return s.try(ctx, svc, before)
}

// try allocates for one attempt to write the Service.
func (s *serviceResource) try(ctx context.Context, svc, old *corev1.Service) (registry.FinishFunc, error) {
	t, ok := ctx.Value(transactionKey{}).(*transaction)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("service written outside a transaction"))
	}
	s.allocator.release(t.taken)
	*t = transaction{}
	var oldSpec *corev1.ServiceSpec
	if old != nil {
		oldSpec = &old.Spec
	}
	errs := planFamilies(&svc.Spec, oldSpec, s.allocator.families)
	if len(errs) == 0 {
		var err error
		t.taken, errs, err = s.allocator.allocate(ctx, &svc.Spec, oldSpec)
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
	}
	if len(errs) > 0 {
		return nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), svc.Name, errs)
	}
	if old != nil {
		now := held(&svc.Spec)
		for _, h := range held(oldSpec) {
			if !slices.Contains(now, h) {
				t.freed = append(t.freed, h)
			}
		}
	}
	// The outcome is settled by end, which knows whether the write reached the store.
	return func(context.Context, bool) {}, nil
}
