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

// classic is the manifest that everybody tries first.
const classic = `
apiVersion: apps/v1
kind: Deployment
metadata:
  name: nginx-deployment
  labels:
    app: nginx
spec:
  replicas: 3
  selector:
    matchLabels:
      app: nginx
  template:
    metadata:
      labels:
        app: nginx
    spec:
      containers:
      - name: nginx
        image: nginx:1.17.1
        ports:
        - containerPort: 80
`

// TestClassicManifest applies the manifest that everybody tries first, as it is. The proxy that the test gives to the cluster keeps
// the pull on this machine, so what a user sees is what one without a way to the registry sees: three pods and a clear reason.
func TestClassicManifest(t *testing.T) {
	ns := namespace(t, "classic")
	file := filepath.Join(t.TempDir(), "nginx.yaml")
	if err := os.WriteFile(file, []byte(classic), 0o600); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "apply", "-n", ns, "-f", file)
	var pods []string
	eventually(t, 30*time.Second, func() error {
		pods = strings.Fields(kubectl(t, "get", "pods", "-n", ns, "-l", "app=nginx", "-o", "jsonpath={range .items[*]}{.metadata.name} {end}"))
		if len(pods) != 3 {
			return fmt.Errorf("pods: %v", pods)
		}
		return nil
	})
	for _, pod := range pods {
		waitPod(t, ns, pod, "says why its image is not there", waitingFor("ErrImagePull", "ImagePullBackOff"))
		eventually(t, 20*time.Second, func() error { return hasEvent(t, ns, pod, "Failed", "nginx:1.17.1") })
		// The proxy's refusal is in the event: nothing went around it.
		eventually(t, 20*time.Second, func() error { return hasEvent(t, ns, pod, "Failed", "127.0.0.1:1: connect: connection refused") })
	}
	if out := kubectl(t, "get", "deployment", "-n", ns, "nginx-deployment"); !strings.Contains(out, "0/3") {
		t.Errorf("the deployment does not say that none of three is ready:\n%s", out)
	}
}
