// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"skep.dev/skep/tests/probeimage"
)

// cli is one kubectl: the one on the binary, or the one that the machine has.
type cli struct {
	t    *testing.T
	path string
	ns   string
}

// run returns what the command printed and fails the test if it failed.
func (c cli) run(args ...string) string {
	c.t.Helper()
	out, err := c.try(args...)
	if err != nil {
		c.t.Fatalf("%s %s: %v\n%s", filepath.Base(c.path), strings.Join(args, " "), err, out)
	}
	return out
}

func (c cli) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 90*time.Second)
	defer cancel()
	out, err := c.command(ctx, args...).CombinedOutput()
	return string(out), err
}

func (c cli) command(ctx context.Context, args ...string) *exec.Cmd {
	return withEnvironment(exec.CommandContext(ctx, c.path, append([]string{"--namespace", c.ns}, args...)...))
}

// expect fails unless the command prints each of the wanted strings.
func (c cli) expect(args []string, want ...string) string {
	c.t.Helper()
	out := c.run(args...)
	for _, text := range want {
		if !strings.Contains(out, text) {
			c.t.Errorf("%s: no %q in:\n%s", strings.Join(args, " "), text, out)
		}
	}
	return out
}

func words(s string) []string { return strings.Fields(s) }

const webManifest = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, annotations: {kubernetes.io/change-cause: first}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: probe
        image: ` + probeimage.Ref + `
        env: [{name: GREETING, value: one}]
        readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
`

func TestKubectl(t *testing.T) {
	tools := map[string]string{"skep": skep}
	if stock, err := exec.LookPath("kubectl"); err == nil {
		tools["stock"] = stock
	}
	for tool, path := range tools {
		t.Run(tool, func(t *testing.T) { everyVerb(cli{t: t, path: path, ns: namespace(t, "kubectl-"+tool)}) })
	}
}

// TestKubectlByName calls the binary through a link named kubectl.
func TestKubectlByName(t *testing.T) {
	link := filepath.Join(home, "kubectl")
	if err := os.Symlink(skep, link); err != nil {
		t.Fatal(err)
	}
	cli{t: t, path: link, ns: "default"}.expect(words("get nodes -o wide"), "INTERNAL-IP", nodeName(1), nodeName(2), "Ready")
}

// everyVerb is a working day: apply, look, change, roll out, roll back, read logs, go in, edit, delete.
func everyVerb(c cli) {
	file := filepath.Join(c.t.TempDir(), "web.yaml")
	if err := os.WriteFile(file, []byte(webManifest), 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.expect([]string{"apply", "-f", file}, "deployment.apps/web created", "service/web created")
	c.expect([]string{"apply", "-f", file}, "deployment.apps/web unchanged", "service/web unchanged")
	c.expect(words("rollout status deployment/web --timeout=60s"), "successfully rolled out")
	c.expect(words("get pods -o wide"), "NAME", "READY", "STATUS", "RESTARTS", "NODE", "NOMINATED NODE", "1/1", "Running", name+"-")
	c.expect(words("get deployment web"), "UP-TO-DATE", "AVAILABLE", "2/2")
	c.expect(words("get deployment web -o yaml"), "apiVersion: apps/v1", "progressDeadlineSeconds: 600", "readyReplicas: 2")
	c.expect(words("get service web -o wide"), "ClusterIP", "80/TCP", "app=web")
	c.expect(words("describe deployment web"), "2 desired | 2 updated | 2 total | 2 available", "MinimumReplicasAvailable", "ScalingReplicaSet")
	c.expect(words("describe pods --show-events=true"), "Successfully assigned", "Started", probeimage.Ref)
	c.expect(words("explain deployment.spec.strategy"), "GROUP:", "FIELD: strategy", "rollingUpdate")
	c.watches()

	c.expect(words("scale deployment web --replicas=3"), "deployment.apps/web scaled")
	c.expect(words("rollout status deployment/web --timeout=60s"), "successfully rolled out")
	c.rollouts()
	c.logsAndExec()
	c.edits()
	c.expect([]string{"delete", "-f", file}, `deployment.apps "web" deleted`, `service "web" deleted`)
	eventually(c.t, 30*time.Second, func() error {
		if out, _ := c.try("get", "pods"); !strings.Contains(out, "No resources found") {
			return fmt.Errorf("pods outlive their deployment:\n%s", out)
		}
		return nil
	})
}

// watches sees a change arrive at get -w.
func (c cli) watches() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	defer cancel()
	cmd := c.command(ctx, "get", "deployment", "web", "-w", "--output-watch-events")
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	defer func() { cancel(); _ = cmd.Wait() }()
	labelled := false
	for scanner := bufio.NewScanner(out); scanner.Scan(); {
		switch line := scanner.Text(); {
		case strings.HasPrefix(line, "ADDED") && !labelled:
			labelled = true
			c.run("label", "deployment", "web", "seen=yes")
		case strings.HasPrefix(line, "MODIFIED"):
			return
		}
	}
	c.t.Errorf("get -w showed no change (labelled: %v)", labelled)
}

func (c cli) rollouts() {
	c.t.Helper()
	status := words("rollout status deployment/web --timeout=60s")
	c.run(words("set env deployment/web GREETING=two")...)
	c.run(words("annotate deployment web kubernetes.io/change-cause=second --overwrite")...)
	c.expect(status, "successfully rolled out")
	c.expect(words("rollout history deployment/web"), "REVISION", "first", "second")

	c.expect(words("rollout pause deployment/web"), "paused")
	c.expect([]string{"set", "image", "deployment/web", "probe=skep.dev/none:1"}, "image updated")
	time.Sleep(300 * time.Millisecond) // long enough for a controller that ignores the pause to act
	if images := c.run(words("get pods -o jsonpath={.items[*].spec.containers[0].image}")...); strings.Contains(images, "none") {
		c.t.Errorf("a paused deployment rolled out: %s", images)
	}
	c.expect([]string{"set", "image", "deployment/web", "probe=" + probeimage.Ref}, "image updated")
	c.expect(words("rollout resume deployment/web"), "resumed")
	c.expect(status, "successfully rolled out")

	c.expect(words("rollout undo deployment/web --to-revision=1"), "rolled back")
	c.expect(status, "successfully rolled out")
	if env := c.run("get", "deployment", "web", "-o", "jsonpath={.spec.template.spec.containers[0].env[0].value}"); env != "one" {
		c.t.Errorf("after undo --to-revision=1 GREETING is %q", env)
	}
}

func (c cli) logsAndExec() {
	c.t.Helper()
	pod := strings.TrimSpace(c.run(words("get pods -o jsonpath={.items[0].metadata.name}")...))
	c.expect([]string{"logs", pod}, pod+" serves :8080")
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	follow := c.command(ctx, "logs", "-f", pod)
	out, err := follow.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := follow.Start(); err != nil {
		c.t.Fatal(err)
	}
	scanner := bufio.NewScanner(out)
	if !scanner.Scan() || !strings.Contains(scanner.Text(), "serves") {
		c.t.Errorf("logs -f printed %q", scanner.Text())
	}
	c.expect([]string{"exec", pod, "--", "/probe", "get", "http://127.0.0.1:8080"}, `"ok":1`)
	if out, err := c.try("exec", pod, "--", "/probe", "nonsense"); err == nil || !strings.Contains(out, "usage: probe") {
		c.t.Errorf("exec of a failing command: %v, %s", err, out)
	}
	c.run("delete", "pod", pod)
	for scanner.Scan() { // ends when the container does
	}
	if err := follow.Wait(); err != nil {
		c.t.Errorf("logs -f did not end well with its container: %v", err)
	}
}

func (c cli) edits() {
	c.t.Helper()
	editor := filepath.Join(c.t.TempDir(), "editor")
	if err := os.WriteFile(editor, []byte("#!/bin/sh\nsed -i 's/^  replicas: 3/  replicas: 1/' \"$1\"\n"), 0o700); err != nil {
		c.t.Fatal(err)
	}
	cmd := c.command(c.t.Context(), "edit", "deployment", "web")
	cmd.Env = append(cmd.Env, "KUBE_EDITOR="+editor)
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "edited") {
		c.t.Errorf("edit: %v\n%s", err, out)
	}
	if replicas := c.run("get", "deployment", "web", "-o", "jsonpath={.spec.replicas}"); replicas != "1" {
		c.t.Errorf("after edit replicas is %s", replicas)
	}
}
