// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestHello does what `make up` does with examples/hello, and checks that its policies let in the front end and nobody else.
func TestHello(t *testing.T) {
	archive := filepath.Join(t.TempDir(), "hello.tar")
	build := exec.Command("go", "run", "./examples/hello/image", "-o", archive)
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the image of examples/hello: %v\n%s", err, out)
	}
	if out, err := command("image", "load", "--name", name, archive).CombinedOutput(); err != nil {
		t.Fatalf("skep image load: %v\n%s", err, out)
	}
	kubectl(t, "apply", "-f", "../../examples/hello")
	t.Cleanup(func() {
		if out, err := command("delete", "-f", "../../examples/hello", "--grace-period=1").CombinedOutput(); err != nil {
			t.Errorf("delete examples/hello: %v\n%s", err, out)
		}
	})
	kubectl(t, "-n", "hello", "rollout", "status", "deployment/hello", "deployment/front", "--timeout=60s")
	eventually(t, 20*time.Second, func() error {
		out, err := tryKubectl(t, "-n", "hello", "exec", "deploy/front", "--", "/server", "get", "http://localhost:8080")
		if err != nil || !strings.Contains(out, "Hello") {
			return fmt.Errorf("the front end has no answer from the server: %v\n%s", err, out)
		}
		return nil
	})
	stranger := probePod("stranger", "", map[string]string{"app": "stranger"})
	createPods(t, "hello", stranger)
	var got tally
	inPod(t, "hello", "stranger", &got, "get", "-n", "3", "-timeout", "500ms", "http://hello")
	if got.OK != 0 {
		t.Errorf("a pod that no policy names got %d answers", got.OK)
	}
	if out, err := command("net", "drops", "--name", name).CombinedOutput(); err != nil || !strings.Contains(string(out), "policy_egress") {
		t.Errorf("skep net drops does not show the refusals: %v\n%s", err, out)
	}
}

// TestClassicManifest accepts the manifest that everybody tries first. No registry is reachable from the nodes of a local
// cluster's test, so what a user sees is a clear reason.
func TestClassicManifest(t *testing.T) {
	ns := namespace(t, "classic")
	file := filepath.Join(t.TempDir(), "nginx.yaml")
	manifest := `
apiVersion: apps/v1
kind: Deployment
metadata: {name: nginx, labels: {app: nginx}}
spec:
  replicas: 3
  selector: {matchLabels: {app: nginx}}
  template:
    metadata: {labels: {app: nginx}}
    spec:
      containers: [{name: nginx, image: "127.0.0.1:1/library/nginx:1.17.1", ports: [{containerPort: 80}]}]
`
	if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "apply", "-n", ns, "-f", file)
	eventually(t, 30*time.Second, func() error {
		out := kubectl(t, "get", "pods", "-n", ns, "-o", "jsonpath={range .items[*]}{.metadata.name} {end}")
		names := strings.Fields(out)
		if len(names) != 3 {
			return fmt.Errorf("pods: %s", out)
		}
		return nil
	})
	pod := strings.Fields(kubectl(t, "get", "pods", "-n", ns, "-o", "jsonpath={.items[0].metadata.name}"))[0]
	waitPod(t, ns, pod, "says why its image is not there", waitingFor("ErrImagePull", "ImagePullBackOff"))
	eventually(t, 20*time.Second, func() error { return hasEvent(t, ns, pod, "Failed", "127.0.0.1:1/library/nginx:1.17.1") })
}
