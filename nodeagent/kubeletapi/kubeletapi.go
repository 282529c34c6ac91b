// SPDX-License-Identifier: Apache-2.0

// Package kubeletapi serves what the API server asks a node for (logs, exec, attach and port forwarding) and what other nodes do, on TLS
// with client certificates.
package kubeletapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"skep.dev/skep/nodeagent/peer"
)

// ErrNotFound says that there is no such pod or container on the node.
var ErrNotFound = errors.New("not found")

// Node is what the server asks.
type Node interface {
	remotecommand.Executor
	remotecommand.Attacher
	portforward.PortForwarder
	// Pods are those that the node runs.
	Pods() []v1.Pod
	// CheckContainer tells whether a container can be spoken to; its error is shown to the user.
	CheckContainer(namespace, pod, container string) (uid string, err error)
	// Logs writes a container's log. begin is called once, before the first byte, when nothing can go wrong any more.
	Logs(ctx context.Context, namespace, pod, container string, opts *v1.PodLogOptions, begin func(), out io.Writer) error
	// Metrics are the agent's own.
	Metrics() prometheus.Gatherer
	// Progress tells other nodes how far this one is.
	Progress() http.Handler
	// Policy answers below /policy/.
	Policy() http.Handler
}

const (
	streamIdle     = 4 * time.Hour
	streamCreation = 30 * time.Second
)

const (
	// adminGroup may do everything on a node. Other certificates of the cluster (users', for example) may do nothing.
	adminGroup = "system:masters"
	// nodesGroup, the agents of other nodes, may read how far this node is.
	nodesGroup = "system:nodes"
)

// TLSConfig reads ca.crt, kubelet.crt and kubelet.key in dir. The pair is read again for each connection, so rotation needs no restart.
func TLSConfig(dir string) (*tls.Config, error) {
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("read CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s holds no certificate", filepath.Join(dir, "ca.crt"))
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "kubelet.crt"), filepath.Join(dir, "kubelet.key"))
		if err != nil {
			return nil, fmt.Errorf("read serving certificate: %w", err)
		}
		return &pair, nil
	}
	if _, err := load(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
		// Streams are upgraded connections, which HTTP/2 does not have.
		NextProtos:     []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return load() },
	}, nil
}

// Handler serves n to clients whose certificate has been verified.
func Handler(n Node, logger *slog.Logger) http.Handler {
	s := &server{node: n, log: logger}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	mux.HandleFunc("GET /pods", s.pods)
	// One part that has nothing to say must not hide the others.
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.Metrics(), promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	mux.Handle("GET /policy/", n.Policy())
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.logs)
	for _, path := range []string{"/{namespace}/{pod}/{container}", "/{namespace}/{pod}/{uid}/{container}"} {
		mux.HandleFunc("/exec"+path, s.exec)
		mux.HandleFunc("/attach"+path, s.attach)
	}
	mux.HandleFunc("/portForward/{namespace}/{pod}", s.portForward)
	mux.HandleFunc("/portForward/{namespace}/{pod}/{uid}", s.portForward)
	all := http.NewServeMux()
	all.Handle("GET "+peer.Path, authorize(n.Progress(), adminGroup, nodesGroup))
	all.Handle("/", authorize(mux, adminGroup))
	return all
}

// authorize lets in clients of the given groups.
func authorize(next http.Handler, groups ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		subject := r.TLS.PeerCertificates[0].Subject
		if !slices.ContainsFunc(subject.Organization, func(group string) bool { return slices.Contains(groups, group) }) {
			http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes/proxy)", subject.CommonName, r.Method), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

type server struct {
	node Node
	log  *slog.Logger
}

func (s *server) pods(w http.ResponseWriter, _ *http.Request) {
	list := v1.PodList{Items: s.node.Pods()}
	list.Kind, list.APIVersion = "PodList", "v1"
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(&list); err != nil {
		s.log.Debug("pod list not sent", "err", err)
	}
}

func fail(w http.ResponseWriter, err error) {
	code := http.StatusBadRequest
	if errors.Is(err, ErrNotFound) {
		code = http.StatusNotFound
	}
	http.Error(w, err.Error(), code)
}

// logs serves a container's log, flushed as it is written.
func (s *server) logs(w http.ResponseWriter, r *http.Request) {
	opts, err := logOptions(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	begun := false
	begin := func() {
		begun = true
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
	}
	out := &flushed{w: w, rc: http.NewResponseController(w)}
	err = s.node.Logs(r.Context(), r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container"), opts, begin, out)
	if err == nil || r.Context().Err() != nil {
		return
	}
	if !begun {
		fail(w, err)
		return
	}
	s.log.Warn("log broke off", "pod", r.PathValue("namespace")+"/"+r.PathValue("pod"), "err", err)
	panic(http.ErrAbortHandler) // the client must not take a part of the log for the whole
}

// flushed sends each write at once, so that whoever follows a log sees lines when they come.
type flushed struct {
	w  io.Writer
	rc *http.ResponseController
}

func (f *flushed) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		err = f.rc.Flush()
	}
	return n, err
}

func logOptions(q url.Values) (*v1.PodLogOptions, error) {
	opts := &v1.PodLogOptions{}
	for name, into := range map[string]*bool{"follow": &opts.Follow, "previous": &opts.Previous, "timestamps": &opts.Timestamps} {
		if v := q.Get(name); v != "" {
			b, err := strconv.ParseBool(v)
			if err != nil {
				return nil, fmt.Errorf("invalid %s: %q", name, v)
			}
			*into = b
		}
	}
	for name, into := range map[string]**int64{"tailLines": &opts.TailLines, "limitBytes": &opts.LimitBytes, "sinceSeconds": &opts.SinceSeconds} {
		if v := q.Get(name); v != "" && v != "all" {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil || n < 0 {
				return nil, fmt.Errorf("invalid %s: %q", name, v)
			}
			*into = &n
		}
	}
	if v := q.Get("sinceTime"); v != "" {
		t, err := time.Parse(time.RFC3339, v)
		if err != nil {
			return nil, fmt.Errorf("invalid sinceTime: %q", v)
		}
		opts.SinceTime = &metav1.Time{Time: t}
	}
	if v := q.Get("stream"); v != "" {
		opts.Stream = &v
	}
	return opts, nil
}

func (s *server) exec(w http.ResponseWriter, r *http.Request) {
	namespace, pod, container := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container")
	uid, err := s.node.CheckContainer(namespace, pod, container)
	if err != nil {
		fail(w, err)
		return
	}
	opts, err := remotecommand.NewOptions(r)
	if err != nil {
		fail(w, err)
		return
	}
	remotecommand.ServeExec(w, r, s.node, namespace+"/"+pod, uid, container, r.URL.Query()["command"], opts,
		streamIdle, streamCreation, remotecommand.SupportedStreamingProtocols)
}

func (s *server) attach(w http.ResponseWriter, r *http.Request) {
	namespace, pod, container := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container")
	uid, err := s.node.CheckContainer(namespace, pod, container)
	if err != nil {
		fail(w, err)
		return
	}
	opts, err := remotecommand.NewOptions(r)
	if err != nil {
		fail(w, err)
		return
	}
	remotecommand.ServeAttach(w, r, s.node, namespace+"/"+pod, uid, container, opts, streamIdle, streamCreation, remotecommand.SupportedStreamingProtocols)
}

func (s *server) portForward(w http.ResponseWriter, r *http.Request) {
	namespace, pod := r.PathValue("namespace"), r.PathValue("pod")
	uid, err := s.node.CheckContainer(namespace, pod, "")
	if err != nil {
		fail(w, err)
		return
	}
	opts, err := portforward.NewV4Options(r)
	if err != nil {
		fail(w, err)
		return
	}
	portforward.ServePortForward(w, r, s.node, namespace+"/"+pod, uid, opts, streamIdle, streamCreation, portforward.SupportedProtocols)
}
