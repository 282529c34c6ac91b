// SPDX-License-Identifier: Apache-2.0

package clusterdns

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestDecide(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "u1", Annotations: map[string]string{Executable: "/usr/bin/skep"}}}
	bare := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "u1"}}
	run := command("cluster.local", nil)
	good := wanted(node, run)
	with := func(change func(*corev1.Pod)) *corev1.Pod {
		p := good.DeepCopy()
		change(p)
		return p
	}
	for _, c := range []struct {
		name  string
		node  *corev1.Node
		there *corev1.Pod
		want  action
	}{
		{"a node without the binary gets none", bare, nil, nothing},
		{"a node with the binary gets one", node, nil, create},
		{"it has one", node, good, nothing},
		{"the API filled in defaults", node, with(func(p *corev1.Pod) { p.Spec.SchedulerName = "default-scheduler" }), nothing},
		{"it has finished", node, with(func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }), replace},
		{"it is ending", node, with(func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }), nothing},
		{"the binary moved", node, with(func(p *corev1.Pod) { p.Spec.Volumes[0].HostPath.Path = "/old" }), replace},
		{"the domain changed", node, with(func(p *corev1.Pod) { p.Spec.Containers[0].Command = command("old", nil) }), replace},
		{"a drain would take it away", node, with(func(p *corev1.Pod) { p.Annotations = nil }), replace},
		{"a resolver went", node, with(func(p *corev1.Pod) { p.Spec.Containers[0].Command = command("cluster.local", []string{"192.0.2.1"}) }), replace},
		{"it belongs to an earlier node of that name", node, with(func(p *corev1.Pod) { p.OwnerReferences[0].UID = "u0" }), replace},
		{"the node is gone", nil, good, replace},
		{"the node lost the binary", bare, good, replace},
		{"the node and the pod are gone", nil, nil, nothing},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, _ := decide(c.node, c.there, run); got != c.want {
				t.Errorf("action %d, want %d", got, c.want)
			}
		})
	}
	if good.Spec.NodeName != "n1" || good.Labels["k8s-app"] != "kube-dns" || good.Spec.Containers[0].Command[3] != "cluster.local" {
		t.Errorf("%+v", good)
	}
}

func TestCommand(t *testing.T) {
	got := strings.Join(command("cluster.local", []string{"192.0.2.1", "/etc/resolv.conf"}), " ")
	if want := "/skep dns --domain cluster.local --upstream 192.0.2.1,/etc/resolv.conf"; got != want {
		t.Errorf("%s, not %s", got, want)
	}
}
