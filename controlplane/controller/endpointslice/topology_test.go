// SPDX-License-Identifier: Apache-2.0

package endpointslice

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestHeartbeatsLeaveTheTopology(t *testing.T) {
	node := corev1.Node{Status: corev1.NodeStatus{
		Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")},
		Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}}
	node.Labels = map[string]string{corev1.LabelTopologyZone: "a"}
	for name, c := range map[string]struct {
		change func(*corev1.Node)
		same   bool
	}{
		"a heartbeat":       {func(n *corev1.Node) { n.Status.Conditions[0].LastHeartbeatTime = metav1.Now() }, true},
		"the CPU rewritten": {func(n *corev1.Node) { n.Status.Allocatable[corev1.ResourceCPU] = resource.MustParse("2000m") }, true},
		"not ready":         {func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionFalse }, false},
		"another zone":      {func(n *corev1.Node) { n.Labels[corev1.LabelTopologyZone] = "b" }, false},
		"less CPU":          {func(n *corev1.Node) { n.Status.Allocatable[corev1.ResourceCPU] = resource.MustParse("1") }, false},
	} {
		after := node.DeepCopy()
		c.change(after)
		if got := sameTopology(&node, after); got != c.same {
			t.Errorf("%s: %v", name, got)
		}
	}
}
