// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/check"
	"skep.dev/skep/controlplane/kinds/core"
	"skep.dev/skep/controlplane/kinds/fill"
)

// ReplicaSet is the kind ReplicaSet.
func ReplicaSet() kinds.Kind {
	return kinds.Define(&appsv1.ReplicaSetList{}, kinds.Def[*appsv1.ReplicaSet]{
		GroupVersion:         appsv1.SchemeGroupVersion,
		Kind:                 "ReplicaSet",
		Resource:             "replicasets",
		ShortNames:           []string{"rs"},
		Categories:           []string{"all"},
		HasStatus:            true,
		Default:              defaultReplicaSet,
		Validate:             validateReplicaSet,
		ValidateUpdate:       validateReplicaSetUpdate,
		ValidateStatusUpdate: validateReplicaSetStatus,
		Columns:              replicaSetColumns,
		Row:                  replicaSetRow,
		Fields: func(r *appsv1.ReplicaSet) fields.Set {
			return fields.Set{"status.replicas": strconv.Itoa(int(r.Status.Replicas))}
		},
		FieldNames:     []string{"status.replicas"},
		Replicas:       func(r *appsv1.ReplicaSet) *int32 { return r.Spec.Replicas },
		StatusReplicas: func(r *appsv1.ReplicaSet) int32 { return r.Status.Replicas },
		Selector:       func(r *appsv1.ReplicaSet) *metav1.LabelSelector { return r.Spec.Selector },
	})
}

func defaultReplicaSet(r *appsv1.ReplicaSet) {
	fill.Nil(&r.Spec.Replicas, 1)
	core.DefaultPodTemplate(&r.Spec.Template)
}

func validateReplicaSet(r *appsv1.ReplicaSet) field.ErrorList {
	path, spec := field.NewPath("spec"), &r.Spec
	errs := check.NotNegative(path.Child("replicas"), spec.Replicas)
	errs = append(errs, check.NotNegative(path.Child("minReadySeconds"), &spec.MinReadySeconds)...)
	return append(errs, validateSelectorAndTemplate(spec.Selector, &spec.Template, path)...)
}

func validateReplicaSetUpdate(r, old *appsv1.ReplicaSet) field.ErrorList {
	return append(validateReplicaSet(r),
		apivalidation.ValidateImmutableField(r.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))...)
}

func validateReplicaSetStatus(r, _ *appsv1.ReplicaSet) field.ErrorList {
	path, s := field.NewPath("status"), &r.Status
	errs := check.NotNegative(path.Child("replicas"), &s.Replicas)
	errs = append(errs, check.NotNegative(path.Child("fullyLabeledReplicas"), &s.FullyLabeledReplicas)...)
	errs = append(errs, check.NotNegative(path.Child("observedGeneration"), &s.ObservedGeneration)...)
	if s.FullyLabeledReplicas > s.Replicas {
		errs = append(errs, field.Invalid(path.Child("fullyLabeledReplicas"), s.FullyLabeledReplicas, "cannot be greater than status.replicas"))
	}
	return append(errs, validateReady(s.Replicas, s.ReadyReplicas, s.AvailableReplicas, path)...)
}

var replicaSetColumns = []metav1.TableColumnDefinition{
	kinds.NameColumn(),
	kinds.Column("Desired", "integer", appsv1.ReplicaSetSpec{}.SwaggerDoc()["replicas"]),
	kinds.Column("Current", "integer", appsv1.ReplicaSetStatus{}.SwaggerDoc()["replicas"]),
	kinds.Column("Ready", "integer", appsv1.ReplicaSetStatus{}.SwaggerDoc()["readyReplicas"]),
	kinds.AgeColumn(),
	kinds.WideColumn("Containers", "string", "Names of each container in the template."),
	kinds.WideColumn("Images", "string", "Images referenced by each container in the template."),
	kinds.WideColumn("Selector", "string", appsv1.ReplicaSetSpec{}.SwaggerDoc()["selector"]),
}

func replicaSetRow(r *appsv1.ReplicaSet) []any {
	var desired int64
	if r.Spec.Replicas != nil {
		desired = int64(*r.Spec.Replicas)
	}
	containers, images := containersAndImages(&r.Spec.Template)
	return []any{r.Name, desired, int64(r.Status.Replicas), int64(r.Status.ReadyReplicas), kinds.Age(r.CreationTimestamp),
		containers, images, metav1.FormatLabelSelector(r.Spec.Selector)}
}
