// SPDX-License-Identifier: Apache-2.0

// Package claim decides which objects a controller owns: by controller reference first, by selector for orphans.
package claim

import (
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// Claims is what should happen to each object. An object in none of the lists belongs to somebody else.
type Claims[T metav1.Object] struct {
	// Owned already carry the reference and match.
	Owned []T
	// Adopt are orphans that match; the reference is to be added.
	Adopt []T
	// Release carry the reference and no longer match; it is to be removed.
	Release []T
}

// Sort decides for all objects. An owner that is being deleted neither adopts nor releases. Objects that are being
// deleted are not adopted, and are released all the same.
func Sort[T metav1.Object](owner metav1.Object, selector labels.Selector, objects []T) Claims[T] {
	var c Claims[T]
	ending := owner.GetDeletionTimestamp() != nil
	for _, o := range objects {
		matches := selector.Matches(labels.Set(o.GetLabels()))
		ref := metav1.GetControllerOfNoCopy(o)
		switch {
		case ref != nil && ref.UID != owner.GetUID():
		case ref != nil && matches:
			c.Owned = append(c.Owned, o)
		case ref != nil && !ending:
			c.Release = append(c.Release, o)
		case ref == nil && matches && !ending && o.GetDeletionTimestamp() == nil:
			c.Adopt = append(c.Adopt, o)
		}
	}
	return c
}

// AdoptPatch is the strategic merge patch that adds owner's reference. The UID makes the patch fail if the object was
// replaced by another one of the same name.
func AdoptPatch(ref metav1.OwnerReference, uid types.UID) ([]byte, error) {
	return json.Marshal(map[string]any{"metadata": map[string]any{
		"uid":             uid,
		"ownerReferences": []metav1.OwnerReference{ref},
	}})
}

// ReleasePatch is the strategic merge patch that removes owner's reference.
func ReleasePatch(owner, uid types.UID) ([]byte, error) {
	return json.Marshal(map[string]any{"metadata": map[string]any{
		"uid":             uid,
		"ownerReferences": []map[string]any{{"$patch": "delete", "uid": owner}},
	}})
}
