// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func TestConditions(t *testing.T) {
	now := time.Unix(1000, 0)
	left := &leftover{errs: []string{"no"}, undiscovered: []string{"metrics.k8s.io/v1beta1"}}
	left.count("pods.", nil)
	left.count("widgets.example.com", []string{"example.com/wait"})
	left.count("widgets.example.com", []string{"example.com/wait"})
	var lines []string
	for _, c := range left.conditions() {
		lines = append(lines, fmt.Sprintf("%s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message))
	}
	want := `NamespaceDeletionDiscoveryFailure=True DiscoveryFailed: Discovery failed for some groups, 1 failing: metrics.k8s.io/v1beta1
NamespaceDeletionGroupVersionParsingFailure=False ParsedGroupVersions: All legacy kube types successfully parsed
NamespaceDeletionContentFailure=True ContentDeletionFailed: Failed to delete all resource types, 1 remaining: no
NamespaceContentRemaining=True SomeResourcesRemain: Some resources are remaining: pods. has 1 resource instances, widgets.example.com has 2 resource instances
NamespaceFinalizersRemaining=True SomeFinalizersRemain: Some content in the namespace has finalizers remaining: example.com/wait in 2 resource instances`
	if got := strings.Join(lines, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if left.empty() || !(&leftover{}).empty() {
		t.Error("emptiness is wrong")
	}
	status := &corev1.NamespaceStatus{Conditions: []corev1.NamespaceCondition{{Type: "Others"}}}
	if !merge(status, left.conditions(), now) || len(status.Conditions) != 6 {
		t.Errorf("not merged: %+v", status.Conditions)
	}
	if merge(status, left.conditions(), now.Add(time.Hour)) {
		t.Error("the same conditions count as a change")
	}
	if !merge(status, (&leftover{}).conditions(), now.Add(time.Hour)) || len(status.Conditions) != 6 {
		t.Errorf("not merged: %+v", status.Conditions)
	}
}
