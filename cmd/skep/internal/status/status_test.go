// SPDX-License-Identifier: Apache-2.0

package status

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"skep.dev/skep/datapath"
)

func TestShowNode(t *testing.T) {
	var b strings.Builder
	status := datapath.Status{
		Programs: []datapath.Program{
			{Name: "skep_tc_pod", Hook: "tc ingress", Target: "lxc2"}, {Name: "skep_tc_pod", Hook: "tc ingress", Target: "lxc1"},
			{Name: "skep_sock4", Hook: "connect4", Target: "/skep"},
		},
		Maps:  []datapath.MapFill{{Name: "skep_ct", Entries: 1, Max: 8}, {Name: "skep_cfg"}},
		Drops: []datapath.Counter{{Name: "RARE", Packets: 1, Bytes: 60}, {Name: "NEVER"}, {Name: "OFTEN", Packets: 9, Bytes: 540}},
	}
	if err := showNode(&b, node{name: "n1", status: status}); err != nil {
		t.Fatal(err)
	}
	want := `
Datapath of n1
  PROGRAM       HOOK         ATTACHED TO
  skep_sock4    connect4     /skep
  skep_tc_pod   tc ingress   lxc1 lxc2

  MAP        ENTRIES   MAX   FILL
  skep_ct    1         8     12.5%
  skep_cfg   0         0     -

  DROP REASON   PACKETS   BYTES
  OFTEN         9         540
  RARE          1         60
`
	if b.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", b.String(), want)
	}
}

func TestManyDevicesAreCounted(t *testing.T) {
	var programs []datapath.Program
	for _, target := range strings.Fields("a b c d e f") {
		programs = append(programs, datapath.Program{Name: "p", Hook: "h", Target: target})
	}
	if got := grouped(programs); len(got) != 1 || got[0].Target != "a b c d and 2 more" {
		t.Errorf("got %+v", got)
	}
}

func TestPhases(t *testing.T) {
	pod := func(node string, phase corev1.PodPhase) corev1.Pod {
		return corev1.Pod{Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: phase}}
	}
	pods := []corev1.Pod{pod("a", corev1.PodPending), pod("a", corev1.PodRunning), pod("b", corev1.PodRunning), pod("a", corev1.PodRunning), pod("", corev1.PodPending)}
	for node, want := range map[string]string{"a": "2 Running, 1 Pending", "b": "1 Running", "": "1 Pending", "c": "none"} {
		if got := phases(pods, node); got != want {
			t.Errorf("%q: got %q", node, got)
		}
	}
}
