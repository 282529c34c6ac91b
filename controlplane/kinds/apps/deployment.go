// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/check"
	"skep.dev/skep/controlplane/kinds/core"
	"skep.dev/skep/controlplane/kinds/fill"
)

// Deployment is the kind Deployment.
func Deployment() kinds.Kind {
	return kinds.Define(&appsv1.DeploymentList{}, kinds.Def[*appsv1.Deployment]{
		GroupVersion:         appsv1.SchemeGroupVersion,
		Kind:                 "Deployment",
		Resource:             "deployments",
		ShortNames:           []string{"deploy"},
		Categories:           []string{"all"},
		HasStatus:            true,
		Default:              defaultDeployment,
		PrepareForUpdate:     prepareDeploymentForUpdate,
		Validate:             validateDeployment,
		ValidateUpdate:       validateDeploymentUpdate,
		ValidateStatusUpdate: validateDeploymentStatus,
		Columns:              deploymentColumns,
		Row:                  deploymentRow,
		Replicas:             func(d *appsv1.Deployment) *int32 { return d.Spec.Replicas },
		StatusReplicas:       func(d *appsv1.Deployment) int32 { return d.Status.Replicas },
		Selector:             func(d *appsv1.Deployment) *metav1.LabelSelector { return d.Spec.Selector },
	})
}

func defaultDeployment(d *appsv1.Deployment) {
	spec := &d.Spec
	fill.Nil(&spec.Replicas, 1)
	fill.Nil(&spec.RevisionHistoryLimit, 10)
	fill.Nil(&spec.ProgressDeadlineSeconds, 600)
	fill.Zero(&spec.Strategy.Type, appsv1.RollingUpdateDeploymentStrategyType)
	if spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		fill.Nil(&spec.Strategy.RollingUpdate, appsv1.RollingUpdateDeployment{})
		fill.Nil(&spec.Strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		fill.Nil(&spec.Strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
	core.DefaultPodTemplate(&spec.Template)
}

// prepareDeploymentForUpdate counts a change of annotations as a new generation, because they are copied to ReplicaSets
// and so are part of what the controller has to observe.
func prepareDeploymentForUpdate(_ context.Context, d, old *appsv1.Deployment) {
	if !equality.Semantic.DeepEqual(d.Annotations, old.Annotations) {
		d.Generation = old.Generation + 1
	}
}

func validateDeployment(d *appsv1.Deployment) field.ErrorList {
	path, spec := field.NewPath("spec"), &d.Spec
	errs := check.NotNegative(path.Child("replicas"), spec.Replicas)
	errs = append(errs, validateSelectorAndTemplate(spec.Selector, &spec.Template, path)...)
	errs = append(errs, validateStrategy(&spec.Strategy, path.Child("strategy"))...)
	errs = append(errs, check.NotNegative(path.Child("minReadySeconds"), &spec.MinReadySeconds)...)
	errs = append(errs, check.NotNegative(path.Child("revisionHistoryLimit"), spec.RevisionHistoryLimit)...)
	if deadline := spec.ProgressDeadlineSeconds; deadline != nil {
		at := path.Child("progressDeadlineSeconds")
		errs = append(errs, check.NotNegative(at, deadline)...)
		if *deadline <= spec.MinReadySeconds {
			errs = append(errs, field.Invalid(at, *deadline, "must be greater than minReadySeconds"))
		}
	}
	return errs
}

func validateStrategy(s *appsv1.DeploymentStrategy, path *field.Path) field.ErrorList {
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Forbidden(path.Child("rollingUpdate"), "may not be specified when strategy `type` is 'Recreate'")}
		}
		return nil
	case appsv1.RollingUpdateDeploymentStrategyType:
		return validateRollingUpdate(s.RollingUpdate, path.Child("rollingUpdate"))
	}
	return field.ErrorList{field.NotSupported(path, *s,
		[]appsv1.DeploymentStrategyType{appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType})}
}

func validateRollingUpdate(r *appsv1.RollingUpdateDeployment, path *field.Path) field.ErrorList {
	if r == nil {
		return field.ErrorList{field.Required(path, "this should be defaulted and never be nil")}
	}
	errs := check.CountOrPercent(path.Child("maxUnavailable"), r.MaxUnavailable)
	errs = append(errs, check.CountOrPercent(path.Child("maxSurge"), r.MaxSurge)...)
	if check.IsZero(r.MaxUnavailable) && check.IsZero(r.MaxSurge) {
		errs = append(errs, field.Invalid(path.Child("maxUnavailable"), r.MaxUnavailable, "may not be 0 when `maxSurge` is 0"))
	}
	return append(errs, check.AtMostAll(path.Child("maxUnavailable"), r.MaxUnavailable)...)
}

func validateDeploymentUpdate(d, old *appsv1.Deployment) field.ErrorList {
	return append(validateDeployment(d),
		apivalidation.ValidateImmutableField(d.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))...)
}

func validateDeploymentStatus(d, old *appsv1.Deployment) field.ErrorList {
	path, s := field.NewPath("status"), &d.Status
	errs := check.NotNegative(path.Child("observedGeneration"), &s.ObservedGeneration)
	errs = append(errs, check.NotNegative(path.Child("replicas"), &s.Replicas)...)
	errs = append(errs, check.NotNegative(path.Child("updatedReplicas"), &s.UpdatedReplicas)...)
	errs = append(errs, check.NotNegative(path.Child("unavailableReplicas"), &s.UnavailableReplicas)...)
	errs = append(errs, check.NotNegative(path.Child("collisionCount"), s.CollisionCount)...)
	if s.UpdatedReplicas > s.Replicas {
		errs = append(errs, field.Invalid(path.Child("updatedReplicas"), s.UpdatedReplicas, "cannot be greater than status.replicas"))
	}
	errs = append(errs, validateReady(s.Replicas, s.ReadyReplicas, s.AvailableReplicas, path)...)
	if was := old.Status.CollisionCount; was != nil && (s.CollisionCount == nil || *s.CollisionCount < *was) {
		errs = append(errs, field.Invalid(path.Child("collisionCount"), s.CollisionCount, "cannot be decremented"))
	}
	return errs
}

var deploymentColumns = []metav1.TableColumnDefinition{
	kinds.NameColumn(),
	kinds.Column("Ready", "string", "Number of the pod with ready state"),
	kinds.Column("Up-to-date", "string", appsv1.DeploymentStatus{}.SwaggerDoc()["updatedReplicas"]),
	kinds.Column("Available", "string", appsv1.DeploymentStatus{}.SwaggerDoc()["availableReplicas"]),
	kinds.AgeColumn(),
	kinds.WideColumn("Containers", "string", "Names of each container in the template."),
	kinds.WideColumn("Images", "string", "Images referenced by each container in the template."),
	kinds.WideColumn("Selector", "string", appsv1.DeploymentSpec{}.SwaggerDoc()["selector"]),
}

func deploymentRow(d *appsv1.Deployment) []any {
	var desired int32
	if d.Spec.Replicas != nil {
		desired = *d.Spec.Replicas
	}
	containers, images := containersAndImages(&d.Spec.Template)
	return []any{d.Name, fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, desired), int64(d.Status.UpdatedReplicas),
		int64(d.Status.AvailableReplicas), kinds.Age(d.CreationTimestamp), containers, images, metav1.FormatLabelSelector(d.Spec.Selector)}
}
