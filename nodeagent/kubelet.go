// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	goruntime "runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-client/pkg/logs"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"skep.dev/skep/nodeagent/kubeletapi"
	"skep.dev/skep/nodeagent/podlog"
	"skep.dev/skep/nodeagent/podsync"
	"skep.dev/skep/nodeagent/runtime"
)

// serveKubelet serves the kubelet API until ctx ends.
func (a *agent) serveKubelet(ctx context.Context) error {
	conf, err := kubeletapi.TLSConfig(a.cfg.Credentials)
	if err != nil {
		return fmt.Errorf("kubelet API: %w", err)
	}
	addr := net.JoinHostPort("", strconv.Itoa(int(a.cfg.KubeletPort)))
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("kubelet API: port %d is taken by another process; stop it or choose another port for the agent", a.cfg.KubeletPort)
	}
	if err != nil {
		return fmt.Errorf("kubelet API: %w", err)
	}
	srv := &http.Server{
		Handler: kubeletapi.Handler(nodeAPI{a}, a.log), TLSConfig: conf, ReadHeaderTimeout: 30 * time.Second,
		ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("kubelet API: %w", err)
	}
	return nil
}

// nodeAPI answers the kubelet API from the agent's workers.
type nodeAPI struct{ a *agent }

var _ kubeletapi.Node = nodeAPI{}

// knownWait bounds how long a request waits for an agent that has just started to learn of its pods.
const knownWait = 10 * time.Second

// find returns a pod's worker, or nil. Right after a start it waits for the pods to be known: their containers run, after all.
func (n nodeAPI) find(namespace, name string) *worker {
	select {
	case <-n.a.podsKnown:
	case <-time.After(knownWait):
	}
	n.a.mu.Lock()
	defer n.a.mu.Unlock()
	for _, w := range n.a.workers {
		if pod := w.snapshot(); pod.Namespace == namespace && pod.Name == name {
			return w
		}
	}
	return nil
}

// Pods implements kubeletapi.Node.
func (n nodeAPI) Pods() []v1.Pod {
	n.a.mu.Lock()
	defer n.a.mu.Unlock()
	out := make([]v1.Pod, 0, len(n.a.workers))
	for _, w := range n.a.workers {
		out = append(out, *w.snapshot())
	}
	return out
}

// CheckContainer implements kubeletapi.Node.
func (n nodeAPI) CheckContainer(namespace, pod, name string) (string, error) {
	w := n.find(namespace, pod)
	if w == nil {
		return "", fmt.Errorf("pod %q %w on this node", pod, kubeletapi.ErrNotFound)
	}
	uid := string(w.uid)
	if name == "" {
		return uid, nil
	}
	c, ok := w.ask(name)
	if !ok {
		return "", fmt.Errorf("container %s %w in pod %s", name, kubeletapi.ErrNotFound, pod)
	}
	if c.Phase != podsync.Running && c.Phase != podsync.Stopping {
		return "", fmt.Errorf("container %s in pod %s is not running", name, pod)
	}
	return uid, nil
}

// ask returns a copy of a container's state from the worker's goroutine.
func (w *worker) ask(name string) (podsync.Container, bool) {
	type answer struct {
		c  podsync.Container
		ok bool
	}
	got := make(chan answer, 1)
	w.post(func() {
		if c := w.containers[name]; c != nil {
			got <- answer{c.Container, true}
			return
		}
		got <- answer{ok: findContainer(w.pod, name) != nil}
	})
	select {
	case a := <-got:
		return a.c, a.ok
	case <-time.After(5 * time.Second):
		return podsync.Container{}, false // the pod has just gone
	}
}

func (n nodeAPI) running(uid, name string) (podsync.Container, error) {
	w := n.a.worker(types.UID(uid))
	if w == nil {
		return podsync.Container{}, fmt.Errorf("pod %w on this node", kubeletapi.ErrNotFound)
	}
	c, ok := w.ask(name)
	if !ok || c.Phase != podsync.Running && c.Phase != podsync.Stopping {
		return podsync.Container{}, fmt.Errorf("container %s is not running", name)
	}
	return c, nil
}

// ExecInContainer implements remotecommand.Executor.
func (n nodeAPI) ExecInContainer(ctx context.Context, _, uid, name string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, timeout time.Duration) error {
	c, err := n.running(uid, name)
	if err != nil {
		return err
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	req := runtime.Exec{Command: cmd, Terminal: tty, Stdin: in, Resize: sizes(ctx, resize)}
	if out != nil {
		req.Stdout = out
	}
	if errOut != nil {
		req.Stderr = errOut
	}
	code, err := n.a.runtime.Exec(ctx, c.ID, req)
	if err != nil {
		return err
	}
	if code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
	}
	return nil
}

func sizes(ctx context.Context, in <-chan remotecommand.TerminalSize) <-chan runtime.TerminalSize {
	if in == nil {
		return nil
	}
	out := make(chan runtime.TerminalSize)
	go func() {
		defer close(out)
		for {
			select {
			case s, ok := <-in:
				if !ok {
					return
				}
				select {
				case out <- runtime.TerminalSize{Width: s.Width, Height: s.Height}:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// AttachContainer implements remotecommand.Attacher.
func (n nodeAPI) AttachContainer(ctx context.Context, _, uid, name string, in io.Reader, out, errOut io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	c, err := n.running(uid, name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for s := range sizes(ctx, resize) {
			// A container without a terminal has no size; nothing is lost.
			_ = n.a.runtime.Resize(ctx, c.ID, s)
		}
	}()
	if in != nil {
		go n.feed(ctx, uid, name, c.ID, in)
	}
	var stdout, stderr io.Writer
	if out != nil {
		stdout = out
	}
	if errOut != nil {
		stderr = errOut
	}
	return n.a.logs.Attach(ctx, c.ID, stdout, stderr)
}

// feed copies a client's input to the container's standard input, and closes that after stdinOnce.
func (n nodeAPI) feed(ctx context.Context, uid, name, id string, in io.Reader) {
	f, err := os.OpenFile(podlog.StdinPath(n.a.logs.Dir(), id), os.O_WRONLY, 0)
	if err != nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	_, _ = io.Copy(f, in)
	f.Close()
	w := n.a.worker(types.UID(uid))
	if w == nil {
		return
	}
	if spec := findContainer(w.snapshot(), name); spec != nil && spec.StdinOnce {
		if err := n.a.runtime.CloseStdin(context.WithoutCancel(ctx), id); err != nil {
			n.a.log.Debug("standard input not closed", "container", name, "err", err)
		}
	}
}

// PortForward implements portforward.PortForwarder.
func (n nodeAPI) PortForward(ctx context.Context, _, uid string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	path := ownNetwork()
	if att, ok := n.a.net.Lookup(uid); ok {
		path = att.NetNS
	}
	conn, err := dialIn(ctx, path, port)
	if err != nil {
		return fmt.Errorf("failed to connect to port %d of the pod: %w", port, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		_, _ = io.Copy(stream, conn)
		stream.Close()
	}()
	// An error from here on is this one connection's own: either side may hang up whenever it likes. Returned, it would have the
	// client give up all its other connections, too.
	if _, err := io.Copy(conn, stream); err != nil {
		n.a.log.Debug("forwarded connection broke off", "pod", uid, "err", err)
		// What nobody reads holds up all streams of the client.
		_, _ = io.Copy(io.Discard, stream)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		// The end of the client's input; the answer may come after it.
		_ = tcp.CloseWrite()
	}
	<-answered
	return nil
}

// dialIn connects to a loopback port inside a network namespace. A socket belongs to the namespace that its thread was in when it
// was made, so the thread enters, dials both families and leaves, and is given up if leaving fails.
func dialIn(ctx context.Context, path string, port int32) (net.Conn, error) {
	dial := func() (net.Conn, error) {
		var d net.Dialer
		// FallbackDelay below zero keeps the dial on this thread: no second goroutine races for IPv4.
		d.FallbackDelay = -1
		d.Timeout = 10 * time.Second
		conn, err := d.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
		if err != nil {
			if conn, err6 := d.DialContext(ctx, "tcp6", net.JoinHostPort("::1", strconv.Itoa(int(port)))); err6 == nil {
				return conn, nil
			}
		}
		return conn, err
	}
	if path == "" {
		return dial()
	}
	type result struct {
		conn net.Conn
		err  error
	}
	got := make(chan result, 1)
	go func() {
		goruntime.LockOSThread()
		conn, err := inNamespace(path, dial)
		got <- result{conn, err}
		// Locked until the end on purpose: a thread that could not go back ends with this goroutine.
	}()
	r := <-got
	return r.conn, r.err
}

func inNamespace(path string, f func() (net.Conn, error)) (net.Conn, error) {
	target, err := netns.GetFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace of pod: %w", err)
	}
	defer target.Close()
	if err := netns.Set(target); err != nil {
		return nil, fmt.Errorf("enter network namespace of pod: %w", err)
	}
	return f()
}

// Logs implements kubeletapi.Node.
func (n nodeAPI) Logs(ctx context.Context, namespace, pod, name string, opts *v1.PodLogOptions, begin func(), out io.Writer) error {
	src, err := n.logSource(ctx, namespace, pod, name, opts.Previous)
	if err != nil {
		return err
	}
	o := &logs.LogOptions{TailLines: opts.TailLines, LimitBytes: opts.LimitBytes, Follow: opts.Follow && !opts.Previous, Timestamp: opts.Timestamps}
	if opts.SinceTime != nil {
		o.Since = opts.SinceTime.Time
	}
	if opts.SinceSeconds != nil {
		o.Since = time.Now().Add(-time.Duration(*opts.SinceSeconds) * time.Second)
	}
	begin()
	stdout, stderr := out, out
	if opts.Stream != nil && *opts.Stream == v1.LogStreamStdout {
		stderr = io.Discard
	}
	if opts.Stream != nil && *opts.Stream == v1.LogStreamStderr {
		stdout = io.Discard
	}
	return logs.ReadLogs(ctx, src.path, src.id, o, src, stdout, stderr)
}

// logSource is one attempt's log and its container's state, in the form that the log reader asks for.
type logSource struct {
	internalapi.RuntimeService
	path, id string
	running  func() bool
}

// ContainerStatus tells the log reader whether more is to come.
func (s *logSource) ContainerStatus(context.Context, string, bool) (*runtimeapi.ContainerStatusResponse, error) {
	state := runtimeapi.ContainerState_CONTAINER_EXITED
	if s.running() {
		state = runtimeapi.ContainerState_CONTAINER_RUNNING
	}
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{State: state}}, nil
}

func (n nodeAPI) logSource(ctx context.Context, namespace, podName, name string, previous bool) (*logSource, error) {
	pod, attempt, id, running, err := n.logAttempt(ctx, namespace, podName, name, previous)
	if err != nil {
		return nil, err
	}
	path := podlog.Path(n.a.cfg.LogRoot, pod.Namespace, pod.Name, string(pod.UID), name, attempt)
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("log of container %q in pod %q is %w: it has been removed", name, podName, kubeletapi.ErrNotFound)
	}
	return &logSource{path: path, id: id, running: running}, nil
}

// logAttempt finds the attempt whose log is meant. Pods that ended before this agent started are known by the API only.
func (n nodeAPI) logAttempt(ctx context.Context, namespace, podName, name string, previous bool) (*v1.Pod, int, string, func() bool, error) {
	w := n.find(namespace, podName)
	if w == nil {
		return n.logOfEnded(ctx, namespace, podName, name, previous)
	}
	c, ok := w.ask(name)
	switch {
	case !ok:
		return nil, 0, "", nil, fmt.Errorf("container %s is not valid for pod %s", name, podName)
	case previous && c.Attempt == 0:
		return nil, 0, "", nil, fmt.Errorf("previous terminated container %q in pod %q not found", name, podName)
	case previous:
		return w.snapshot(), c.Attempt - 1, "", func() bool { return false }, nil
	case c.ID == "":
		return nil, 0, "", nil, fmt.Errorf("container %q in pod %q is waiting to start: %s", name, podName, waitingReason(w.snapshot(), name))
	}
	id := c.ID
	running := func() bool {
		now, ok := w.ask(name)
		return ok && now.ID == id && (now.Phase == podsync.Running || now.Phase == podsync.Stopping)
	}
	return w.snapshot(), c.Attempt, id, running, nil
}

func waitingReason(pod *v1.Pod, name string) string {
	if s := containerStatus(pod, name); s != nil && s.State.Waiting != nil {
		switch s.State.Waiting.Reason {
		case "ErrImagePull", "ImagePullBackOff":
			return "trying and failing to pull image"
		default:
			return s.State.Waiting.Reason
		}
	}
	return "ContainerCreating"
}

func (n nodeAPI) logOfEnded(ctx context.Context, namespace, podName, name string, previous bool) (*v1.Pod, int, string, func() bool, error) {
	pod, err := n.a.client.CoreV1().Pods(namespace).Get(ctx, podName, metav1.GetOptions{})
	if err != nil || pod.Spec.NodeName != n.a.cfg.NodeName {
		return nil, 0, "", nil, fmt.Errorf("pod %q %w on this node", podName, kubeletapi.ErrNotFound)
	}
	s := containerStatus(pod, name)
	if s == nil {
		return nil, 0, "", nil, fmt.Errorf("container %s is not valid for pod %s", name, podName)
	}
	attempt := int(s.RestartCount)
	if previous {
		attempt--
	}
	if attempt < 0 {
		return nil, 0, "", nil, fmt.Errorf("previous terminated container %q in pod %q not found", name, podName)
	}
	return pod, attempt, "", func() bool { return false }, nil
}

// lastLogLines is the end of a container's newest log, for its termination message.
func (a *agent) lastLogLines(pod *v1.Pod, name string, lines int64, limit int) string {
	w := a.worker(pod.UID)
	if w == nil {
		return ""
	}
	c, ok := w.ask(name)
	if !ok {
		return ""
	}
	out := &limitedBuffer{max: 1 << 20}
	path := podlog.Path(a.cfg.LogRoot, pod.Namespace, pod.Name, string(pod.UID), name, c.Attempt)
	src := &logSource{running: func() bool { return false }}
	if err := logs.ReadLogs(context.Background(), path, c.ID, &logs.LogOptions{TailLines: &lines}, src, out, out); err != nil {
		return ""
	}
	text := out.String()
	if len(text) > limit {
		text = text[len(text)-limit:]
	}
	return text
}

// Metrics implements kubeletapi.Node.
func (n nodeAPI) Metrics() prometheus.Gatherer { return n.a.metrics() }

// Progress implements kubeletapi.Node.
func (n nodeAPI) Progress() http.Handler { return n.a.progress }

// Policy implements kubeletapi.Node.
func (n nodeAPI) Policy() http.Handler { return n.a.policies.handler() }
