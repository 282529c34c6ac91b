// SPDX-License-Identifier: Apache-2.0

// Command server is the program in the hello image. As a server it greets over HTTP and says which pod answers; as a
// front end it asks another server and passes the answer on. It reads its greeting from a ConfigMap and a key from a Secret,
// both mounted as files, so a change to them shows without a restart. "server get URL" fetches a page, for
// a look from inside a pod whose image has no other program.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const (
	greetingFile = "/etc/hello/greeting"
	keyFile      = "/etc/hello-key/key"
)

func main() {
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if len(os.Args) == 3 && os.Args[1] == "get" {
		return get(os.Args[2])
	}
	handler := http.HandlerFunc(greet)
	if backend := os.Getenv("BACKEND"); backend != "" {
		handler = front(&http.Client{Timeout: 2 * time.Second}, backend)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.Handle("/", logged(handler))
	if err := serve(ctx, &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 5 * time.Second}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// serve stops taking connections when the context ends and lets those under way finish.
func serve(ctx context.Context, server *http.Server) error {
	done := make(chan error, 1)
	go func() { done <- server.ListenAndServe() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		drain, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		err := server.Shutdown(drain)
		if stopped := <-done; !errors.Is(stopped, http.ErrServerClosed) {
			return errors.Join(err, stopped)
		}
		return err
	}
}

func greet(w http.ResponseWriter, _ *http.Request) {
	greeting, err := os.ReadFile(greetingFile)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	// The key itself stays secret; its digest shows that the right one arrived.
	digest := sha256.Sum256(key)
	fmt.Fprintf(w, "%s from pod %s on node %s (key %x)\n", strings.TrimSpace(string(greeting)), os.Getenv("POD_NAME"), os.Getenv("NODE_NAME"), digest[:4])
}

func front(client *http.Client, backend string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, backend, nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		resp, err := client.Do(req)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body) // a client that went away is not our fault
	}
}

func get(url string) int {
	resp, err := (&http.Client{Timeout: 3 * time.Second}).Get(url)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer resp.Body.Close()
	if _, err := io.Copy(os.Stdout, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		fmt.Fprintln(os.Stderr, resp.Status, err)
		return 1
	}
	return 0
}

func logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r)
		fmt.Printf("%s %s from %s\n", r.Method, r.URL.Path, r.RemoteAddr)
	})
}
