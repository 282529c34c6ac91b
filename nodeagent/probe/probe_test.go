// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// try probes a listener once.
func try(t *testing.T, address net.Addr, handler v1.ProbeHandler) Outcome {
	t.Helper()
	tcp := address.(*net.TCPAddr)
	target := Target{Host: tcp.IP.String(), Ports: []v1.ContainerPort{{Name: "named", ContainerPort: int32(tcp.Port)}}}
	return Try(t.Context(), &v1.Probe{TimeoutSeconds: 1, ProbeHandler: handler}, target)
}

func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			conn.Close()
		}
		accepted <- err
	}()
	connect := v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromString("named")}}
	if got := try(t, l.Addr(), connect); !got.OK || got.Errored {
		t.Errorf("a listener: %+v", got)
	}
	if err := <-accepted; err != nil {
		t.Errorf("the listener saw no connection: %v", err)
	}
	l.Close()
	if got := try(t, l.Addr(), connect); got.OK || got.Errored || !strings.Contains(got.Message, "connection refused") {
		t.Errorf("nobody: %+v", got)
	}
	absent := v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromString("absent")}}
	if got := try(t, l.Addr(), absent); got.OK || !got.Errored || !strings.Contains(got.Message, `no port named "absent"`) {
		t.Errorf("an unknown name: %+v", got)
	}
}

func TestHTTP(t *testing.T) {
	var seen *http.Request
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/ok", http.StatusFound)
		case "/away":
			http.Redirect(w, r, "http://elsewhere.invalid/", http.StatusFound)
		case "/busy":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/hang":
			<-r.Context().Done()
		default:
			fmt.Fprint(w, "fine")
		}
	}))
	defer server.Close()
	get := func(path string, headers ...v1.HTTPHeader) Outcome {
		return try(t, server.Listener.Addr(), v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: path, Port: intstr.FromString("named"), HTTPHeaders: headers}})
	}
	for path, want := range map[string]Outcome{
		"/ok?a=b": {OK: true, Message: "fine"}, "ok": {OK: true, Message: "fine"}, "/moved": {OK: true, Message: "fine"},
		"/busy": {Message: "HTTP probe failed with statuscode: 503"},
	} {
		if got := get(path); got != want {
			t.Errorf("%s: %+v", path, got)
		}
	}
	if got := get("/away"); !got.OK {
		t.Errorf("a redirect to another host counts and is not followed: %+v", got)
	}
	if got := get("/hang"); got.OK || !strings.Contains(got.Message, "deadline exceeded") {
		t.Errorf("no answer in time: %+v", got)
	}
	get("/ok")
	if agent, accept := seen.Header.Get("User-Agent"), seen.Header.Get("Accept"); !strings.HasPrefix(agent, "kube-probe/") || accept != "*/*" {
		t.Errorf("without headers of its own a probe is %q and accepts %q", agent, accept)
	}
	get("/ok?a=b", v1.HTTPHeader{Name: "host", Value: "shop.example"}, v1.HTTPHeader{Name: "X-Many", Value: "1"}, v1.HTTPHeader{Name: "X-Many", Value: "2"},
		v1.HTTPHeader{Name: "User-Agent", Value: "me"}, v1.HTTPHeader{Name: "accept", Value: "text/plain"})
	want := "shop.example /ok?a=b [1 2] [me] [text/plain]"
	if got := fmt.Sprint(seen.Host, " ", seen.URL, " ", seen.Header["X-Many"], " ", seen.Header["User-Agent"], " ", seen.Header["Accept"]); got != want {
		t.Errorf("the server saw %s, not %s", got, want)
	}
}

// TestHTTPS accepts a certificate that nobody vouches for: a pod's own says nothing to a node.
func TestHTTPS(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	got := try(t, server.Listener.Addr(), v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Scheme: v1.URISchemeHTTPS, Port: intstr.FromString("named")}})
	if got.OK || got.Message != "HTTP probe failed with statuscode: 404" {
		t.Errorf("%+v", got)
	}
}

func TestGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	states := health.NewServer()
	states.SetServingStatus("up", healthpb.HealthCheckResponse_SERVING)
	states.SetServingStatus("down", healthpb.HealthCheckResponse_NOT_SERVING)
	server := grpc.NewServer()
	healthpb.RegisterHealthServer(server, states)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	check := func(service *string) Outcome {
		return try(t, l.Addr(), v1.ProbeHandler{GRPC: &v1.GRPCAction{Port: int32(l.Addr().(*net.TCPAddr).Port), Service: service}})
	}
	up, down, unknown := "up", "down", "unknown"
	for name, c := range map[string]struct {
		service *string
		ok      bool
		message string
	}{
		"the server as a whole": {nil, true, ""},
		"a service":             {&up, true, ""},
		"one that is down":      {&down, false, `service unhealthy (responded with "NOT_SERVING")`},
		"one that is not there": {&unknown, false, "unknown service"},
	} {
		if got := check(c.service); got.OK != c.ok || got.Errored || !strings.Contains(got.Message, c.message) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	server.Stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if got := check(nil); got.OK || !strings.Contains(got.Message, "health rpc probe failed") {
		t.Errorf("nobody: %+v", got)
	}
}

func TestExec(t *testing.T) {
	probe := &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"is", "up"}}}}
	for name, c := range map[string]struct {
		code int
		err  error
		want Outcome
	}{
		"success":         {0, nil, Outcome{OK: true, Message: "is up"}},
		"failure":         {1, nil, Outcome{Message: "is up"}},
		"cannot be asked": {0, fmt.Errorf("no container"), Outcome{Errored: true, Message: "no container"}},
	} {
		target := Target{Exec: func(_ context.Context, command []string) (int, string, error) {
			return c.code, strings.Join(command, " "), c.err
		}}
		if got := Try(t.Context(), probe, target); got != c.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		hang := Target{Exec: func(ctx context.Context, _ []string) (int, string, error) { <-ctx.Done(); return 0, "", ctx.Err() }}
		if got := Try(t.Context(), probe, hang); got.OK || got.Errored || got.Message != `command timed out: "is up" timed out after 1s` {
			t.Errorf("no end: %+v", got)
		}
	})
}

// TestStartup is how the agent uses Run for a startup probe: the first verdict ends it. Failures before the threshold leave the
// container alone, errors of the probe itself count for nothing.
func TestStartup(t *testing.T) {
	good, bad, broken := Outcome{OK: true}, Outcome{}, Outcome{Errored: true}
	for _, c := range []struct {
		name    string
		answers []Outcome
		ok      bool
		after   time.Duration // of the verdict, from the container's start
	}{
		{"up at once", []Outcome{good}, true, 5 * time.Second},
		{"slow", []Outcome{bad, bad, good}, true, 9 * time.Second},
		{"never", []Outcome{bad, bad, bad}, false, 9 * time.Second},
		{"cannot be asked at first", []Outcome{broken, broken, broken, bad, good}, true, 13 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			var asked atomic.Int64
			target := Target{Exec: func(context.Context, []string) (int, string, error) {
				o := c.answers[asked.Add(1)-1]
				code := 1
				if o.OK {
					code = 0
				}
				if o.Errored {
					return 0, "", context.Canceled
				}
				return code, "", nil
			}}
			p := &v1.Probe{InitialDelaySeconds: 5, PeriodSeconds: 2, FailureThreshold: 3, ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"up"}}}}
			started := time.Now()
			verdict := false
			Run(t.Context(), p, target, started, false, func(_ Outcome, ok, decided bool) bool {
				verdict = ok
				return !decided
			})
			if took := time.Since(started); verdict != c.ok || took != c.after || int(asked.Load()) != len(c.answers) {
				t.Errorf("%s: %v after %v and %d tries", c.name, verdict, took, asked.Load())
			}
		})
	}
}
