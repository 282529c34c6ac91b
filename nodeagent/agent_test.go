// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"

	"skep.dev/skep/nodeagent/cgroup"
	"skep.dev/skep/nodeagent/image"
	"skep.dev/skep/nodeagent/podlog"
	"skep.dev/skep/nodeagent/podnet"
	"skep.dev/skep/nodeagent/runtime"
	"skep.dev/skep/nodeagent/runtime/runtimetest"

	"github.com/moby/sys/mountinfo"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The tests run as the container logger, too: the agent starts its own executable for that.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == podlog.Command {
		if err := podlog.RunLogger(context.Background(), os.Args[2], slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// loopNet gives each pod a network namespace with nothing but loopback, so no packet can leave.
type loopNet struct {
	dir string
	mu  sync.Mutex // guards pods
	pod map[string]podnet.Attachment
}

func (n *loopNet) SetPodCIDRs([]netip.Prefix) error { return nil }

func (n *loopNet) Reserve(ctx context.Context, pod podnet.Pod) (podnet.Attachment, error) {
	return n.Attach(ctx, pod)
}

func (n *loopNet) Attach(_ context.Context, pod podnet.Pod) (podnet.Attachment, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a, ok := n.pod[pod.UID]; ok {
		return a, nil
	}
	path := filepath.Join(n.dir, pod.UID)
	done := make(chan error)
	go func() { done <- pinLoopback(path) }()
	if err := <-done; err != nil {
		return podnet.Attachment{}, err
	}
	a := podnet.Attachment{NetNS: path, Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, IfName: "none"}
	n.pod[pod.UID] = a
	return a, nil
}

func pinLoopback(path string) error {
	goruntime.LockOSThread()
	ns, err := netns.New()
	if err != nil {
		return err
	}
	defer ns.Close()
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	f.Close()
	return unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
}

func (n *loopNet) Detach(_ context.Context, uid string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a, ok := n.pod[uid]; ok {
		delete(n.pod, uid)
		return errors.Join(unix.Unmount(a.NetNS, unix.MNT_DETACH), os.Remove(a.NetNS))
	}
	return nil
}

func (n *loopNet) Lookup(uid string) (podnet.Attachment, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a, ok := n.pod[uid]
	return a, ok
}

func (n *loopNet) Pods() []podnet.Pod {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []podnet.Pod
	for uid := range n.pod {
		out = append(out, podnet.Pod{UID: uid})
	}
	return out
}

// gate is the policy and the other nodes: open unless a test holds it.
type gate struct{ hold, current, known chan struct{} }

func (g gate) Wait(ctx context.Context, _ string) { _ = g.wait(ctx, g.known) }

func (g gate) WaitCurrent(ctx context.Context, _ *v1.Pod, _ func(error)) error {
	return g.wait(ctx, g.current)
}

func (g gate) WaitEnforced(ctx context.Context, _ string) error { return g.wait(ctx, g.hold) }

func (g gate) wait(ctx context.Context, hold chan struct{}) error {
	if hold == nil {
		return nil
	}
	select {
	case <-hold:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// node is an agent on a private containerd with an in-memory API.
type node struct {
	t      *testing.T
	client *fake.Clientset
	ctr    *runtimetest.Containerd
	net    *loopNet
	cfg    Config
	gate   gate
	events *record.FakeRecorder
	puller image.Puller

	agent *agent
	stop  func()
}

func newNode(t *testing.T, objects ...*v1.Pod) *node {
	t.Helper()
	if testing.Short() {
		t.Skip("starts containers")
	}
	removeDeadNodes()
	dir, err := os.MkdirTemp("", fmt.Sprintf("skep-agent-%d-", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	parent := fmt.Sprintf("/skep-test-%d-%s", os.Getpid(), strings.ToLower(t.Name()))
	t.Cleanup(func() {
		if tree, err := cgroup.Open(); err == nil {
			if err := tree.Remove(parent); err != nil {
				t.Errorf("remove control groups: %v", err)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("something is still mounted: %v", err)
		}
	})
	n := &node{t: t, client: fake.NewClientset(), ctr: runtimetest.Start(t), net: &loopNet{dir: dir, pod: map[string]podnet.Attachment{}}}
	if _, err := image.Import(runtimetest.Context(t), n.ctr.Client, runtimetest.BusyboxTar(t)); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	level := slog.LevelWarn
	if testing.Verbose() {
		level = slog.LevelDebug
	}
	n.cfg = Config{
		NodeName: "node1", NodeAddrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Credentials: dir, ContainerdSocket: n.ctr.Socket,
		ContainerdNamespace: n.ctr.Namespace, DataDir: filepath.Join(dir, "data"), RunDir: filepath.Join(dir, "run"), CgroupParent: parent,
		Uplink: "none", Executable: exe, Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level})),
		ClusterDNS: []netip.Addr{netip.MustParseAddr("10.96.0.10")},
	}
	if err := n.cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	if err := n.cfg.setDefaults(); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{n.cfg.DataDir, n.cfg.RunDir, n.cfg.LogRoot} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(n.cleanUp)
	return n
}

// removeDeadNodes cleans up after test processes that died: logger, mounts, control groups.
func removeDeadNodes() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), "skep-agent-*-*"))
	for _, dir := range dirs {
		pid := strings.Split(filepath.Base(dir), "-")[2]
		if _, err := os.Stat("/proc/" + pid); err == nil {
			continue
		}
		if logger, err := strconv.Atoi(fileText(filepath.Join(dir, "run", "log", podlog.PIDName))); err == nil {
			if strings.Contains(fileText(fmt.Sprintf("/proc/%d/cmdline", logger)), dir) {
				_ = unix.Kill(logger, unix.SIGKILL)
			}
		}
		mounts, _ := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
		for i := len(mounts) - 1; i >= 0; i-- {
			_ = unix.Unmount(mounts[i].Mountpoint, unix.MNT_DETACH)
		}
		_ = os.RemoveAll(dir)
		if tree, err := cgroup.Open(); err == nil {
			for _, name := range tree.Children("/") {
				if strings.HasPrefix(name, "skep-test-"+pid+"-") {
					_ = tree.Remove("/" + name)
				}
			}
		}
	}
}

// up starts an agent as Run does, with the test's network and policy.
func (n *node) up() {
	n.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	a, err := newAgent(ctx, n.cfg, n.client)
	if err != nil {
		n.t.Fatal(err)
	}
	a.net, a.policy, a.others = n.net, n.gate, n.gate
	if n.puller != nil {
		a.puller = n.puller
	}
	if err := a.logs.Ensure(ctx); err != nil {
		n.t.Fatal(err)
	}
	n.events = record.NewFakeRecorder(10000)
	a.recorder = n.events
	if err := a.adoptAll(ctx); err != nil {
		n.t.Fatal(err)
	}
	a.cidrOnce.Do(func() { close(a.cidrReady) })
	all := informers.NewSharedInformerFactory(n.client, 0)
	a.services = all.Core().V1().Services().Lister()
	services := all.Core().V1().Services().Informer()
	all.Start(ctx.Done())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := a.runPods(ctx, services); err != nil {
			n.t.Errorf("runPods: %v", err)
		}
		a.running.Wait()
	}()
	supervised := make(chan struct{})
	go func() {
		defer close(supervised)
		a.logs.Supervise(ctx)
	}()
	n.agent = a
	n.stop = func() {
		cancel()
		<-done
		<-supervised
		all.Shutdown()
		a.containerd.Close()
		n.stop = nil
	}
}

func (n *node) cleanUp() {
	ctx := context.Background()
	if n.agent == nil {
		return
	}
	if n.stop == nil {
		n.up()
	}
	for _, uid := range n.uids() {
		// The pod's worker removes ended containers at the same time, so a call may meet a shim that is leaving.
		short, cancel := context.WithTimeout(ctx, 20*time.Second)
		if err := retry(short, 50*time.Millisecond, time.Second, func() error { return n.agent.remove(short, uid, true) }, func(error) {}); err != nil {
			n.t.Errorf("remove pod %s: %v", uid, err)
		}
		cancel()
	}
	n.stop()
	if err := n.agent.logs.Stop(ctx); err != nil {
		n.t.Errorf("stop logger: %v", err)
	}
}

func (n *node) uids() []string {
	var out []string
	for uid := range n.agent.traces() {
		out = append(out, uid)
	}
	return out
}

func testPod(name string, containers ...v1.Container) *v1.Pod {
	grace := int64(2)
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name + "-uid"), Labels: map[string]string{"app": name}},
		Spec:       v1.PodSpec{NodeName: "node1", RestartPolicy: v1.RestartPolicyAlways, TerminationGracePeriodSeconds: &grace, Containers: containers},
	}
}

func shell(name, script string) v1.Container {
	return v1.Container{Name: name, Image: runtimetest.Image, ImagePullPolicy: v1.PullIfNotPresent, Command: []string{"sh", "-c", script}}
}

func (n *node) create(pod *v1.Pod) {
	n.t.Helper()
	if _, err := n.client.CoreV1().Pods(pod.Namespace).Create(context.Background(), pod, metav1.CreateOptions{}); err != nil {
		n.t.Fatal(err)
	}
}

// await waits until the pod in the API satisfies ok.
func (n *node) await(name, what string, ok func(*v1.Pod) bool) *v1.Pod {
	n.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		pod, err := n.client.CoreV1().Pods("default").Get(context.Background(), name, metav1.GetOptions{})
		if err == nil && ok(pod) {
			return pod
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("pod %s: no %s; status %s; events %v", name, what, summary(pod), n.recorded())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func summary(pod *v1.Pod) string {
	if pod == nil {
		return "none"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s:", pod.Status.Phase, pod.Status.Reason)
	for _, c := range append(append([]v1.ContainerStatus{}, pod.Status.InitContainerStatuses...), pod.Status.ContainerStatuses...) {
		fmt.Fprintf(&b, " %s ready=%v restarts=%d %s", c.Name, c.Ready, c.RestartCount, c.State.String())
	}
	return b.String()
}

func (n *node) recorded() []string {
	var out []string
	for {
		select {
		case e := <-n.events.Events:
			out = append(out, e)
		default:
			return out
		}
	}
}

func isReady(pod *v1.Pod) bool { return conditionIs(pod, v1.PodReady, v1.ConditionTrue) }

func conditionIs(pod *v1.Pod, t v1.PodConditionType, want v1.ConditionStatus) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == t {
			return c.Status == want
		}
	}
	return false
}

func (n *node) log(pod *v1.Pod, container string, attempt int) string {
	data, err := os.ReadFile(podlog.Path(n.cfg.LogRoot, pod.Namespace, pod.Name, string(pod.UID), container, attempt))
	if err != nil {
		return err.Error()
	}
	return string(data)
}

var _ runtime.Runtime = (*runtime.Containerd)(nil)
