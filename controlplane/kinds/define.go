// SPDX-License-Identifier: Apache-2.0

package kinds

import (
	"context"
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Define makes a Kind from typed functions. list is an empty value of the list type, such as &corev1.PodList{}.
func Define[PT Object](list runtime.Object, d Def[PT]) Kind {
	object := reflect.TypeFor[PT]().Elem()
	listType := reflect.TypeOf(list).Elem()
	k := Kind{
		GroupVersionKind:       d.GroupVersion.WithKind(d.Kind),
		Resource:               d.Resource,
		Singular:               d.Singular,
		ShortNames:             d.ShortNames,
		Categories:             d.Categories,
		Namespaced:             !d.ClusterScoped,
		StoragePrefix:          d.StoragePrefix,
		HasStatus:              d.HasStatus,
		NoGeneration:           d.NoGeneration,
		AllowCreateOnUpdate:    d.AllowCreateOnUpdate,
		RequireResourceVersion: d.RequireResourceVersion,
		New:                    func() Object { return reflect.New(object).Interface().(Object) },
		NewList:                func() runtime.Object { return reflect.New(listType).Interface().(runtime.Object) },
		View:                   d.View,
		ValidateName:           d.ValidateName,
		Columns:                d.Columns,
		FieldNames:             d.FieldNames,
		IndexedField:           d.IndexedField,
		Default:                plain(d.Default),
		Validate:               result[PT, field.ErrorList](d.Validate),
		ValidateUpdate:         pair(d.ValidateUpdate),
		ValidateStatusUpdate:   pair(d.ValidateStatusUpdate),
		Warnings:               result[PT, []string](d.Warnings),
		Row:                    result[PT, []any](d.Row),
		Fields:                 result[PT, fields.Set](d.Fields),
		Scale:                  scale(d),
	}
	if k.Singular == "" {
		k.Singular = strings.ToLower(d.Kind)
	}
	if k.StoragePrefix == "" {
		k.StoragePrefix = d.Resource
	}
	if k.ValidateName == nil {
		k.ValidateName = validation.NameIsDNSSubdomain
	}
	if d.PrepareForCreate != nil {
		k.PrepareForCreate = func(ctx context.Context, o Object) { d.PrepareForCreate(ctx, o.(PT)) }
	}
	if d.PrepareForUpdate != nil {
		k.PrepareForUpdate = func(ctx context.Context, o, old Object) { d.PrepareForUpdate(ctx, o.(PT), old.(PT)) }
	}
	if d.PrepareForStatusUpdate != nil {
		k.PrepareForStatusUpdate = func(ctx context.Context, o, old Object) { d.PrepareForStatusUpdate(ctx, o.(PT), old.(PT)) }
	}
	if d.GracefulDelete != nil {
		k.GracefulDelete = func(ctx context.Context, o Object, options *metav1.DeleteOptions) bool {
			return d.GracefulDelete(ctx, o.(PT), options)
		}
	}
	return k
}

func plain[PT Object](f func(PT)) func(Object) {
	if f == nil {
		return nil
	}
	return func(o Object) { f(o.(PT)) }
}

func result[PT Object, R any](f func(PT) R) func(Object) R {
	if f == nil {
		return nil
	}
	return func(o Object) R { return f(o.(PT)) }
}

func pair[PT Object](f func(obj, old PT) field.ErrorList) func(obj, old Object) field.ErrorList {
	if f == nil {
		return nil
	}
	return func(o, old Object) field.ErrorList { return f(o.(PT), old.(PT)) }
}

func scale[PT Object](d Def[PT]) *Scale {
	if d.Replicas == nil {
		return nil
	}
	return &Scale{
		Replicas:       func(o Object) int32 { return *d.Replicas(o.(PT)) },
		SetReplicas:    func(o Object, n int32) { *d.Replicas(o.(PT)) = n },
		StatusReplicas: func(o Object) int32 { return d.StatusReplicas(o.(PT)) },
		Selector: func(o Object) string {
			selector, err := metav1.LabelSelectorAsSelector(d.Selector(o.(PT)))
			if err != nil {
				return ""
			}
			return selector.String()
		},
	}
}
