// SPDX-License-Identifier: Apache-2.0

package claim

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

// IndexName is the index that finds a controller's objects without reading its whole namespace.
const IndexName = "skep/controller"

// Index adds the index to an informer, once. One that has been stopped takes none, see loop.Watch.
func Index(informer cache.SharedIndexInformer) {
	if _, there := informer.GetIndexer().GetIndexers()[IndexName]; there {
		return
	}
	if err := informer.AddIndexers(cache.Indexers{IndexName: indexKeys}); err != nil && !informer.IsStopped() {
		panic(fmt.Sprintf("index an informer: %v", err))
	}
}

func indexKeys(obj any) ([]string, error) {
	o, ok := obj.(metav1.Object)
	if !ok {
		return nil, fmt.Errorf("index %T: not an API object", obj)
	}
	if ref := metav1.GetControllerOfNoCopy(o); ref != nil {
		return []string{string(ref.UID)}, nil
	}
	return []string{orphans(o.GetNamespace())}, nil
}

func orphans(namespace string) string { return "orphans/" + namespace }

// Candidates lists the objects in owner's namespace that it controls or that nobody does. They are shared with the cache
// and must not be changed.
func Candidates[T metav1.Object](indexer cache.Indexer, owner metav1.Object) ([]T, error) {
	var found []T
	for _, key := range []string{string(owner.GetUID()), orphans(owner.GetNamespace())} {
		objects, err := indexer.ByIndex(IndexName, key)
		if err != nil {
			return nil, fmt.Errorf("look up %s: %w", key, err)
		}
		for _, obj := range objects {
			if o, ok := obj.(T); ok {
				found = append(found, o)
			}
		}
	}
	return found, nil
}

// Controlled lists the objects that owner controls.
func Controlled[T metav1.Object](indexer cache.Indexer, owner metav1.Object) ([]T, error) {
	objects, err := indexer.ByIndex(IndexName, string(owner.GetUID()))
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", owner.GetUID(), err)
	}
	var found []T
	for _, obj := range objects {
		if o, ok := obj.(T); ok {
			found = append(found, o)
		}
	}
	return found, nil
}
