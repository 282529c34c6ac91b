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
	before := drops(t)
	seen, sent := map[string]map[string]int{}, map[string]map[string]int{}
	var waits []func()
	for _, victim := range []string{"near", "far"} {
		seen[victim], sent[victim] = map[string]int{}, map[string]int{}
		addresses := podIPs(t, ns, victim)
		// JSON is decoded into the maps that are there already.
		arrived, forged := seen[victim], sent[victim]
		waits = append(waits, background(t, ns, victim, &arrived, "sniff"), background(t, ns, "forger", &forged, "raw", addresses[0], addresses[1]))
	}
	for _, wait := range waits {
		wait()
	}
	rounds := 0
	for victim := range seen {
		t.Logf("%s: sent %v, seen %v", victim, sent[victim], seen[victim])
		rounds += sent[victim]["rounds"]
		if seen[victim]["honest-ipv4"] == 0 || seen[victim]["honest-ipv6"] == 0 {
			t.Errorf("%s: honest frames do not arrive", victim)
		}
	}
	after := drops(t)
	for kind, reason := range forgeries {
		for victim := range seen {
			if n := seen[victim][kind]; n > 0 {
				t.Errorf("%s: %d forged frames arrived: %s", victim, n, kind)
			}
		}
		row := nodeName(1) + " " + reason
		if n := after[row] - before[row]; n < rounds {
			t.Errorf("%d rounds sent, %d frames counted as %s", rounds, n, reason)
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
