// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestAChunkedListIsOneMoment changes what a list is about to return between two of its pages: the pages together are still the
// objects of the moment of the first.
func TestAChunkedListIsOneMoment(t *testing.T) {
	c := shared.client.CoreV1().ConfigMaps(namespace(t))
	want := map[string]string{}
	for i := range 15 {
		name := fmt.Sprintf("c%02d", i)
		want[name] = "old"
		if _, err := c.Create(t.Context(), configMap(name, map[string]string{"v": "old"}), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	change := func() {
		for _, name := range []string{"c03", "c07"} {
			if err := c.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.Update(t.Context(), configMap("c08", map[string]string{"v": "new"}), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"c065", "c99"} {
			if _, err := c.Create(t.Context(), configMap(name, map[string]string{"v": "new"}), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	options, version := metav1.ListOptions{Limit: 5}, ""
	for page := 0; page == 0 || options.Continue != ""; page++ {
		list, err := c.List(t.Context(), options)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range list.Items {
			if want[item.Name] != item.Data["v"] {
				t.Errorf("page %d: %s is %q, not %q", page, item.Name, item.Data["v"], want[item.Name])
			}
			delete(want, item.Name)
		}
		if page == 0 {
			version = list.ResourceVersion
			change()
		}
		if list.ResourceVersion != version {
			t.Errorf("page %d is of version %s, the first of %s", page, list.ResourceVersion, version)
		}
		options.Continue = list.Continue
	}
	if len(want) != 0 {
		t.Errorf("missing %v", want)
	}
	for name, there := range map[string]bool{"c03": false, "c065": true} {
		if _, err := c.Get(t.Context(), name, metav1.GetOptions{}); (err == nil) != there {
			t.Errorf("afterwards: %s: %v", name, err)
		}
	}
}
