// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/check"
)

// Namespace is the kind Namespace. Each one carries the finalizer "kubernetes" in its spec from birth, which the namespace
// controller takes off when nothing is left inside.
func Namespace() kinds.Kind {
	return kinds.Define(&corev1.NamespaceList{}, kinds.Def[*corev1.Namespace]{
		GroupVersion:         corev1.SchemeGroupVersion,
		Kind:                 "Namespace",
		Resource:             "namespaces",
		ShortNames:           []string{"ns"},
		ClusterScoped:        true,
		HasStatus:            true,
		NoGeneration:         true,
		ValidateName:         apivalidation.NameIsDNSLabel,
		Default:              defaultNamespace,
		PrepareForCreate:     prepareNamespaceForCreate,
		PrepareForUpdate:     prepareNamespaceForUpdate,
		Validate:             func(n *corev1.Namespace) field.ErrorList { return ValidateNamespaceFinalizers(n) },
		ValidateStatusUpdate: validateNamespaceStatus,
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(),
			kinds.Column("Status", "string", "The status of the namespace"),
			kinds.AgeColumn(),
		},
		Row: func(n *corev1.Namespace) []any {
			return []any{n.Name, string(n.Status.Phase), kinds.Age(n.CreationTimestamp)}
		},
		Fields: func(n *corev1.Namespace) fields.Set {
			return fields.Set{"status.phase": string(n.Status.Phase), "name": n.Name}
		},
		FieldNames: []string{"status.phase", "name"},
	})
}

// defaultNamespace gives every namespace the label by which selectors can name it.
func defaultNamespace(n *corev1.Namespace) {
	if n.Name == "" {
		return // a name that the server still has to generate
	}
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	n.Labels[corev1.LabelMetadataName] = n.Name
}

func prepareNamespaceForCreate(_ context.Context, n *corev1.Namespace) {
	defaultNamespace(n)
	n.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
	if !slices.Contains(n.Spec.Finalizers, corev1.FinalizerKubernetes) {
		n.Spec.Finalizers = append(n.Spec.Finalizers, corev1.FinalizerKubernetes)
	}
}

// prepareNamespaceForUpdate: finalizers change through /finalize only.
func prepareNamespaceForUpdate(_ context.Context, n, old *corev1.Namespace) {
	n.Spec.Finalizers = old.Spec.Finalizers
	n.Status = old.Status
}

// ValidateNamespaceFinalizers checks spec.finalizers.
func ValidateNamespaceFinalizers(n *corev1.Namespace) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec", "finalizers")
	for i, f := range n.Spec.Finalizers {
		name := string(f)
		errs = append(errs, check.Invalid(path.Index(i), name, validation.IsQualifiedName(name))...)
		if !strings.Contains(name, "/") && f != corev1.FinalizerKubernetes {
			errs = append(errs, field.Invalid(path.Index(i), name, "name is neither a standard finalizer name nor is it fully qualified"))
		}
	}
	return errs
}

func validateNamespaceStatus(n, _ *corev1.Namespace) field.ErrorList {
	path := field.NewPath("status", "Phase")
	switch {
	case n.DeletionTimestamp == nil && n.Status.Phase != corev1.NamespaceActive:
		return field.ErrorList{field.Invalid(path, n.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty")}
	case n.DeletionTimestamp != nil && n.Status.Phase != corev1.NamespaceTerminating:
		return field.ErrorList{field.Invalid(path, n.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")}
	}
	return nil
}
