// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// forgeries are the kinds of frames that the probe forges, and the reason under which each is counted.
var forgeries = map[string]string{
	"spoofed-ipv4": "spoofed_ipv4", "spoofed-ipv6": "spoofed_ipv6", "spoofed-arp": "spoofed_arp", "router-advertisement": "router_message",
}

// TestNobodyCanPretendToBeAnother sends forged frames from a pod, by a packet socket as any pod may open one, to a pod of its
// node and to one of another: honest frames arrive beside them, none of the forged ones does, and the counters say why.
func TestNobodyCanPretendToBeAnother(t *testing.T) {
	ns := namespace(t, "spoof")
	createPods(t, ns, probePod("forger", nodeName(1), nil), probePod("near", nodeName(1), nil), probePod("far", nodeName(2), nil))
	for _, victim := range []string{"near", "far"} {
		before := drops(t)
		seen, sent := map[string]int{}, map[string]int{}
		arrived := background(t, ns, victim, &seen, "sniff")
		addresses := podIPs(t, ns, victim)
		inPod(t, ns, "forger", &sent, "raw", addresses[0], addresses[1])
		arrived()
		t.Logf("%s: sent %v, seen %v", victim, sent, seen)
		if seen["honest-ipv4"] == 0 || seen["honest-ipv6"] == 0 {
			t.Errorf("%s: honest frames do not arrive: %v of %v", victim, seen, sent)
		}
		after := drops(t)
		for kind, reason := range forgeries {
			if seen[kind] > 0 {
				t.Errorf("%s: %d forged frames arrived: %s", victim, seen[kind], kind)
			}
			row := nodeName(1) + " " + reason
			if n := after[row] - before[row]; n < sent["rounds"] {
				t.Errorf("%s: %d frames sent, %d counted as %s", victim, sent["rounds"], n, reason)
			}
		}
	}
}

// drops reads what users read. Keys are "NODE REASON".
func drops(t *testing.T) map[string]int {
	t.Helper()
	out, err := command("net", "drops", "--name", name).CombinedOutput()
	if err != nil {
		t.Fatalf("skep net drops: %v\n%s", err, out)
	}
	counted := map[string]int{}
	for line := range strings.Lines(string(out)) {
		var node, reason string
		var packets, bytes int
		if _, err := fmt.Sscan(line, &node, &reason, &packets, &bytes); err == nil {
			counted[node+" "+reason] = packets
		}
	}
	return counted
}

// podIPs are a pod's addresses, IPv4 first.
func podIPs(t *testing.T, ns, pod string) [2]string {
	t.Helper()
	object, err := client.CoreV1().Pods(ns).Get(t.Context(), pod, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(object.Status.PodIPs) != 2 {
		t.Fatalf("pod %s has the addresses %v", pod, object.Status.PodIPs)
	}
	return [2]string{object.Status.PodIPs[0].IP, object.Status.PodIPs[1].IP}
}
