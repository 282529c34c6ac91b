// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"skep.dev/skep/controlplane/kinds"
)

// strategy is how a write to a kind's main resource is prepared and checked. It implements the create, update
// and delete strategies of the library for every kind.
//
// Objects reach it with their TypeMeta filled on some paths (server-side apply) and empty on others, so it
// always clears it: stored and compared objects carry none.
type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
	kind kinds.Kind
}

var (
	_ rest.RESTCreateStrategy  = strategy{}
	_ rest.RESTUpdateStrategy  = strategy{}
	_ rest.RESTDeleteStrategy  = strategy{}
	_ rest.ResetFieldsStrategy = strategy{}
)

func newStrategy(typer runtime.ObjectTyper, kind kinds.Kind) strategy {
	return strategy{ObjectTyper: typer, NameGenerator: names.SimpleNameGenerator, kind: kind}
}

func (s strategy) NamespaceScoped() bool { return s.kind.Namespaced }

func (s strategy) PrepareForCreate(ctx context.Context, obj runtime.Object) {
	o := obj.(kinds.Object)
	clearTypeMeta(o)
	if s.kind.HasStatus {
		resetStatus(o)
	}
	if s.kind.NoGeneration {
		o.SetGeneration(0)
	} else {
		o.SetGeneration(1)
	}
	if s.kind.PrepareForCreate != nil {
		s.kind.PrepareForCreate(ctx, o)
	}
}

func (s strategy) Validate(_ context.Context, obj runtime.Object) field.ErrorList {
	o := obj.(kinds.Object)
	errs := validation.ValidateObjectMetaAccessor(o, s.kind.Namespaced, s.kind.ValidateName, field.NewPath("metadata"))
	if s.kind.Validate != nil {
		errs = append(errs, s.kind.Validate(o)...)
	}
	return errs
}

func (s strategy) WarningsOnCreate(_ context.Context, obj runtime.Object) []string {
	if s.kind.Warnings == nil {
		return nil
	}
	return s.kind.Warnings(obj.(kinds.Object))
}

func (s strategy) Canonicalize(runtime.Object) {}

func (s strategy) AllowCreateOnUpdate(context.Context) bool { return s.kind.AllowCreateOnUpdate }

func (s strategy) AllowUnconditionalUpdate(context.Context) bool {
	return !s.kind.RequireResourceVersion
}

func (s strategy) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	o, before := obj.(kinds.Object), old.(kinds.Object)
	clearTypeMeta(o)
	clearTypeMeta(before)
	if s.kind.HasStatus {
		copyStatus(o, before)
	}
	if s.kind.PrepareForUpdate != nil {
		s.kind.PrepareForUpdate(ctx, o, before)
	}
	if !s.kind.NoGeneration && contentChanged(o, before) {
		o.SetGeneration(before.GetGeneration() + 1)
	}
}

// ValidateUpdate leaves metadata to the library, which checks it before.
func (s strategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	o := obj.(kinds.Object)
	switch {
	case s.kind.ValidateUpdate != nil:
		return s.kind.ValidateUpdate(o, old.(kinds.Object))
	case s.kind.Validate != nil:
		return s.kind.Validate(o)
	}
	return nil
}

func (s strategy) WarningsOnUpdate(ctx context.Context, obj, _ runtime.Object) []string {
	return s.WarningsOnCreate(ctx, obj)
}

// GetResetFields takes the status away from the field managers of the main resource.
func (s strategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	if !s.kind.HasStatus {
		return nil
	}
	return resetSet(s.kind.GroupVersionKind, fieldpath.MakePathOrDie("status"))
}

func resetSet(gvk schema.GroupVersionKind, paths ...fieldpath.Path) map[fieldpath.APIVersion]*fieldpath.Set {
	version := fieldpath.APIVersion(gvk.GroupVersion().String())
	return map[fieldpath.APIVersion]*fieldpath.Set{version: fieldpath.NewSet(paths...)}
}

// gracefulStrategy adds a grace period to deletion. It is a type of its own because the library asks for the
// method, not for its answer.
type gracefulStrategy struct{ strategy }

var _ rest.RESTGracefulDeleteStrategy = gracefulStrategy{}

func (s gracefulStrategy) CheckGracefulDelete(ctx context.Context, obj runtime.Object, options *metav1.DeleteOptions) bool {
	return s.kind.GracefulDelete(ctx, obj.(kinds.Object), options)
}

// statusStrategy is the update strategy of /status: everything but the status and metadata stays.
type statusStrategy struct{ strategy }

func (s statusStrategy) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	o, before := obj.(kinds.Object), old.(kinds.Object)
	clearTypeMeta(o)
	clearTypeMeta(before)
	copyContent(o, before)
	o.SetDeletionTimestamp(before.GetDeletionTimestamp())
	o.SetOwnerReferences(before.GetOwnerReferences())
	o.SetFinalizers(before.GetFinalizers())
	if s.kind.PrepareForStatusUpdate != nil {
		s.kind.PrepareForStatusUpdate(ctx, o, before)
	}
}

func (s statusStrategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	if s.kind.ValidateStatusUpdate == nil {
		return nil
	}
	return s.kind.ValidateStatusUpdate(obj.(kinds.Object), old.(kinds.Object))
}

func (s statusStrategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

func (s statusStrategy) AllowCreateOnUpdate(context.Context) bool { return false }

func (s statusStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	paths := []fieldpath.Path{fieldpath.MakePathOrDie("metadata", "deletionTimestamp"),
		fieldpath.MakePathOrDie("metadata", "ownerReferences"), fieldpath.MakePathOrDie("metadata", "finalizers")}
	for _, name := range contentFields(s.kind.New()) {
		paths = append(paths, fieldpath.MakePathOrDie(name))
	}
	return resetSet(s.kind.GroupVersionKind, paths...)
}

// contentChanged compares everything but metadata and status.
func contentChanged(o, old kinds.Object) bool {
	changed := false
	eachContentField(o, old, func(a, b any) { changed = changed || !equality.Semantic.DeepEqual(a, b) })
	return changed
}
