// SPDX-License-Identifier: Apache-2.0

package claim

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

func pod(name, app string, owner types.UID, ending bool) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": app}}}
	if owner != "" {
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{UID: owner, Controller: &yes}}
	}
	if ending {
		p.DeletionTimestamp = &metav1.Time{}
	}
	return p
}

func names(pods []*corev1.Pod) string {
	var n []string
	for _, p := range pods {
		n = append(n, p.Name)
	}
	return strings.Join(n, " ")
}

func TestSort(t *testing.T) {
	pods := []*corev1.Pod{
		pod("mine", "a", "me", false),
		pod("mine-ending", "a", "me", true),
		pod("mine-relabelled", "b", "me", false),
		pod("orphan", "a", "", false),
		pod("orphan-ending", "a", "", true),
		pod("orphan-other", "b", "", false),
		pod("theirs", "a", "they", false),
	}
	for _, c := range []struct {
		name                  string
		ending                bool
		owned, adopt, release string
	}{
		{"a live owner adopts and releases", false, "mine mine-ending", "orphan", "mine-relabelled"},
		{"an owner being deleted does neither", true, "mine mine-ending", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			owner := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "me"}}
			if c.ending {
				owner.DeletionTimestamp = &metav1.Time{}
			}
			got := Sort(owner, labels.SelectorFromSet(labels.Set{"app": "a"}), pods)
			if names(got.Owned) != c.owned || names(got.Adopt) != c.adopt || names(got.Release) != c.release {
				t.Errorf("owned %q, adopt %q, release %q", names(got.Owned), names(got.Adopt), names(got.Release))
			}
		})
	}
}
