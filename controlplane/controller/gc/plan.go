// SPDX-License-Identifier: Apache-2.0

package gc

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// ownerState is what became of one owner.
type ownerState uint8

const (
	lives   ownerState = iota
	absent             // does not exist
	waiting            // is being deleted in the foreground and waits for its dependents
)

// action is what to do with an object.
type action uint8

const (
	keep   action = iota
	unlink        // drop the references to owners that are no more
	remove        // delete it
)

// verdict is an action with its details.
type verdict struct {
	action action
	// owners are the references to keep; for unlink.
	owners []metav1.OwnerReference
	// propagation is how to delete; for remove.
	propagation metav1.DeletionPropagation
	// unblock says that the dependents' blockOwnerDeletion must be cleared first; for remove.
	unblock bool
}

// judge decides about an object that is not being deleted, from the state of its owners. An object lives as long as one of its
// owners does.
func judge(m metav1.Object, state func(types.UID) ownerState, hasBlockedChildren bool) verdict {
	owners := m.GetOwnerReferences()
	if len(owners) == 0 {
		return verdict{action: keep}
	}
	var living []metav1.OwnerReference
	waits := false
	for _, ref := range owners {
		switch state(ref.UID) {
		case lives:
			living = append(living, ref)
		case waiting:
			waits = true
		}
	}
	switch {
	case len(living) == len(owners):
		return verdict{action: keep}
	case len(living) > 0:
		return verdict{action: unlink, owners: living}
	}
	v := verdict{action: remove, propagation: metav1.DeletePropagationBackground}
	finalizers := m.GetFinalizers()
	switch {
	case waits:
		// The owner waits for this object, so this object in turn waits for its own dependents. One of them may itself
		// be an owner that waits: a circle, which only ends when nobody in it blocks.
		v.propagation = metav1.DeletePropagationForeground
		v.unblock = hasBlockedChildren
	case slices.Contains(finalizers, metav1.FinalizerOrphanDependents):
		v.propagation = metav1.DeletePropagationOrphan
	case slices.Contains(finalizers, metav1.FinalizerDeleteDependents):
		v.propagation = metav1.DeletePropagationForeground
	}
	return v
}

// released reports whether an owner that is deleted in the foreground may go: nothing blocks it any more.
func released(owner types.UID, children []*object) bool {
	return !slices.ContainsFunc(children, func(c *object) bool { return c.blocks(owner) })
}
