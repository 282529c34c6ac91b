// SPDX-License-Identifier: Apache-2.0

package api

import (
	"strconv"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// quietWatch watches one object that never changes and then makes another. It returns the other's version: a bookmark that is not
// older lets the next watch begin there, and not in a past that may be compacted away.
func quietWatch(t *testing.T, options metav1.ListOptions) (watch.Interface, uint64) {
	t.Helper()
	c := shared.client.CoreV1().ConfigMaps(namespace(t))
	still, err := c.Create(t.Context(), configMap("still", nil), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	options.FieldSelector, options.ResourceVersion, options.AllowWatchBookmarks = "metadata.name=still", still.ResourceVersion, true
	w, err := c.Watch(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	other, err := c.Create(t.Context(), configMap("other", nil), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return w, version(t, other)
}

func version(t *testing.T, object any) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(object.(metav1.Object).GetResourceVersion(), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestBookmarksComeAboutOnceAMinute waits for one. It begins among the first tests and waits beside the others.
func TestBookmarksComeAboutOnceAMinute(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a minute")
	}
	w, newest := quietWatch(t, metav1.ListOptions{})
	late := time.NewTimer(90 * time.Second)
	t.Parallel()
	select {
	case e := <-w.ResultChan():
		if e.Type != watch.Bookmark || version(t, e.Object) < newest {
			t.Errorf("%s of version %d, while %d has happened", e.Type, version(t, e.Object), newest)
		}
	case <-late.C:
		t.Error("no bookmark in 90 s")
	}
}

// TestAWatchThatEndsSaysHowFarItCame gets its bookmark two seconds before its time is up.
func TestAWatchThatEndsSaysHowFarItCame(t *testing.T) {
	seconds := int64(4)
	w, newest := quietWatch(t, metav1.ListOptions{TimeoutSeconds: &seconds})
	t.Parallel()
	bookmarks := 0
	for e := range w.ResultChan() {
		if bookmarks++; e.Type != watch.Bookmark || version(t, e.Object) < newest {
			t.Errorf("%s of version %d, while %d has happened", e.Type, version(t, e.Object), newest)
		}
	}
	if bookmarks == 0 {
		t.Error("the watch ended without a bookmark")
	}
}
