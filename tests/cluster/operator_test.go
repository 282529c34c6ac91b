// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// TestDrain empties a node as operators do: a disruption budget holds it back or lets it go on, and the node's own DNS pod is left alone.
func TestDrain(t *testing.T) {
	ns := namespace(t, "drain")
	file := filepath.Join(t.TempDir(), "web.yaml")
	if err := os.WriteFile(file, []byte(webManifest), 0o600); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "apply", "-n", ns, "-f", file)
	kubectl(t, "rollout", "status", "-n", ns, "deployment/web", "--timeout=60s")
	budgets := client.PolicyV1().PodDisruptionBudgets(ns)
	two := intstr.FromInt32(2)
	_, err := budgets.Create(t.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &two, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	allows := func(want int32) {
		t.Helper()
		eventually(t, 20*time.Second, func() error {
			b, err := budgets.Get(t.Context(), "web", metav1.GetOptions{})
			if err == nil && (b.Status.ObservedGeneration != b.Generation || b.Status.CurrentHealthy != 2 || b.Status.DisruptionsAllowed != want) {
				err = fmt.Errorf("the budget's status is %+v, and should allow %d", b.Status, want)
			}
			return err
		})
	}
	allows(0)
	pods, err := client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=" + nodeName(2)})
	if err != nil || len(pods.Items) != 1 {
		t.Fatalf("node 2 has %d of the two pods (%v)", len(pods.Items), err)
	}
	eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: pods.Items[0].Name}}
	if err := client.PolicyV1().Evictions(ns).Evict(t.Context(), eviction); !apierrors.IsTooManyRequests(err) {
		t.Errorf("an eviction against the budget: %v", err)
	}
	kubectl(t, "patch", "pdb", "web", "-n", ns, "--type=merge", "-p", `{"spec":{"minAvailable":1}}`)
	allows(1)

	dns := dnsPod(t, nodeName(2))
	t.Cleanup(func() {
		if out, err := command("uncordon", nodeName(2)).CombinedOutput(); err != nil {
			t.Errorf("uncordon: %v\n%s", err, out)
		}
	})
	kubectl(t, "drain", nodeName(2), "--timeout=60s") // no --force: nothing on the node is without an owner
	if out := kubectl(t, "get", "pods", "-n", ns, "--field-selector=spec.nodeName="+nodeName(2)); !strings.Contains(out, "No resources found") {
		t.Errorf("pods are left on the drained node:\n%s", out)
	}
	if after := dnsPod(t, nodeName(2)); after != dns {
		t.Errorf("the drain replaced the node's DNS pod")
	}
}

// dnsPod identifies a node's DNS pod.
func dnsPod(t *testing.T, node string) string {
	t.Helper()
	pod, err := client.CoreV1().Pods(metav1.NamespaceSystem).Get(t.Context(), "dns-"+node, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return string(pod.UID)
}

// TestRestartUnderLoad replaces every pod of a Deployment while a client keeps asking: where pods go on answering until they are out
// of the Service, no request fails.
func TestRestartUnderLoad(t *testing.T) {
	ns := namespace(t, "restart")
	manifest := strings.Replace(webManifest, "terminationGracePeriodSeconds: 0", "terminationGracePeriodSeconds: 10", 1)
	manifest = strings.Replace(manifest, "readinessProbe:", "lifecycle: {preStop: {sleep: {seconds: 2}}}\n        readinessProbe:", 1)
	file := filepath.Join(t.TempDir(), "web.yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "apply", "-n", ns, "-f", file)
	kubectl(t, "rollout", "status", "-n", ns, "deployment/web", "--timeout=60s")
	createPods(t, ns, probePod("client", nodeName(1), nil))
	address := serviceIP(t, ns, "web", 2)
	eventuallyServes(t, ns, "client", address, 2)
	var got tally
	wait := background(t, ns, "client", &got, "get", "-n", "8000", "-c", "2", "http://"+net.JoinHostPort(address, "80"))
	kubectl(t, "rollout", "restart", "-n", ns, "deployment/web")
	kubectl(t, "rollout", "status", "-n", ns, "deployment/web", "--timeout=60s")
	wait()
	t.Logf("answers: %v, failed %d %s", got.By, got.Failed, got.Error)
	if got.Failed > 0 || len(got.By) < 3 {
		t.Errorf("%d of 8000 requests failed (%s); %d pods answered, before and after", got.Failed, got.Error, len(got.By))
	}
}

// TestWrongFiles refuses what is no image, and says what to do instead.
func TestWrongFiles(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text.tar")
	if err := os.WriteFile(text, []byte("hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := command("image", "load", "--name", name, text).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "load takes docker archives") {
		t.Errorf("loading a text file: %v\n%s", err, out)
	}
}
