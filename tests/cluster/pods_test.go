// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	reference "github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"skep.dev/skep/tests/probeimage"
)

// TestPodsThatCannotRun shows what a user sees when something is wrong: one clear reason each.
func TestPodsThatCannotRun(t *testing.T) {
	ns := namespace(t, "unwell")
	bad := func(name string, change func(*corev1.Pod)) {
		pod := probePod(name, "", nil)
		change(pod)
		if _, err := client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	bad("never", func(p *corev1.Pod) {
		p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = "skep.dev/none:1", corev1.PullNever
	})
	bad("crash", func(p *corev1.Pod) { p.Spec.Containers[0].Args = []string{"nonsense"} })
	bad("nocommand", func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"/does-not-exist"} })
	bad("big", func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4000")}
	})
	bad("noconfig", func(p *corev1.Pod) {
		p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "absent"}}}}
	})
	bad("unready", func(p *corev1.Pod) {
		p.Spec.Containers[0].ReadinessProbe.HTTPGet.Port.IntVal, p.Spec.Containers[0].ReadinessProbe.HTTPGet.Port.Type = 81, 0
	})

	waitPod(t, ns, "never", "says ErrImageNeverPull", waitingFor("ErrImageNeverPull"))
	waitPod(t, ns, "crash", "says CrashLoopBackOff", waitingFor("CrashLoopBackOff"))
	waitPod(t, ns, "nocommand", "says why it cannot start", waitingFor("RunContainerError", "CrashLoopBackOff"))
	waitPod(t, ns, "noconfig", "says CreateContainerConfigError", waitingFor("CreateContainerConfigError"))
	waitPod(t, ns, "big", "is Unschedulable", func(p *corev1.Pod) bool {
		for _, condition := range p.Status.Conditions {
			if condition.Type == corev1.PodScheduled && condition.Reason == corev1.PodReasonUnschedulable {
				return strings.Contains(condition.Message, "Insufficient cpu")
			}
		}
		return false
	})
	eventually(t, 20*time.Second, func() error { return hasEvent(t, ns, "big", "FailedScheduling", "Insufficient cpu") })
	eventually(t, 20*time.Second, func() error { return hasEvent(t, ns, "unready", "Unhealthy", "Readiness probe failed") })
	eventually(t, 20*time.Second, func() error { return hasEvent(t, ns, "crash", "BackOff", "Back-off restarting failed container") })
}

func waitingFor(reasons ...string) func(*corev1.Pod) bool {
	return func(pod *corev1.Pod) bool {
		for _, status := range pod.Status.ContainerStatuses {
			for _, reason := range reasons {
				if status.State.Waiting != nil && status.State.Waiting.Reason == reason {
					return true
				}
			}
		}
		return false
	}
}

func hasEvent(t *testing.T, ns, pod, reason, text string) error {
	events, err := client.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod})
	if err != nil {
		return err
	}
	var seen []string
	for _, event := range events.Items {
		if event.Reason == reason && strings.Contains(event.Message, text) {
			return nil
		}
		seen = append(seen, event.Reason+": "+event.Message)
	}
	return &missing{what: "event " + reason + " with " + text, seen: seen}
}

type missing struct {
	what string
	seen []string
}

func (m *missing) Error() string { return "no " + m.what + "; seen:\n" + strings.Join(m.seen, "\n") }

// TestPull runs an image from a registry that the test starts on loopback.
func TestPull(t *testing.T) {
	server := httptest.NewServer(registry.New())
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	image, err := probeimage.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	tag, err := reference.NewTag(host+"/pulled:1", reference.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, image); err != nil {
		t.Fatal(err)
	}
	ns := namespace(t, "pull")
	pod := probePod("pulled", "", nil)
	pod.Spec.Containers[0].Image, pod.Spec.Containers[0].ImagePullPolicy = tag.Name(), corev1.PullAlways
	createPods(t, ns, pod)
	if err := hasEvent(t, ns, "pulled", "Pulled", "Successfully pulled image"); err != nil {
		t.Error(err)
	}

	absent := probePod("absent", "", nil)
	absent.Spec.Containers[0].Image = host + "/absent:1"
	if _, err := client.CoreV1().Pods(ns).Create(t.Context(), absent, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	waitPod(t, ns, "absent", "says ImagePullBackOff", waitingFor("ImagePullBackOff"))
}

const everything = `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: green, file.txt: from a config map}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {password: hunter2}
---
apiVersion: v1
kind: Pod
metadata: {name: everything, labels: {app: all}}
spec:
  terminationGracePeriodSeconds: 0
  volumes:
  - {name: scratch, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory}}
  - {name: settings, configMap: {name: settings}}
  - {name: keys, secret: {secretName: keys}}
  initContainers:
  - name: first
    image: IMAGE
    command: [/bin/sh, -c, 'echo first > /scratch/order']
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  - name: second
    image: IMAGE
    command: [/bin/sh, -c, 'echo second >> /scratch/order']
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  containers:
  - name: main
    image: IMAGE
    command: [/bin/sh, -c, 'echo started; trap "exit 0" TERM; while true; do sleep 1; done']
    env:
    - {name: PLAIN, value: value}
    - {name: EXPANDED, value: "<$(PLAIN)>"}
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: keys, key: password}}}
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: ADDRESS, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    resources: {limits: {cpu: 500m, memory: 64Mi}}
    volumeMounts:
    - {name: scratch, mountPath: /scratch}
    - {name: memory, mountPath: /memory}
    - {name: settings, mountPath: /settings}
    - {name: keys, mountPath: /keys, readOnly: true}
    livenessProbe: {exec: {command: [/bin/true]}, periodSeconds: 1}
    readinessProbe: {exec: {command: [/bin/sh, -c, 'test -f /scratch/order']}, periodSeconds: 1}
  - name: side
    image: IMAGE
    command: [/bin/sh, -c, 'nc -l -p 7777 -e cat; while true; do sleep 1; done']
`

// TestPodFeatures runs one pod that uses what an ordinary pod may use, and looks at it from inside.
func TestPodFeatures(t *testing.T) {
	ns := namespace(t, "features")
	busybox, err := probeimage.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	if err := load(busybox, probeimage.BusyboxRef); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "all.yaml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(everything, "IMAGE", probeimage.BusyboxRef)), 0o600); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "apply", "-n", ns, "-f", file)
	pod := waitReady(t, ns, "everything")
	inside := map[string]string{
		"cat /scratch/order":                                   "first\nsecond",
		"echo $PLAIN $EXPANDED $COLOUR $PASSWORD $POD":         "value <value> green hunter2 everything",
		"echo $ADDRESS":                                        pod.Status.PodIP,
		"cat /settings/file.txt":                               "from a config map",
		"cat /keys/password":                                   "hunter2",
		"grep -c ' /memory tmpfs ' /proc/mounts":               "1",
		"hostname":                                             "everything",
		"ls /var/run/secrets/kubernetes.io/serviceaccount":     "ca.crt\nnamespace\ntoken",
		"grep -o svc.cluster.local /etc/resolv.conf | head -1": "svc.cluster.local",
		"echo hello | nc 127.0.0.1 7777":                       "hello",
		"cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max": "67108864",
	}
	for command, want := range inside {
		got := strings.TrimSpace(kubectl(t, "exec", "-n", ns, "everything", "-c", "main", "--", "/bin/sh", "-c", command))
		if got != want {
			t.Errorf("%s: %q, not %q", command, got, want)
		}
	}
	kubectl(t, "patch", "configmap", "settings", "-n", ns, "--type=merge", "-p", `{"data":{"file.txt":"changed"}}`)
	eventually(t, 90*time.Second, func() error {
		got := strings.TrimSpace(kubectl(t, "exec", "-n", ns, "everything", "-c", "main", "--", "/bin/cat", "/settings/file.txt"))
		if got != "changed" {
			return &missing{what: "change in the mounted config map", seen: []string{got}}
		}
		return nil
	})
}
