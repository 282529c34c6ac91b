// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"skep.dev/skep/controlplane/kinds"
)

// resource serves the main resource of a kind.
type resource struct {
	*registry.Store
	kind kinds.Kind
}

func (r *resource) ShortNames() []string { return r.kind.ShortNames }

func (r *resource) Categories() []string { return r.kind.Categories }

// newResource builds the store of a kind; options says where and how it is kept.
func newResource(t *types, k kinds.Kind, options generic.RESTOptionsGetter) (*resource, error) {
	s := newStrategy(t.scheme, k)
	store := &registry.Store{
		NewFunc:                   func() runtime.Object { return k.New() },
		NewListFunc:               k.NewList,
		DefaultQualifiedResource:  groupResource(k),
		SingularQualifiedResource: schema.GroupResource{Group: k.GroupVersionKind.Group, Resource: k.Singular},
		CreateStrategy:            s,
		UpdateStrategy:            s,
		DeleteStrategy:            s,
		ResetFieldsStrategy:       s,
		TableConvertor:            newTableConvertor(k),
		PredicateFunc:             predicate(k),
	}
	if k.GracefulDelete != nil {
		store.DeleteStrategy = gracefulStrategy{s}
		store.ReturnDeletedObject = true
	}
	storeOptions := &generic.StoreOptions{RESTOptions: options, AttrFunc: attributes(k)}
	addIndex(storeOptions, k)
	if err := store.CompleteWithOptions(storeOptions); err != nil {
		return nil, fmt.Errorf("store of %s: %w", groupResource(k), err)
	}
	return &resource{Store: store, kind: k}, nil
}

// attributes returns what selectors may ask about an object.
func attributes(k kinds.Kind) storage.AttrFunc {
	return func(obj runtime.Object) (labels.Set, fields.Set, error) {
		o, ok := obj.(kinds.Object)
		if !ok {
			return nil, nil, fmt.Errorf("a %T is no %s", obj, k.GroupVersionKind.Kind)
		}
		set := fields.Set{}
		if k.Fields != nil {
			set = k.Fields(o)
		}
		set["metadata.name"] = o.GetName()
		if k.Namespaced {
			set["metadata.namespace"] = o.GetNamespace()
		}
		return o.GetLabels(), set, nil
	}
}

func predicate(k kinds.Kind) func(labels.Selector, fields.Selector) storage.SelectionPredicate {
	attrs := attributes(k)
	var indexed []string
	if k.IndexedField != "" {
		indexed = []string{k.IndexedField}
	}
	return func(l labels.Selector, f fields.Selector) storage.SelectionPredicate {
		return storage.SelectionPredicate{Label: l, Field: f, GetAttrs: attrs, IndexFields: indexed}
	}
}

// addIndex makes the watch cache answer selectors on the indexed field without looking at every object.
func addIndex(options *generic.StoreOptions, k kinds.Kind) {
	if k.IndexedField == "" {
		return
	}
	get := func(obj runtime.Object) string { return k.Fields(obj.(kinds.Object))[k.IndexedField] }
	options.TriggerFunc = storage.IndexerFuncs{k.IndexedField: get}
	options.Indexers = &cache.Indexers{
		storage.FieldIndex(k.IndexedField): func(obj any) ([]string, error) {
			o, ok := obj.(runtime.Object)
			if !ok {
				return nil, fmt.Errorf("a %T is no %s", obj, k.GroupVersionKind.Kind)
			}
			return []string{get(o)}, nil
		},
	}
}

// statusResource serves /status. It shares the store and differs in the update strategy.
type statusResource struct{ store *registry.Store }

var _ rest.Patcher = (*statusResource)(nil)

func newStatusResource(t *types, r *resource) *statusResource {
	s := statusStrategy{newStrategy(t.scheme, r.kind)}
	store := *r.Store
	store.CreateStrategy = nil
	store.DeleteStrategy = nil
	store.BeginUpdate = nil
	store.UpdateStrategy = s
	store.ResetFieldsStrategy = s
	return &statusResource{store: &store}
}

func (r *statusResource) New() runtime.Object { return r.store.New() }

// Destroy does nothing, the main resource owns the store.
func (r *statusResource) Destroy() {}

func (r *statusResource) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return r.store.Get(ctx, name, options)
}

func (r *statusResource) Update(ctx context.Context, name string, objInfo rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	// A status cannot come before its object.
	return r.store.Update(ctx, name, objInfo, create, update, false, options)
}

func (r *statusResource) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return r.store.GetResetFields()
}

func (r *statusResource) ConvertToTable(ctx context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	return r.store.ConvertToTable(ctx, obj, options)
}
