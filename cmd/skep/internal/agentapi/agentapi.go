// SPDX-License-Identifier: Apache-2.0

// Package agentapi is the agent's local interface: HTTP on a unix socket that only root can open, through which
// the command line asks a node about its datapath.
package agentapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"skep.dev/skep/datapath"
)

// StatusSource is the part of a datapath that is asked.
type StatusSource interface {
	Status(context.Context) (datapath.Status, error)
}

const statusPath = "/v1/datapath/status"

// Serve answers on the socket until the context ends. A socket file that a killed agent left is replaced.
func Serve(ctx context.Context, socket string, source StatusSource) error {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("replace old agent socket: %w", err)
	}
	l, err := listenPrivate(socket)
	if err != nil {
		return err
	}
	defer os.Remove(socket)
	server := &http.Server{Handler: handler(source), ReadHeaderTimeout: 5 * time.Second}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("agent socket: %w", err)
	case <-ctx.Done():
		err := server.Close()
		<-done
		return err
	}
}

// listenPrivate gives the socket its name only when nobody but root may connect to it.
func listenPrivate(socket string) (net.Listener, error) {
	fresh := socket + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(fresh, 0o600), os.Rename(fresh, socket)); err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(fresh))
	}
	return l, nil
}

func handler(source StatusSource) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+statusPath, answer(source.Status))
	return mux
}

func answer[T any](ask func(context.Context) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		value, err := ask(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(value) // a reader that went away is not our fault
	}
}

// Status asks the agent behind the socket.
func Status(ctx context.Context, socket string) (datapath.Status, error) {
	var status datapath.Status
	err := get(ctx, socket, statusPath, &status)
	return status, err
}

// get reads the agent's answer into value.
func get(ctx context.Context, socket, path string, value any) error {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+path, nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return fmt.Errorf("ask agent: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1024)) // the status code says enough without it
		return fmt.Errorf("ask agent: %s: %s", resp.Status, text)
	}
	if err := json.NewDecoder(resp.Body).Decode(value); err != nil {
		return fmt.Errorf("read agent's answer: %w", err)
	}
	return nil
}
