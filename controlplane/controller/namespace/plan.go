// SPDX-License-Identifier: Apache-2.0

// Package namespace empties namespaces that are being deleted, and lets them go when nothing is left.
package namespace

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// leftover is what one look at a namespace's content found.
type leftover struct {
	undiscovered []string // group versions that could not be asked
	errs         []string // resources that could not be deleted
	// resources and finalizers count the objects that are still there.
	resources, finalizers map[string]int
}

func (l *leftover) count(resource string, finalizers []string) {
	if l.resources == nil {
		l.resources, l.finalizers = map[string]int{}, map[string]int{}
	}
	l.resources[resource]++
	for _, f := range finalizers {
		l.finalizers[f]++
	}
}

// empty reports that the namespace may go.
func (l *leftover) empty() bool {
	return len(l.undiscovered) == 0 && len(l.errs) == 0 && len(l.resources) == 0
}

// conditions describe the deletion in the terms of the API.
func (l *leftover) conditions() []corev1.NamespaceCondition {
	discovery := condition(corev1.NamespaceDeletionDiscoveryFailure, len(l.undiscovered) > 0,
		"DiscoveryFailed", fmt.Sprintf("Discovery failed for some groups, %d failing: %s", len(l.undiscovered), strings.Join(l.undiscovered, ", ")),
		"ResourcesDiscovered", "All resources successfully discovered")
	versions := condition(corev1.NamespaceDeletionGVParsingFailure, false, "", "",
		"ParsedGroupVersions", "All legacy kube types successfully parsed")
	content := condition(corev1.NamespaceDeletionContentFailure, len(l.errs) > 0,
		"ContentDeletionFailed", fmt.Sprintf("Failed to delete all resource types, %d remaining: %s", len(l.errs), strings.Join(l.errs, ", ")),
		"ContentDeleted", "All content successfully deleted, may be waiting on finalization")
	remaining := condition(corev1.NamespaceContentRemaining, len(l.resources) > 0,
		"SomeResourcesRemain", "Some resources are remaining: "+list(l.resources, "%s has %d resource instances"),
		"ContentRemoved", "All content successfully removed")
	finalizers := condition(corev1.NamespaceFinalizersRemaining, len(l.finalizers) > 0,
		"SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "+list(l.finalizers, "%s in %d resource instances"),
		"ContentHasNoFinalizers", "All content-preserving finalizers finished")
	return []corev1.NamespaceCondition{discovery, versions, content, remaining, finalizers}
}

func list(counts map[string]int, format string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf(format, name, counts[name]))
	}
	return strings.Join(parts, ", ")
}

func condition(t corev1.NamespaceConditionType, holds bool, reason, message, otherwise, otherwiseMessage string) corev1.NamespaceCondition {
	if holds {
		return corev1.NamespaceCondition{Type: t, Status: corev1.ConditionTrue, Reason: reason, Message: message}
	}
	return corev1.NamespaceCondition{Type: t, Status: corev1.ConditionFalse, Reason: otherwise, Message: otherwiseMessage}
}

// merge puts conditions into the status and reports whether that changed anything. Conditions of others are kept.
func merge(status *corev1.NamespaceStatus, conditions []corev1.NamespaceCondition, now time.Time) bool {
	changed := false
	for _, c := range conditions {
		at := slices.IndexFunc(status.Conditions, func(old corev1.NamespaceCondition) bool { return old.Type == c.Type })
		c.LastTransitionTime = metav1.NewTime(now)
		if at < 0 {
			status.Conditions = append(status.Conditions, c)
			changed = true
			continue
		}
		old := &status.Conditions[at]
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		if old.Status != c.Status || old.Reason != c.Reason || old.Message != c.Message {
			*old = c
			changed = true
		}
	}
	return changed
}
