// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestAgentKilled kills the agent of a node under traffic: pods, Services and policy go on, and the restarted agent takes over
// what it finds.
func TestAgentKilled(t *testing.T) {
	ns := namespace(t, "killed")
	app := map[string]string{"app": "server"}
	createPods(t, ns, probePod("server-a", nodeName(1), app), probePod("server-b", nodeName(2), app),
		probePod("client", nodeName(2), map[string]string{"app": "client"}), probePod("stranger", nodeName(2), map[string]string{"app": "stranger"}))
	if _, err := client.CoreV1().Services(ns).Create(t.Context(), probeService("server", app), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.NetworkingV1().NetworkPolicies(ns).Create(t.Context(), allow("only-client", "server", "client"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	address := serviceIP(t, ns, "server", 2)
	eventuallyServes(t, ns, "client", address, 2)
	before := containerStarts(t, ns)

	// The traffic is the pods' own: an exec would hang on the agent that is killed.
	runToEnd(t, ns, "watch", "client", "watch", "-for", "10s", "-timeout", "3s", net.JoinHostPort(address, "9000"))
	runToEnd(t, ns, "get", "client", "get", "-n", "20000", "-c", "2", "http://"+net.JoinHostPort(address, "80"))
	// DNS is a process of its own on each node, which the agent's end must not touch.
	runToEnd(t, ns, "names", "client", "names", "-for", "8s", "server")
	time.Sleep(time.Second) // traffic before
	for i := range nodes {
		killAgent(t, nodeName(i+1))
	}
	time.Sleep(2 * time.Second) // traffic without agents
	// What is running is repaired in place by the same command that made it.
	if out, err := command("up", "--name", name).CombinedOutput(); err != nil {
		t.Fatalf("skep up after the kill: %v\n%s", err, out)
	}
	var seen watched
	var requests tally
	answer(t, ns, "watch", &seen)
	answer(t, ns, "get", &requests)
	var asked sighting
	answer(t, ns, "names", &asked)
	t.Logf("names: %d resolved, %d failed, longest wait between answers %v", asked.Count, asked.Failed, time.Duration(asked.Gap))
	if asked.Failed > 0 || asked.Count < 300 {
		t.Errorf("%d names resolved, %d failed: %s", asked.Count, asked.Failed, asked.Error)
	}
	t.Logf("new: %+v, established: %+v, requests: %d ok, %d failed", seen.New, seen.Established, requests.OK, requests.Failed)
	t.Logf("longest wait between answers %v, for the processor %v; %d segments sent again",
		time.Duration(seen.Established.Gap), time.Duration(seen.Clock.Gap), seen.Retransmits)
	if seen.New.Failed+seen.Established.Failed > 0 || requests.Failed > 0 {
		t.Errorf("traffic failed: %s %s %s", seen.New.Error, seen.Established.Error, requests.Error)
	}
	if seen.New.Count < 1000 || seen.Established.Count < 1000 || requests.OK != 20000 {
		t.Error("there was too little traffic to prove anything")
	}
	var refused tally
	inPod(t, ns, "stranger", &refused, "get", "-n", "10", "-timeout", "300ms", "http://"+net.JoinHostPort(address, "80"))
	if refused.OK != 0 {
		t.Errorf("a stranger got %d answers after the restart", refused.OK)
	}
	if after := containerStarts(t, ns); after != before {
		t.Errorf("containers changed:\nbefore %s\nafter  %s", before, after)
	}
}

// runToEnd starts a pod on node 2 whose only process is one run of the probe, and waits until it runs.
func runToEnd(t *testing.T, ns, name, app string, args ...string) {
	t.Helper()
	pod := probePod(name, nodeName(2), map[string]string{"app": app})
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	pod.Spec.Containers[0].Args, pod.Spec.Containers[0].ReadinessProbe = args, nil
	createPods(t, ns, pod)
}

// answer waits for such a pod to end and decodes what it printed last.
func answer(t *testing.T, ns, name string, result any) {
	t.Helper()
	waitPod(t, ns, name, "succeeds", func(pod *corev1.Pod) bool { return pod.Status.Phase == corev1.PodSucceeded })
	lines := strings.Split(strings.TrimSpace(kubectl(t, "logs", "-n", ns, name)), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), result); err != nil {
		t.Fatalf("%v in %q", err, lines)
	}
}

// containerStarts describes every container's identity, so that any restart shows.
func containerStarts(t *testing.T, ns string) string {
	t.Helper()
	pods, err := client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, pod := range pods.Items {
		if pod.Spec.RestartPolicy == corev1.RestartPolicyNever {
			continue // the traffic, which ends
		}
		for _, status := range pod.Status.ContainerStatuses {
			lines = append(lines, pod.Name+" "+status.ContainerID+" restarts "+string(rune('0'+status.RestartCount)))
		}
	}
	return strings.Join(lines, "; ")
}

// killAgent ends the agent process of one node, and nothing else, without a chance to clean up.
func killAgent(t *testing.T, node string) {
	t.Helper()
	signalAgent(t, node, syscall.SIGKILL)
}

// signalAgent sends a signal to the agent process of one node.
func signalAgent(t *testing.T, node string, signal syscall.Signal) {
	t.Helper()
	pid, running := agentProcesses()[node]
	if !running {
		t.Fatalf("no agent of %s is running", node)
	}
	if err := syscall.Kill(pid, signal); err != nil {
		t.Fatal(err)
	}
}

// agentProcesses are the agents that run, by node.
func agentProcesses() map[string]int {
	out := map[string]int{}
	for _, pid := range clusterProcesses() {
		raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		if err != nil {
			continue
		}
		arguments := strings.Split(string(raw), "\x00")
		if len(arguments) < 3 || arguments[1] != "agent" {
			continue
		}
		for n := 1; n <= nodes; n++ {
			if strings.Contains(string(raw), nodeName(n)) {
				out[nodeName(n)] = pid
			}
		}
	}
	return out
}
