// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// apiServer is a server on loopback without nodes, in a process of its own.
type apiServer struct {
	dir    string
	url    string
	tls    *tls.Config
	cmd    *exec.Cmd
	output bytes.Buffer
}

// startSkep runs the measured binary's control plane, with its durable store. The pod range has a share for 1,000 nodes.
func startSkep(ctx context.Context, o options) (*apiServer, error) {
	return startServer(ctx, func(dir string, port int) *exec.Cmd {
		return exec.Command(o.skep, "server", "--data-dir", dir, "--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1",
			"--secure-port", strconv.Itoa(port), "--pod-cidrs", "10.128.0.0/9,fd00:10:244::/48")
	})
}

// startServer runs a command that serves on a port, and puts a kubeconfig into dir, until it is ready.
func startServer(ctx context.Context, command func(dir string, port int) *exec.Cmd) (*apiServer, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if err := listener.Close(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "skep-bench-server-")
	if err != nil {
		return nil, err
	}
	s := &apiServer{dir: dir, url: fmt.Sprintf("https://127.0.0.1:%d", port), cmd: command(dir, port)}
	s.cmd.Stdout, s.cmd.Stderr = &s.output, &s.output
	// It ends with this process whatever happens to it.
	s.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := s.waitReady(ctx); err != nil {
		s.stop()
		return nil, fmt.Errorf("%w\n%s", err, s.output.String())
	}
	return s, nil
}

func (s *apiServer) stop() {
	_ = s.cmd.Process.Kill() // only fails when it has ended
	_ = s.cmd.Wait()
	_ = os.RemoveAll(s.dir)
}

func (s *apiServer) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(s.dir, "kubeconfig"))
		if err == nil {
			s.tls, err = rest.TLSConfigFor(config)
		}
		if err == nil {
			_, err = s.client().do(ctx, http.MethodGet, "/readyz", nil)
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the server is not ready: %w", errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}

// apiClient has a connection of its own, as clients on different machines have. It sends and counts bytes and decodes none, since
// it shares the machine with the server.
type apiClient struct {
	http *http.Client
	url  string
}

func (s *apiServer) client() *apiClient {
	return &apiClient{&http.Client{Transport: &http.Transport{TLSClientConfig: s.tls.Clone(), ForceAttemptHTTP2: true}}, s.url}
}

// open sends a request with an object as JSON, if any, and returns the answer once its header is there and says success.
func (c *apiClient) open(ctx context.Context, method, path string, object any) (io.ReadCloser, error) {
	var body io.Reader
	if object != nil {
		raw, err := json.Marshal(object)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(raw)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.url+path, body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode >= http.StatusBadRequest {
		defer response.Body.Close()
		why, _ := io.ReadAll(io.LimitReader(response.Body, 1000)) // what can be read of it
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, response.Status, why)
	}
	return response.Body, nil
}

// do sends a request, reads the whole answer and returns its length.
func (c *apiClient) do(ctx context.Context, method, path string, object any) (int64, error) {
	body, err := c.open(ctx, method, path, object)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	return io.Copy(io.Discard, body)
}

// each runs do for 0 to n-1, shared by a number of clients with a connection each.
func (s *apiServer) each(clients, n int, do func(c *apiClient, i int) error) error {
	work := make(chan int, n)
	for i := range n {
		work <- i
	}
	close(work)
	return crowd(clients, func(int) error {
		c := s.client()
		defer c.http.CloseIdleConnections()
		for i := range work {
			if err := do(c, i); err != nil {
				return err
			}
		}
		return nil
	})
}

// storm has a number of clients call do again and again, until the time is over and each call under way is answered. It returns how
// long each call took.
func (s *apiServer) storm(clients int, length time.Duration, do func(c *apiClient) error) ([]time.Duration, error) {
	took := make([][]time.Duration, clients)
	end := time.Now().Add(length)
	err := crowd(clients, func(worker int) error {
		c := s.client()
		defer c.http.CloseIdleConnections()
		for now := time.Now(); now.Before(end); now = time.Now() {
			if err := do(c); err != nil {
				return err
			}
			took[worker] = append(took[worker], time.Since(now))
		}
		return nil
	})
	var all []time.Duration
	for _, one := range took {
		all = append(all, one...)
	}
	if err == nil && len(all) == 0 {
		err = errors.New("no call was made")
	}
	return all, err
}

// crowd runs n at once, waits for all and returns the first error: what fails together fails for the same reason.
func crowd(n int, do func(worker int) error) error {
	var all errgroup.Group
	for i := range n {
		all.Go(func() error { return do(i) })
	}
	return all.Wait()
}

// processorTime is what the server has used, in the kernel's steps of 10 ms.
func (s *apiServer) processorTime() (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	// What follows the parenthesis is counted from the third field on.
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	const userField, systemField, tick = 11, 12, 10 * time.Millisecond
	user, err := strconv.Atoi(fields[userField])
	if err != nil {
		return 0, err
	}
	system, err := strconv.Atoi(fields[systemField])
	return time.Duration(user+system) * tick, err
}

// resetPeak makes the kernel forget the peak of the server's resident memory.
func (s *apiServer) resetPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", s.cmd.Process.Pid), []byte("5"), 0)
}

// peak returns the peak of the server's resident memory in MB.
func (s *apiServer) peak() (float64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	var kilobytes float64
	_, line, _ := bytes.Cut(raw, []byte("VmHWM:"))
	if _, err := fmt.Sscan(string(line), &kilobytes); err != nil {
		return 0, fmt.Errorf("read the peak of memory: %w", err)
	}
	return kilobytes * 1.024 / 1000, nil
}
