// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"net"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// tally and watched mirror what the probe prints.
type tally struct {
	OK, Failed int
	By         map[string]int
	Error      string
}

type sighting struct {
	Count, Failed int
	Last, Gap     int64
	Error         string
}

type watched struct {
	New, Established, Clock sighting
	Retransmits             int
}

// TestServiceAndPolicy is the network's main promise in one story: a Service spreads evenly over two nodes and loses
// nothing; a default deny stops new and established connections at once; a policy lets one client back in, and only it.
func TestServiceAndPolicy(t *testing.T) {
	ns := namespace(t, "network")
	app := map[string]string{"app": "server"}
	createPods(t, ns,
		probePod("server-a", nodeName(1), app), probePod("server-b", nodeName(1), app), probePod("server-c", nodeName(2), app),
		probePod("client-1", nodeName(1), map[string]string{"app": "client-1"}), probePod("client-2", nodeName(2), map[string]string{"app": "client-2"}))
	if _, err := client.CoreV1().Services(ns).Create(t.Context(), probeService("server", app), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	address := serviceIP(t, ns, "server", 3)
	eventuallyServes(t, ns, "client-1", address, 3)

	t.Run("ten thousand requests are spread evenly and none fails", func(t *testing.T) {
		var got tally
		inPod(t, ns, "client-1", &got, "get", "-n", "10000", "http://"+net.JoinHostPort(address, "80"))
		t.Logf("answers: %v, failed %d %s", got.By, got.Failed, got.Error)
		if got.OK != 10000 || got.Failed != 0 {
			t.Fatalf("%d answered, %d failed: %s", got.OK, got.Failed, got.Error)
		}
		for _, server := range []string{"server-a", "server-b", "server-c"} {
			if share := float64(got.By[server]) / 10000; share < 0.30 || share > 0.36 {
				t.Errorf("%s got %.1f %%, not 33 %% ± 3", server, 100*share)
			}
		}
	})
	t.Run("UDP goes through the Service too", func(t *testing.T) {
		var got tally
		inPod(t, ns, "client-2", &got, "udp", "-n", "300", net.JoinHostPort(address, "9000"))
		if got.Failed != 0 || len(got.By) != 3 {
			t.Fatalf("%d failed (%s), answers: %v", got.Failed, got.Error, got.By)
		}
	})
	t.Run("default deny stops new and established connections within 100 ms on both nodes", func(t *testing.T) { denyStops(t, ns) })
	t.Run("one client is let in and only that one", func(t *testing.T) { allowLetsIn(t, ns, address) })
}

func eventuallyServes(t *testing.T, ns, pod, address string, backends int) {
	t.Helper()
	eventually(t, 20*time.Second, func() error {
		var got tally
		if err := tryInPod(t, ns, pod, &got, "get", "-n", "60", "http://"+net.JoinHostPort(address, "80")); err != nil {
			return err
		}
		if got.Failed != 0 || len(got.By) != backends {
			return fmt.Errorf("service answers from %v, %d failed: %s", got.By, got.Failed, got.Error)
		}
		return nil
	})
}

// denyStops watches every pair of client node and server node while a default deny is written.
func denyStops(t *testing.T, ns string) {
	paths := map[string][2]string{
		"same node, node 1": {"client-1", "server-a"}, "across, 1 to 2": {"client-1", "server-c"},
		"across, 2 to 1": {"client-2", "server-b"}, "same node, node 2": {"client-2", "server-c"},
	}
	results := map[string]*watched{}
	var waits []func()
	for path, pods := range paths {
		results[path] = &watched{}
		target := net.JoinHostPort(podIP(t, ns, pods[1]), "9000")
		waits = append(waits, background(t, ns, pods[0], results[path], "watch", "-for", "4s", target))
	}
	time.Sleep(2 * time.Second) // the watchers' own time: what is measured is taken from their clocks
	if _, err := client.NetworkingV1().NetworkPolicies(ns).Create(t.Context(), allow("deny", "server", ""), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	answered := time.Now()
	for _, wait := range waits {
		wait()
	}
	for path, seen := range results {
		for kind, s := range map[string]sighting{"new": seen.New, "established": seen.Established} {
			late := time.Unix(0, s.Last).Sub(answered)
			t.Logf("%s, %s: %d successes, the last one %v after the API answered", path, kind, s.Count, late.Round(100*time.Microsecond))
			if s.Count < 100 {
				t.Errorf("%s, %s: only %d successes before the policy: %s", path, kind, s.Count, s.Error)
			}
			if late > 100*time.Millisecond {
				t.Errorf("%s, %s: still worked %v after the API answered", path, kind, late)
			}
			if s.Failed == 0 {
				t.Errorf("%s, %s: was never refused", path, kind)
			}
		}
	}
}

func allowLetsIn(t *testing.T, ns, address string) {
	if _, err := client.NetworkingV1().NetworkPolicies(ns).Create(t.Context(), allow("allow-client-1", "server", "client-1"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventuallyServes(t, ns, "client-1", address, 3)
	var got tally
	url := "http://" + net.JoinHostPort(address, "80")
	inPod(t, ns, "client-1", &got, "get", "-n", "300", url)
	if got.Failed != 0 {
		t.Errorf("client-1: %d of 300 failed: %s", got.Failed, got.Error)
	}
	got = tally{}
	inPod(t, ns, "client-2", &got, "get", "-n", "30", "-timeout", "300ms", url)
	if got.OK != 0 {
		t.Errorf("client-2 got %d answers through a policy that does not name it", got.OK)
	}
}

// TestDNS resolves Services and headless pods from a pod, by short and by full name.
func TestDNS(t *testing.T) {
	ns := namespace(t, "names")
	app := map[string]string{"app": "server"}
	createPods(t, ns, probePod("server-a", nodeName(1), app), probePod("server-b", nodeName(2), app), probePod("client", nodeName(2), nil))
	headless := probeService("headless", app)
	headless.Spec.ClusterIP = corev1.ClusterIPNone
	for _, service := range []*corev1.Service{probeService("server", app), headless} {
		if _, err := client.CoreV1().Services(ns).Create(t.Context(), service, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	address := serviceIP(t, ns, "server", 2)
	for _, host := range []string{"server", "server." + ns, "server." + ns + ".svc.cluster.local"} {
		eventually(t, 20*time.Second, func() error { return resolves(t, ns, host, []string{address}) })
	}
	want := []string{podIP(t, ns, "server-a"), podIP(t, ns, "server-b")}
	eventually(t, 20*time.Second, func() error { return resolves(t, ns, "headless", want) })
	eventually(t, 20*time.Second, func() error { return resolves(t, ns, "kubernetes.default", nil) })
}

func resolves(t *testing.T, ns, host string, want []string) error {
	var got []string
	if err := tryInPod(t, ns, "client", &got, "lookup", host); err != nil {
		return err
	}
	have := map[string]bool{}
	for _, address := range got {
		have[address] = true
	}
	for _, address := range want {
		if !have[address] {
			return fmt.Errorf("%s resolves to %v, not to %v", host, got, want)
		}
	}
	return nil
}

func podIP(t *testing.T, ns, pod string) string {
	t.Helper()
	object, err := client.CoreV1().Pods(ns).Get(t.Context(), pod, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if object.Status.PodIP == "" {
		t.Fatalf("pod %s has no address", pod)
	}
	return object.Status.PodIP
}
