// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"

	"skep.dev/skep/controlplane/kinds"
)

// scaleResource serves /scale of a kind that has replicas.
type scaleResource struct {
	main  *resource
	scale *kinds.Scale
}

var (
	_ rest.Patcher                  = (*scaleResource)(nil)
	_ rest.GroupVersionKindProvider = (*scaleResource)(nil)
)

func (r *scaleResource) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return autoscalingv1.SchemeGroupVersion.WithKind("Scale")
}

func (r *scaleResource) New() runtime.Object { return &autoscalingv1.Scale{} }

// Destroy does nothing, the main resource owns the store.
func (r *scaleResource) Destroy() {}

func (r *scaleResource) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	obj, err := r.main.Get(ctx, name, options)
	if err != nil {
		return nil, err
	}
	return r.read(obj.(kinds.Object)), nil
}

func (r *scaleResource) read(o kinds.Object) *autoscalingv1.Scale {
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name: o.GetName(), Namespace: o.GetNamespace(), UID: o.GetUID(),
			ResourceVersion: o.GetResourceVersion(), CreationTimestamp: o.GetCreationTimestamp(),
		},
		Spec:   autoscalingv1.ScaleSpec{Replicas: r.scale.Replicas(o)},
		Status: autoscalingv1.ScaleStatus{Replicas: r.scale.StatusReplicas(o), Selector: r.scale.Selector(o)},
	}
}

func (r *scaleResource) Update(ctx context.Context, name string, objInfo rest.UpdatedObjectInfo, _ rest.ValidateObjectFunc,
	validate rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	info := &scaledObjectInfo{r: r, name: name, scale: objInfo, validate: validate}
	obj, _, err := r.main.Update(ctx, name, info, rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, options)
	if err != nil {
		return nil, false, err
	}
	return r.read(obj.(kinds.Object)), false, nil
}

func (r *scaleResource) ConvertToTable(ctx context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	return rest.NewDefaultTableConvertor(groupResource(r.main.kind)).ConvertToTable(ctx, obj, options)
}

// scaledObjectInfo turns an update of a Scale into an update of the object behind it.
type scaledObjectInfo struct {
	r        *scaleResource
	name     string
	scale    rest.UpdatedObjectInfo
	validate rest.ValidateObjectUpdateFunc
}

func (i *scaledObjectInfo) Preconditions() *metav1.Preconditions { return i.scale.Preconditions() }

func (i *scaledObjectInfo) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	o := old.DeepCopyObject().(kinds.Object)
	before := i.r.read(o)
	updated, err := i.scale.UpdatedObject(ctx, before)
	if err != nil {
		return nil, err
	}
	scale, ok := updated.(*autoscalingv1.Scale)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected input object type to be Scale, but %T", updated))
	}
	gk := autoscalingv1.SchemeGroupVersion.WithKind("Scale").GroupKind()
	if scale.Spec.Replicas < 0 {
		return nil, apierrors.NewInvalid(gk, scale.Name, field.ErrorList{
			field.Invalid(field.NewPath("spec", "replicas"), scale.Spec.Replicas, "must be greater than or equal to 0")})
	}
	if i.validate != nil {
		if err := i.validate(ctx, scale, before); err != nil {
			return nil, err
		}
	}
	i.r.scale.SetReplicas(o, scale.Spec.Replicas)
	if scale.ResourceVersion != "" {
		o.SetResourceVersion(scale.ResourceVersion)
	}
	return o, nil
}
