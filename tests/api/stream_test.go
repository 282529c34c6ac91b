// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	//lint:ignore SA1019 client-go still takes its types
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	remotecommandserver "k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"skep.dev/skep/controlplane/cert"
)

// agent is a node agent as far as the API server can see: TLS with the cluster's CA on both sides, and streams.
type agent struct{ streams streaming.Server }

// connKey finds the connection of a request.
type connKey struct{}

// die is a command, and a log of so many lines, during which the agent is killed.
const die, dieLines = "die", "13"

func (agent) Exec(ctx context.Context, container string, cmd []string, in io.Reader, out, errs io.WriteCloser, _ bool, _ <-chan remotecommandserver.TerminalSize) error {
	if cmd[0] == die {
		fmt.Fprint(out, "half")
		ctx.Value(connKey{}).(net.Conn).Close()
		return nil
	}
	fmt.Fprintf(out, "%s: %s\n", container, strings.Join(cmd, " "))
	if in != nil {
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
	_, err := io.WriteString(errs, "done")
	return err
}

func (a agent) Attach(ctx context.Context, container string, in io.Reader, out, errs io.WriteCloser, tty bool, size <-chan remotecommandserver.TerminalSize) error {
	return a.Exec(ctx, container, []string{"attached"}, in, out, errs, tty, size)
}

func (agent) PortForward(_ context.Context, pod string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	_, err := fmt.Fprintf(stream, "%s:%d", pod, port)
	return err
}

func (a agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 || r.TLS.PeerCertificates[0].Subject.CommonName != cert.KubeletClientName {
		http.Error(w, "who are you", http.StatusUnauthorized)
		return
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	q := r.URL.Query()
	set := func(name string) bool { return q.Get(name) == "1" }
	var location string
	switch parts[0] {
	case "containerLogs":
		fmt.Fprintf(w, "log of %s %s", parts[3], r.URL.RawQuery)
		if q.Get("tailLines") == dieLines {
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		return
	case "echo":
		fmt.Fprintf(w, "%s %s?%s %q", r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Get("Authorization"))
		return
	case "exec":
		response, err := a.streams.GetExec(&runtimeapi.ExecRequest{ContainerId: parts[3], Cmd: q["command"],
			Stdin: set("input"), Stdout: set("output"), Stderr: set("error"), Tty: set("tty")})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		location = response.Url
	case "portForward":
		response, err := a.streams.GetPortForward(&runtimeapi.PortForwardRequest{PodSandboxId: parts[2]})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		location = response.Url
	default:
		http.NotFound(w, r)
		return
	}
	r.URL.Path = location[strings.Index(location, "/"+strings.ToLower(parts[0])):]
	a.streams.ServeHTTP(w, r)
}

// startAgent runs an agent with credentials of the shared server's CA and makes its Node and a pod on it.
func startAgent(t *testing.T, ns string) {
	t.Helper()
	authority, err := cert.Open(filepath.Join(shared.dir, "pki"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := authority.IssueNode(dir, "agent", []netip.Addr{loopback}, shared.config.Host); err != nil {
		t.Fatal(err)
	}
	serving, err := tls.LoadX509KeyPair(filepath.Join(dir, "kubelet.crt"), filepath.Join(dir, "kubelet.key"))
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(authority.CA())
	config := streaming.DefaultConfig
	config.Addr = "127.0.0.1:0"
	a := agent{}
	if a.streams, err = streaming.NewServer(config, a); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(a)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{serving}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert}
	s.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) }
	s.StartTLS()
	t.Cleanup(s.Close)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "agent"}}
	if _, err = shared.client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = shared.client.CoreV1().Nodes().Delete(context.Background(), "agent", metav1.DeleteOptions{})
	})
	body := encode(t, tree{"status": tree{
		"addresses":       []any{tree{"type": "InternalIP", "address": "127.0.0.1"}},
		"daemonEndpoints": tree{"kubeletEndpoint": tree{"Port": s.Listener.Addr().(*net.TCPAddr).Port}},
	}})
	if code, data := patch(t, "/api/v1/nodes/agent/status", "application/merge-patch+json", body); code != http.StatusOK {
		t.Fatalf("%d: %s", code, data)
	}
	_, err = shared.client.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: corev1.PodSpec{NodeName: "agent", Containers: []corev1.Container{{Name: "c1", Image: "i"}, {Name: "c2", Image: "i"}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		zero := int64(0)
		_ = shared.client.CoreV1().Pods(ns).Delete(context.Background(), "p", metav1.DeleteOptions{GracePeriodSeconds: &zero})
	})
}

func TestStreamsToContainers(t *testing.T) {
	ns := namespace(t)
	startAgent(t, ns)
	pods := shared.client.CoreV1().Pods(ns)
	tail := int64(5)
	text, err := pods.GetLogs("p", &corev1.PodLogOptions{Container: "c2", TailLines: &tail}).DoRaw(t.Context())
	if err != nil || string(text) != "log of c2 tailLines=5" {
		t.Errorf("logs: %q, %v", text, err)
	}
	code, data := call(t, shared.config, http.MethodGet, "/api/v1/namespaces/"+ns+"/pods/p/log", nil, nil)
	if want := "a container name must be specified for pod p, choose one of: [c1 c2]"; code != http.StatusBadRequest || status(t, data).Message != want {
		t.Errorf("logs of no container: %d: %s", code, data)
	}
	if code, data := call(t, shared.config, http.MethodGet, "/api/v1/namespaces/"+ns+"/pods/p/log?container=c1&tailLines=-1", nil, nil); code != http.StatusUnprocessableEntity {
		t.Errorf("a negative tail: %d: %s", code, data)
	}
	url := shared.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(ns).Name("p").SubResource("exec").VersionedParams(
		&corev1.PodExecOptions{Container: "c1", Command: []string{"say", "hello"}, Stdin: true, Stdout: true, Stderr: true}, scheme.ParameterCodec).URL()
	overSPDY, err := remotecommand.NewSPDYExecutor(shared.config, http.MethodPost, url)
	if err != nil {
		t.Fatal(err)
	}
	overWebSocket, err := remotecommand.NewWebSocketExecutor(shared.config, http.MethodGet, url.String())
	if err != nil {
		t.Fatal(err)
	}
	for name, executor := range map[string]remotecommand.Executor{"SPDY": overSPDY, "WebSocket": overWebSocket} {
		var out, errs bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("input"), Stdout: &out, Stderr: &errs})
		cancel()
		if err != nil || out.String() != "c1: say hello\ninput" || errs.String() != "done" {
			t.Errorf("exec over %s: %q, %q, %v", name, out.String(), errs.String(), err)
		}
	}
}

// TestLostAgents shows that a node that goes away in the middle is an error, and not a short success.
func TestLostAgents(t *testing.T) {
	ns := namespace(t)
	startAgent(t, ns)
	pods := shared.client.CoreV1().Pods(ns)
	tail, err := strconv.ParseInt(dieLines, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	text, err := pods.GetLogs("p", &corev1.PodLogOptions{Container: "c1", TailLines: &tail, Follow: true}).DoRaw(t.Context())
	if err == nil {
		t.Errorf("half a log is taken for a whole one: %q", text)
	}
	url := shared.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(ns).Name("p").SubResource("exec").VersionedParams(
		&corev1.PodExecOptions{Container: "c1", Command: []string{die}, Stdout: true, Stderr: true}, scheme.ParameterCodec).URL()
	executor, err := remotecommand.NewWebSocketExecutor(shared.config, http.MethodGet, url.String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out bytes.Buffer
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out, Stderr: io.Discard})
	if err == nil || !strings.Contains(err.Error(), "the connection to the node was lost before the command ended") {
		t.Errorf("exec: %q, %v", out.String(), err)
	}
}

func TestPortForward(t *testing.T) {
	ns := namespace(t)
	startAgent(t, ns)
	url := shared.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(ns).Name("p").SubResource("portforward").URL()
	tripper, upgrader, err := spdy.RoundTripperFor(shared.config)
	if err != nil {
		t.Fatal(err)
	}
	overSPDY := spdy.NewDialer(upgrader, &http.Client{Transport: tripper}, http.MethodPost, url)
	overWebSocket, err := portforward.NewSPDYOverWebsocketDialer(url, shared.config)
	if err != nil {
		t.Fatal(err)
	}
	for name, dialer := range map[string]httpstream.Dialer{"SPDY": overSPDY, "WebSocket": overWebSocket} {
		stop, ready := make(chan struct{}), make(chan struct{})
		forwarder, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- forwarder.ForwardPorts() }()
		select {
		case <-ready:
		case err := <-done:
			t.Fatalf("%s: %v", name, err)
		}
		ports, err := forwarder.GetPorts()
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(conn)
		if err != nil || string(text) != "p:8080" {
			t.Errorf("over %s: %q, %v", name, text, err)
		}
		conn.Close()
		close(stop)
		<-done
	}
}
