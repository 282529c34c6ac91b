// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skep.dev/skep/tests/probeimage"
)

// TestThirdNode grows the cluster and sees that every node reaches every pod and, by name, every Service. The node stays; no test counts
// on there being two only.
func TestThirdNode(t *testing.T) {
	if out, err := command("up", "--name", name, "--nodes", "3").CombinedOutput(); err != nil {
		t.Fatalf("skep up --nodes 3: %v\n%s", err, out)
	}
	if out, err := command("up", "--name", name, "--nodes", "2").CombinedOutput(); err == nil || strings.Count(strings.TrimSpace(string(out)), "\n") > 0 {
		t.Errorf("skep up --nodes 2 on three nodes does not refuse in one line: %v\n%s", err, out)
	}
	if err := load(probe, probeimage.Ref); err != nil {
		t.Fatal(err)
	}
	ns := namespace(t, "third")
	var pods []*corev1.Pod
	for i := 1; i <= 3; i++ {
		pods = append(pods, probePod(fmt.Sprint("server-", i), nodeName(i), map[string]string{"app": "server", "on": fmt.Sprint("node-", i)}))
	}
	createPods(t, ns, pods...)
	services := map[string]int{"all": 3}
	for i := 1; i <= 3; i++ {
		services[fmt.Sprint("only-", i)] = 1
		createService(t, ns, probeService(fmt.Sprint("only-", i), map[string]string{"on": fmt.Sprint("node-", i)}))
	}
	createService(t, ns, probeService("all", map[string]string{"app": "server"}))
	for _, from := range pods {
		for _, to := range pods {
			object, err := client.CoreV1().Pods(ns).Get(t.Context(), to.Name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, ip := range object.Status.PodIPs {
				if got, err := reaches(t, ns, from.Name, "tcp", net.JoinHostPort(ip.IP, "8080")); err != nil || !got {
					t.Errorf("%s reaches %s at %s: %v (%v)", from.Name, to.Name, ip.IP, got, err)
				}
			}
		}
		for service, backends := range services {
			eventuallyServesName(t, ns, from.Name, service, backends)
		}
	}
}

func createService(t *testing.T, ns string, service *corev1.Service) {
	t.Helper()
	if _, err := client.CoreV1().Services(ns).Create(t.Context(), service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// eventuallyServesName is eventuallyServes by the Service's name, so that DNS is asked on the way.
func eventuallyServesName(t *testing.T, ns, pod, service string, backends int) {
	t.Helper()
	eventually(t, 20*time.Second, func() error {
		var got tally
		if err := tryInPod(t, ns, pod, &got, "get", "-n", "60", "http://"+service); err != nil {
			return err
		}
		if got.Failed != 0 || len(got.By) != backends {
			return fmt.Errorf("%s asks %s: answers from %v, %d failed: %s", pod, service, got.By, got.Failed, got.Error)
		}
		return nil
	})
}
