// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"encoding/base64"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	nodeimage "skep.dev/skep/nodeagent/image"
	"skep.dev/skep/nodeagent/podlog"
	"skep.dev/skep/nodeagent/podsync"
	"skep.dev/skep/nodeagent/runtime/runtimetest"
)

func waiting(reason, message string) func(*v1.Pod) bool {
	return func(p *v1.Pod) bool {
		for _, c := range p.Status.ContainerStatuses {
			if w := c.State.Waiting; w != nil && w.Reason == reason && strings.Contains(w.Message, message) {
				return true
			}
		}
		return false
	}
}

const cannotStart = `OCI runtime create failed: runc create failed: unable to start container process: exec: "/no/such/command": stat /no/such/command: no such file or directory`

func TestTroubleIsNamed(t *testing.T) {
	n := newNode(t)
	n.up()
	image := func(img string, policy v1.PullPolicy) v1.Container {
		return v1.Container{Name: "c", Image: img, ImagePullPolicy: policy}
	}
	missing := shell("c", "true")
	missing.EnvFrom = []v1.EnvFromSource{{SecretRef: &v1.SecretEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "nope"}}}}
	nonRoot := shell("c", "true")
	yes := true
	nonRoot.SecurityContext = &v1.SecurityContext{RunAsNonRoot: &yes}
	noCommand := shell("c", "")
	noCommand.Command = []string{"/no/such/command"}
	for _, c := range []struct {
		pod             string
		c               v1.Container
		reason, message string
		event           string
	}{
		{"never", image("absent:1", v1.PullNever), "ErrImageNeverPull", `Container image "absent:1" is not present with pull policy of Never`, "ErrImageNeverPull"},
		{"invalid", image("UPPER:case", v1.PullIfNotPresent), "InvalidImageName", "couldn't parse image name", "InspectFailed"},
		{"refused", image("127.0.0.1:1/x:1", v1.PullIfNotPresent), "ErrImagePull", "connection refused", "Failed to pull image"},
		{"backoff", image("127.0.0.1:1/x:1", v1.PullIfNotPresent), "ImagePullBackOff", `Back-off pulling image "127.0.0.1:1/x:1"`, "Back-off pulling image"},
		{"secret", missing, "CreateContainerConfigError", `secret "nope" not found`, `Error: secret "nope" not found`},
		{"nonroot", nonRoot, "CreateContainerConfigError", "runAsNonRoot", "runAsNonRoot"},
		{"command", noCommand, "RunContainerError", cannotStart, "Error: " + cannotStart},
		{"command", noCommand, "CrashLoopBackOff", "back-off 10s restarting failed container=c pod=command_default(command-uid)", "Back-off restarting failed container c"},
		{"user", v1.Container{Name: "c", Image: n.imageOfNobody()}, "CreateContainerError", `find user "nosuchuser" in the image`, `Error: find user "nosuchuser"`},
		{"crash", shell("c", "exit 3"), "CrashLoopBackOff", "back-off 10s restarting failed container=c pod=crash_default(crash-uid)", "Back-off restarting failed container c in pod crash_default(crash-uid)"},
	} {
		if _, err := n.client.CoreV1().Pods("default").Get(context.Background(), c.pod, metav1.GetOptions{}); err != nil {
			n.create(testPod(c.pod, c.c))
		}
		n.await(c.pod, c.reason, waiting(c.reason, c.message))
		waitFor(t, "event "+c.event, func() bool { return strings.Contains(strings.Join(n.recorded(), "\n"), c.event) })
	}
	crashed := n.await("crash", "state", waiting("CrashLoopBackOff", "")).Status.ContainerStatuses[0]
	if last := crashed.LastTerminationState.Terminated; last == nil || last.ExitCode != 3 || last.Reason != "Error" || crashed.RestartCount != 1 {
		t.Errorf("crash status %+v", crashed)
	}
	cannot := n.await("command", "state", waiting("CrashLoopBackOff", "")).Status.ContainerStatuses[0]
	if last := cannot.LastTerminationState.Terminated; last == nil || last.ExitCode != 128 || last.Reason != "StartError" || last.Message != cannotStart || cannot.RestartCount != 1 {
		t.Errorf("status of a command that does not exist %+v", cannot)
	}
	once := testPod("once", noCommand)
	once.Spec.RestartPolicy = v1.RestartPolicyNever
	n.create(once)
	ended := n.await("once", "failure", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed }).Status.ContainerStatuses[0]
	if end := ended.State.Terminated; end == nil || end.ExitCode != 128 || end.Reason != "StartError" || end.Message != cannotStart {
		t.Errorf("status of a command that does not exist and is tried once %+v", ended)
	}
	n.remove("crash")
	n.remove("backoff")
}

// imageOfNobody is an image whose user its account files do not have.
func (n *node) imageOfNobody() string {
	n.t.Helper()
	img := runtimetest.BusyboxImage(n.t)
	cfg, err := img.ConfigFile()
	if err != nil {
		n.t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.Config.User = "nosuchuser"
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		n.t.Fatal(err)
	}
	tag, err := name.NewTag("docker.io/library/skep-nobody:1")
	if err != nil {
		n.t.Fatal(err)
	}
	path := filepath.Join(n.t.TempDir(), "nobody.tar")
	if err := tarball.WriteToFile(path, tag, img); err != nil {
		n.t.Fatal(err)
	}
	if _, err := nodeimage.Import(runtimetest.Context(n.t), n.ctr.Client, path); err != nil {
		n.t.Fatal(err)
	}
	return tag.String()
}

func TestWhatAUserMendsIsTriedAgainSoon(t *testing.T) {
	n := newNode(t)
	n.up()
	pod := testPod("patient", shell("c", "echo $key; sleep 600"))
	pod.Spec.Containers[0].EnvFrom = []v1.EnvFromSource{{ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "late"}}}}
	n.create(pod)
	n.await("patient", "first refusal", waiting("CreateContainerConfigError", `configmap "late" not found`))
	w := n.agent.worker(pod.UID)
	state := func() podsync.Container { c, _ := w.ask("c"); return c }
	// However often it was tried, the wait stays short.
	for range 5 {
		before := state().RetryAt
		w.post(func() { w.container("c").RetryAt = time.Now() })
		waitFor(t, "another try", func() bool {
			c := state()
			return c.RetryAt.After(before) && c.Phase == podsync.None && time.Until(c.RetryAt) > time.Second
		})
	}
	if left := time.Until(state().RetryAt); left > startRetry {
		t.Errorf("next try in %v", left)
	}
	if _, err := n.client.CoreV1().ConfigMaps("default").Create(context.Background(), &v1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "late", Namespace: "default"}, Data: map[string]string{"key": "value"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	n.await("patient", "readiness", isReady)
}

func TestLivenessRestartsAndReadinessFollows(t *testing.T) {
	n := newNode(t)
	n.up()
	pod := testPod("live", shell("main", "trap 'exit 0' TERM; touch /tmp/ok /tmp/ready; while true; do sleep 0.05; done"))
	probe := func(file string) *v1.Probe {
		return &v1.Probe{PeriodSeconds: 1, FailureThreshold: 1, ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"test", "-e", file}}}}
	}
	pod.Spec.Containers[0].LivenessProbe, pod.Spec.Containers[0].ReadinessProbe = probe("/tmp/ok"), probe("/tmp/ready")
	// A TCP probe of a port that nobody listens on, in another pod: never ready.
	other := testPod("deaf", shell("main", "sleep 600"))
	other.Spec.Containers[0].ReadinessProbe = &v1.Probe{PeriodSeconds: 1, ProbeHandler: v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt32(1)}}}
	n.create(pod)
	n.create(other)
	n.await("live", "readiness", isReady)
	exec := func(script string) {
		t.Helper()
		c, ok := n.agent.worker(pod.UID).ask("main")
		if !ok {
			t.Fatal("no container")
		}
		if code, out, err := n.agent.execOutput(context.Background(), c.ID, []string{"sh", "-c", script}); err != nil || code != 0 {
			t.Fatalf("%s: %d %s %v", script, code, out, err)
		}
	}
	exec("rm -f /tmp/ready || busybox rm /tmp/ready")
	n.await("live", "unreadiness", func(p *v1.Pod) bool { return !isReady(p) })
	exec("touch /tmp/ready")
	n.await("live", "readiness again", isReady)
	exec("busybox rm /tmp/ok")
	n.await("live", "restart", func(p *v1.Pod) bool { return isReady(p) && p.Status.ContainerStatuses[0].RestartCount == 1 })
	events := strings.Join(n.recorded(), "\n")
	for _, want := range []string{"Liveness probe failed", "Container main failed liveness probe, will be restarted", "Readiness probe failed: dial tcp 127.0.0.1:1: connect: connection refused"} {
		if !strings.Contains(events, want) {
			t.Errorf("no event %q in\n%s", want, events)
		}
	}
	if p := n.await("deaf", "start", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodRunning }); isReady(p) {
		t.Error("ready without a listener")
	}
}

func TestPullsFromARegistryWithCredentials(t *testing.T) {
	n := newNode(t)
	inner := registry.New(registry.Logger(log.New(t.Output(), "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, pass, _ := r.BasicAuth(); user != "bee" || pass != "honey" {
			w.Header().Set("WWW-Authenticate", `Basic realm="hive"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	tag, err := name.NewTag(host + "/team/app:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, runtimetest.BusyboxImage(t), remote.WithAuth(&authn.Basic{Username: "bee", Password: "honey"})); err != nil {
		t.Fatal(err)
	}
	n.up()
	auth := base64.StdEncoding.EncodeToString([]byte("bee:honey"))
	secret := &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "pull", Namespace: "default"}, Type: v1.SecretTypeDockerConfigJson,
		Data: map[string][]byte{v1.DockerConfigJsonKey: fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, host, auth)}}
	if _, err := n.client.CoreV1().Secrets("default").Create(context.Background(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	without := testPod("without", v1.Container{Name: "c", Image: tag.String(), ImagePullPolicy: v1.PullAlways})
	n.create(without)
	n.await("without", "refusal", waiting("ErrImagePull", "authorization failed"))
	with := testPod("with", v1.Container{Name: "c", Image: tag.String(), ImagePullPolicy: v1.PullAlways})
	with.Spec.ImagePullSecrets = []v1.LocalObjectReference{{Name: "pull"}}
	n.create(with)
	got := n.await("with", "readiness", isReady)
	if id := got.Status.ContainerStatuses[0].ImageID; !strings.HasPrefix(id, host+"/team/app@sha256:") {
		t.Errorf("image ID %s", id)
	}
	if events := strings.Join(n.recorded(), "\n"); !strings.Contains(events, `Successfully pulled image "`+tag.String()+`" in `) {
		t.Errorf("events %s", events)
	}
}

func TestKilledLoggerLosesNothing(t *testing.T) {
	n := newNode(t)
	n.up()
	pod := testPod("talker", shell("main", "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.002; done"))
	n.create(pod)
	n.await("talker", "readiness", isReady)
	for range 3 {
		waitFor(t, "lines", func() bool { return strings.Count(n.log(pod, "main", 0), "\n") > 20 })
		pid, err := strconv.Atoi(fileText(n.agent.logs.Dir() + "/" + podlog.PIDName))
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "another logger", func() bool {
			now, err := strconv.Atoi(fileText(n.agent.logs.Dir() + "/" + podlog.PIDName))
			return err == nil && now != pid
		})
		before := strings.Count(n.log(pod, "main", 0), "\n")
		waitFor(t, "more lines", func() bool { return strings.Count(n.log(pod, "main", 0), "\n") > before+20 })
	}
	if !contiguous(strings.TrimRight(n.log(pod, "main", 0), "\x00")) {
		t.Error("lines are missing")
	}
	if _, err := os.Stat(n.agent.logs.Dir()); err != nil {
		t.Error(err)
	}
}
