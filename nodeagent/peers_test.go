// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"skep.dev/skep/nodeagent/kubeletapi"
	"skep.dev/skep/nodeagent/peer"
)

// farNode is the kubelet API of another node, with its own certificate, on loopback.
type farNode struct {
	kubeletapi.Node
	t        *testing.T
	progress *peer.Progress
	addr     netip.AddrPort
	server   *http.Server
	dir      string
}

func (n *farNode) Progress() http.Handler       { return n.progress }
func (n *farNode) Metrics() prometheus.Gatherer { return prometheus.NewRegistry() }
func (n *farNode) Policy() http.Handler         { return http.NotFoundHandler() }

// far makes a node that can prove to be name.
func far(t *testing.T, ca *authority, name string) *farNode {
	ca.issue("kubelet", "system:node:"+name, "system:nodes", name)
	n := &farNode{t: t, progress: peer.NewProgress(), addr: netip.MustParseAddrPort("127.0.0.1:0"), dir: ca.dir}
	n.start()
	t.Cleanup(n.stop)
	return n
}

func (n *farNode) start() {
	conf, err := kubeletapi.TLSConfig(n.dir)
	if err != nil {
		n.t.Fatal(err)
	}
	// The certificate is read for each connection, and the next node of the test overwrites it.
	pair, err := conf.GetCertificate(nil)
	if err != nil {
		n.t.Fatal(err)
	}
	conf.Certificates, conf.GetCertificate = append(conf.Certificates, *pair), nil
	l, err := net.Listen("tcp", n.addr.String())
	if err != nil {
		n.t.Fatal(err)
	}
	n.addr = netip.MustParseAddrPort(l.Addr().String())
	server := &http.Server{Handler: kubeletapi.Handler(n, slog.New(slog.DiscardHandler)), TLSConfig: conf, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
	n.server = server
	go func() { _ = server.ServeTLS(l, "", "") }()
}

func (n *farNode) stop() { n.server.Close() }

func (n *farNode) as(name string) peer.Node {
	return peer.Node{Name: name, Addrs: []netip.AddrPort{n.addr}}
}

// safeBuffer is a log that several goroutines write.
type safeBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// follower is this node's side, run until the test ends.
type follower struct {
	*peer.Peers
	t   *testing.T
	log *safeBuffer
}

func follow(t *testing.T, client *rest.Config, nodes ...peer.Node) follower {
	log := &safeBuffer{}
	p, err := newPeers(client, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	p.SetNodes(nodes)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); p.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return follower{p.Peers, t, log}
}

// metric waits until the metrics say so.
func (f follower) metric(want ...string) {
	f.t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(f.Peers)
	waitFor(f.t, strings.Join(want, " and "), func() bool {
		answer := httptest.NewRecorder()
		promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		return !slices.ContainsFunc(want, func(line string) bool { return !strings.Contains(answer.Body.String(), "\n"+line+"\n") })
	})
}

// wait starts a wait and returns what is closed at its end.
func (f follower) wait(version string) <-chan struct{} {
	done := make(chan struct{})
	go func() { defer close(done); f.Wait(context.Background(), version) }()
	return done
}

// took waits for the end of a wait and checks how long it took.
func (f follower) took(version string, least, most time.Duration) {
	f.t.Helper()
	began := time.Now()
	f.Wait(context.Background(), version)
	if took := time.Since(began); took < least || took > most {
		f.t.Errorf("waited %v for %s, not between %v and %v", took, version, least, most)
	}
}

const followed = `skep_peer_nodes{state="followed"} `

func TestAPodWaitsForOtherNodes(t *testing.T) {
	ca := newAuthority(t, t.TempDir())
	ca.issue("node1", "system:node:node1", "system:nodes")
	a, b := far(t, ca, "a"), far(t, ca, "b")
	f := follow(t, ca.config("", "node1"), a.as("a"), b.as("b"))
	f.metric(followed + "2")
	a.progress.SetPods("99")
	b.progress.SetPods("101")
	f.took("99", 0, peer.Limit/2)
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if f.Wait(short, "100"); short.Err() == nil {
		t.Error("the wait ended before all nodes knew the pod: versions are numbers, 99 is less than 100")
	}
	second := f.wait("100")
	a.progress.SetPods("100")
	<-second
	f.took("100", 0, peer.Limit/2)
	f.took("not a version", 0, peer.Limit/2)
	f.metric(`skep_peer_wait_seconds_count 5`, `skep_peer_timeouts_total 0`)

	third := f.wait("1000")
	a.progress.SetPods("1000")
	f.SetNodes([]peer.Node{a.as("a")})
	<-third // b has been deleted, or is not ready any more
	f.metric(followed+"1", `skep_peer_timeouts_total 0`)
	if text := f.log.String(); text != "" {
		t.Errorf("log:\n%s", text)
	}
}

func TestANodeThatIsSlowOrGoneIsNotWaitedForAgain(t *testing.T) {
	ca := newAuthority(t, t.TempDir())
	ca.issue("node1", "system:node:node1", "system:nodes")
	a, b := far(t, ca, "a"), far(t, ca, "b")
	f := follow(t, ca.config("", "node1"), a.as("a"), b.as("b"))
	f.metric(followed + "2")
	a.progress.SetPods("50")
	b.progress.SetPods("5")
	f.took("50", peer.Limit, 2*peer.Limit)
	f.metric(followed+"1", `skep_peer_nodes{state="late"} 1`, `skep_peer_timeouts_total 1`)
	f.took("50", 0, peer.Limit/2)
	f.metric(`skep_peer_skipped_total{reason="late"} 1`)
	b.progress.SetPods("49")
	f.metric(followed + "2")
	waiting := f.wait("50")
	b.progress.SetPods("50")
	<-waiting
	f.metric(`skep_peer_timeouts_total 1`)

	b.stop()
	f.metric(`skep_peer_nodes{state="unreachable"} 1`)
	f.took("51000", peer.Limit, 2*peer.Limit) // for a
	f.metric(`skep_peer_skipped_total{reason="unreachable"} 1`, `skep_peer_timeouts_total 2`)
	waitFor(t, "line in the log", func() bool { return strings.Contains(f.log.String(), "cannot be followed") })

	// The agent that comes back has yet to learn of the pods.
	b.progress = peer.NewProgress()
	b.start()
	f.metric(`skep_peer_nodes{state="unreachable"} 0`)
	waiting = f.wait("50")
	b.progress.SetPods("60")
	<-waiting
	f.metric(`skep_peer_timeouts_total 2`)
	if text := f.log.String(); strings.Count(text, "cannot be followed") != 1 || strings.Count(text, "followed again") != 1 || strings.Count(text, "did not learn") != 2 {
		t.Errorf("log:\n%s", text)
	}
}

// Who is let in, and whom a node believes: each case is one that must not work, beside one that does.
func TestAgentsKnowEachOther(t *testing.T) {
	ca, other := newAuthority(t, t.TempDir()), newAuthority(t, t.TempDir())
	ca.issue("node1", "system:node:node1", "system:nodes")
	ca.issue("user", "mallory", "users")
	other.issue("node1", "system:node:node1", "system:nodes")
	a, b, foreign := far(t, ca, "a"), far(t, ca, "b"), far(t, other, "foreign")
	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	conf, err := kubeletapi.TLSConfig(ca.dir)
	if err != nil {
		t.Fatal(err)
	}
	ca.issue("kubelet", "system:node:old", "system:nodes", "old")
	old.TLS = conf
	old.StartTLS()
	defer old.Close()
	oldNode := peer.Node{Name: "old", Addrs: []netip.AddrPort{netip.MustParseAddrPort(old.Listener.Addr().String())}}

	t.Run("by their certificates", func(t *testing.T) {
		dead := netip.MustParseAddrPort("127.0.0.2:1")
		second := peer.Node{Name: "b", Addrs: []netip.AddrPort{dead, b.addr}}
		impostor := peer.Node{Name: "c", Addrs: []netip.AddrPort{b.addr}}
		f := follow(t, ca.config("", "node1"), a.as("a"), second, impostor, foreign.as("foreign"), oldNode)
		f.metric(followed+"2", `skep_peer_nodes{state="unreachable"} 3`)
		waitFor(t, "lines in the log", func() bool { return strings.Count(f.log.String(), "cannot be followed") == 3 })
		for _, want := range []string{"not c", "unknown authority", "does not serve its progress"} {
			if !strings.Contains(f.log.String(), want) {
				t.Errorf("no %q in the log:\n%s", want, f.log)
			}
		}
	})
	for name, client := range map[string]*rest.Config{"a user": ca.config("", "user"), "a node of another cluster": other.config("", "node1")} {
		t.Run(name, func(t *testing.T) {
			client.CAFile = ca.config("", "user").CAFile
			f := follow(t, client, a.as("a"))
			waitFor(t, "line in the log", func() bool { return strings.Contains(f.log.String(), "cannot be followed") })
			f.metric(followed + "0")
		})
	}
	t.Run("a node may read nothing else", func(t *testing.T) {
		client, err := rest.HTTPClientFor(ca.config("", "node1"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"/pods", "/metrics", "/healthz", "/containerLogs/default/p/c", "/exec/default/p/c", "/progress/x", "/x/../pods"} {
			response, err := client.Get("https://" + a.addr.String() + path)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.StatusCode != http.StatusForbidden {
				t.Errorf("%s: %s", path, response.Status)
			}
		}
		response, err := client.Post("https://"+a.addr.String()+peer.Path, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusForbidden {
			t.Errorf("POST: %s", response.Status)
		}
	})
}

func TestWhoIsFollowed(t *testing.T) {
	node := func(name string, ready v1.ConditionStatus, port int32, addrs ...string) *v1.Node {
		n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		n.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeMemoryPressure, Status: v1.ConditionTrue}, {Type: v1.NodeReady, Status: ready}}
		n.Status.DaemonEndpoints.KubeletEndpoint.Port = port
		for _, a := range addrs {
			kind, text, _ := strings.Cut(a, " ")
			n.Status.Addresses = append(n.Status.Addresses, v1.NodeAddress{Type: v1.NodeAddressType(kind), Address: text})
		}
		return n
	}
	got := peerNodes([]*v1.Node{
		node("self", v1.ConditionTrue, 10250, "InternalIP 192.0.2.1"),
		node("both", v1.ConditionTrue, 10250, "ExternalIP 198.51.100.2", "InternalIP 192.0.2.2", "InternalIP 2001:db8::2", "Hostname both"),
		node("elsewhere", v1.ConditionTrue, 1025, "InternalIP 192.0.2.3"),
		node("unset", v1.ConditionTrue, 0, "InternalIP 192.0.2.4"),
		node("down", v1.ConditionFalse, 10250, "InternalIP 192.0.2.5"),
		node("lost", v1.ConditionUnknown, 10250, "InternalIP 192.0.2.6"),
		node("nowhere", v1.ConditionTrue, 10250, "Hostname nowhere"),
		{ObjectMeta: metav1.ObjectMeta{Name: "new"}},
	}, "self")
	want := "[{both [192.0.2.2:10250 [2001:db8::2]:10250]} {elsewhere [192.0.2.3:1025]} {unset [192.0.2.4:10250]}]"
	if fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}
