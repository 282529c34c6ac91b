// SPDX-License-Identifier: Apache-2.0

// Package probe asks containers how they are: by a command, an HTTP request, a TCP connection or a gRPC health check.
package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// maxBody is how much of an answer ends up in messages.
const maxBody = 10 << 10

// Target is what is probed.
type Target struct {
	// Host is the pod's address.
	Host  string
	Ports []v1.ContainerPort
	// Exec runs a command in the container.
	Exec func(ctx context.Context, command []string) (code int, output string, err error)
}

// Outcome of one try. Errored means that the probe itself could not be made.
type Outcome struct {
	OK      bool
	Errored bool
	Message string
}

// Try probes once, within the probe's timeout.
func Try(ctx context.Context, p *v1.Probe, t Target) Outcome {
	timeout := time.Duration(max(p.TimeoutSeconds, 1)) * time.Second
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case p.Exec != nil:
		return tryExec(ctx, p.Exec.Command, t, timeout)
	case p.HTTPGet != nil:
		return tryHTTP(ctx, p.HTTPGet, t, timeout)
	case p.TCPSocket != nil:
		return tryTCP(ctx, p.TCPSocket, t)
	case p.GRPC != nil:
		return tryGRPC(ctx, p.GRPC, t)
	}
	return Outcome{Errored: true, Message: "missing probe handler"}
}

func tryExec(ctx context.Context, command []string, t Target, timeout time.Duration) Outcome {
	code, output, err := t.Exec(ctx, command)
	switch {
	case ctx.Err() != nil:
		return Outcome{Message: fmt.Sprintf("command timed out: %q timed out after %s", strings.Join(command, " "), timeout)}
	case err != nil:
		return Outcome{Errored: true, Message: err.Error()}
	default:
		return Outcome{OK: code == 0, Message: output}
	}
}

// Port resolves a port that may be a name.
func Port(p intstr.IntOrString, ports []v1.ContainerPort) (int, error) {
	if p.Type == intstr.Int {
		return p.IntValue(), nil
	}
	for _, c := range ports {
		if c.Name == p.StrVal {
			return int(c.ContainerPort), nil
		}
	}
	if n, err := strconv.Atoi(p.StrVal); err == nil {
		return n, nil
	}
	return 0, fmt.Errorf("container has no port named %q", p.StrVal)
}

func tryTCP(ctx context.Context, s *v1.TCPSocketAction, t Target) Outcome {
	port, err := Port(s.Port, t.Ports)
	if err != nil {
		return Outcome{Errored: true, Message: err.Error()}
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(orDefault(s.Host, t.Host), strconv.Itoa(port)))
	if err != nil {
		return Outcome{Message: err.Error()}
	}
	conn.Close()
	return Outcome{OK: true}
}

func orDefault(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

// Request is the request of an HTTP probe or hook.
func Request(ctx context.Context, h *v1.HTTPGetAction, t Target) (*http.Request, error) {
	port, err := Port(h.Port, t.Ports)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(h.Path)
	if err != nil {
		u = &url.URL{Path: h.Path}
	}
	u.Scheme = strings.ToLower(orDefault(string(h.Scheme), "http"))
	u.Host = net.JoinHostPort(orDefault(h.Host, t.Host), strconv.Itoa(port))
	if !strings.HasPrefix(u.Path, "/") {
		u.Path = "/" + u.Path
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "kube-probe/1.37")
	req.Header.Set("Accept", "*/*")
	for _, hdr := range h.HTTPHeaders {
		switch strings.ToLower(hdr.Name) {
		case "host":
			req.Host = hdr.Value
		case "user-agent", "accept":
			req.Header.Set(hdr.Name, hdr.Value)
		default:
			req.Header.Add(hdr.Name, hdr.Value)
		}
	}
	return req, nil
}

// Client is for probes and hooks: no connection is kept, no certificate checked (a pod's own certificate says nothing to a node), and
// a redirect to another host is not followed.
func Client() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true, DisableCompression: true, Proxy: nil,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if req.URL.Hostname() != via[0].URL.Hostname() || len(via) >= 10 {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
}

func tryHTTP(ctx context.Context, h *v1.HTTPGetAction, t Target, timeout time.Duration) Outcome {
	req, err := Request(ctx, h, t)
	if err != nil {
		return Outcome{Errored: true, Message: err.Error()}
	}
	client := Client()
	client.Timeout = timeout
	resp, err := client.Do(req)
	if err != nil {
		return Outcome{Message: err.Error()}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return Outcome{Message: err.Error()}
	}
	if resp.StatusCode >= http.StatusOK && resp.StatusCode < http.StatusBadRequest {
		return Outcome{OK: true, Message: string(body)}
	}
	return Outcome{Message: fmt.Sprintf("HTTP probe failed with statuscode: %d", resp.StatusCode)}
}

func tryGRPC(ctx context.Context, g *v1.GRPCAction, t Target) Outcome {
	addr := net.JoinHostPort(t.Host, strconv.Itoa(int(g.Port)))
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent("kube-probe/1.37"))
	if err != nil {
		return Outcome{Errored: true, Message: err.Error()}
	}
	defer conn.Close()
	var service string
	if g.Service != nil {
		service = *g.Service
	}
	resp, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
	if err != nil {
		return Outcome{Message: fmt.Sprintf("error: health rpc probe failed: %v", err)}
	}
	if resp.Status != healthpb.HealthCheckResponse_SERVING {
		return Outcome{Message: fmt.Sprintf("service unhealthy (responded with %q)", resp.Status)}
	}
	return Outcome{OK: true}
}
