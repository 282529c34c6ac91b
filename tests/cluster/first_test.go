// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// firstPods is how many new pods try the first packet of all they ever send.
const firstPods = 50

// TestFirstPacket has new pods on node 1 connect at once to a server on node 2 that lets in nobody but pods of their label. Node 2 learns of each
// from the API, and no first packet may be there before it has.
func TestFirstPacket(t *testing.T) {
	ns := namespace(t, "first")
	createPods(t, ns, probePod("server", nodeName(2), map[string]string{"app": "server"}), probePod("before", nodeName(1), map[string]string{"app": "before"}))
	if _, err := client.NetworkingV1().NetworkPolicies(ns).Create(t.Context(), allow("only-first", "server", "first"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	server, err := client.CoreV1().Pods(ns).Get(t.Context(), "server", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func() error {
		if got, err := reaches(t, ns, "before", "tcp", net.JoinHostPort(server.Status.PodIP, "8080")); err != nil || got {
			return fmt.Errorf("the policy is not in force: %v, %v", got, err)
		}
		return nil
	})
	// start makes a pod whose only process connects once.
	start := func(i int) string {
		pod := probePod(fmt.Sprint("new-", i), nodeName(1), map[string]string{"app": "first"})
		pod.Spec.RestartPolicy, pod.Spec.Containers[0].ReadinessProbe = corev1.RestartPolicyNever, nil
		target := server.Status.PodIPs[i%len(server.Status.PodIPs)].IP
		pod.Spec.Containers[0].Args = []string{"first", net.JoinHostPort(target, "9000")}
		if _, err := client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		return pod.Name
	}
	t.Run("of many pods", func(t *testing.T) {
		var all []first
		for batch := range slices.Chunk(slices.Collect(numbers(firstPods)), 5) {
			var names []string
			for _, i := range batch {
				names = append(names, start(i))
			}
			for _, name := range names {
				all = append(all, firstOf(t, ns, name))
			}
		}
		expectNoneLost(t, all)
	})
	t.Run("while the other node is slow to learn", func(t *testing.T) {
		t.Cleanup(func() { signalAgent(t, nodeName(2), syscall.SIGCONT) })
		var all []first
		for i := range 5 {
			signalAgent(t, nodeName(2), syscall.SIGSTOP)
			name := start(1000 + i)
			waitPod(t, ns, name, "has an address", func(pod *corev1.Pod) bool { return pod.Status.PodIP != "" })
			time.Sleep(500 * time.Millisecond) // a pod that does not wait has started by then
			signalAgent(t, nodeName(2), syscall.SIGCONT)
			all = append(all, firstOf(t, ns, name))
		}
		expectNoneLost(t, all)
	})
	t.Run("a node that hangs keeps nobody from starting", func(t *testing.T) {
		before := peerMetric(t, nodeName(1), `skep_peer_timeouts_total`)
		t.Cleanup(func() { signalAgent(t, nodeName(2), syscall.SIGCONT) })
		signalAgent(t, nodeName(2), syscall.SIGSTOP)
		createPods(t, ns, probePod("patient", nodeName(1), nil))
		createPods(t, ns, probePod("next", nodeName(1), nil))
		signalAgent(t, nodeName(2), syscall.SIGCONT)
		if after := peerMetric(t, nodeName(1), `skep_peer_timeouts_total`); after != before+1 {
			t.Errorf("node 2 was waited for in vain %v times, not once", after-before)
		}
		eventually(t, 20*time.Second, func() error {
			if n := peerMetric(t, nodeName(1), `skep_peer_nodes{state="late"}`); n != 0 {
				return fmt.Errorf("%v nodes are not waited for", n)
			}
			return nil
		})
	})
}

// numbers are 0 to n-1.
func numbers(n int) func(func(int) bool) {
	return func(yield func(int) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	}
}

// first is what the probe reports about a pod's first connection.
type first struct {
	Took        time.Duration
	Retransmits int
}

// firstOf waits for a pod's end and reads its report.
func firstOf(t *testing.T, ns, name string) (got first) {
	t.Helper()
	waitPod(t, ns, name, "succeeds", func(pod *corev1.Pod) bool { return pod.Status.Phase == corev1.PodSucceeded })
	log, err := client.CoreV1().Pods(ns).GetLogs(name, &corev1.PodLogOptions{}).DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(log, &got); err != nil {
		t.Fatalf("%v in %q", err, log)
	}
	return got
}

func expectNoneLost(t *testing.T, all []first) {
	t.Helper()
	lost, slowest := 0, time.Duration(0)
	for _, f := range all {
		if f.Retransmits > 0 {
			lost++
		}
		slowest = max(slowest, f.Took)
	}
	t.Logf("%d of %d pods sent a segment again; the slowest connection took %v", lost, len(all), slowest)
	if lost > 0 {
		t.Errorf("%d first packets were lost", lost)
	}
}

// peerMetric reads one of an agent's metrics as a user does; absent means 0.
func peerMetric(t *testing.T, node, name string) (value float64) {
	t.Helper()
	text, err := client.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes/" + node + "/proxy/metrics").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			if _, err := fmt.Sscan(rest, &value); err != nil {
				t.Fatal(err)
			}
		}
	}
	return value
}
