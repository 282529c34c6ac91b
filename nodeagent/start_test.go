// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func TestWaitsForAServerThatIsStarting(t *testing.T) {
	var asked atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n := asked.Add(1); r.URL.Path != "/readyz" || n <= 3 {
			http.Error(w, "starting", http.StatusServiceUnavailable)
		}
	}))
	defer srv.Close()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	a := &agent{client: client, log: slog.New(slog.NewTextHandler(&log, nil))}
	a.awaitAPI(t.Context())
	if n := asked.Load(); n != 4 {
		t.Errorf("asked %d times", n)
	}
	if text := log.String(); strings.Count(text, "\n") != 2 || !strings.Contains(text, "waiting for the API server") || !strings.Contains(text, "API server is ready") {
		t.Errorf("log:\n%s", text)
	}
}

func TestARequestWaitsUntilThePodsAreKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &agent{log: slog.New(slog.DiscardHandler), podsKnown: make(chan struct{}), workers: map[types.UID]*worker{}}
		pod := testPod("early", v1.Container{Name: "main"})
		found := make(chan *worker, 1)
		go func() { found <- nodeAPI{a}.find("default", "early") }()
		synctest.Wait()
		a.mu.Lock()
		a.workers[pod.UID] = newWorker(a, pod)
		a.mu.Unlock()
		close(a.podsKnown)
		if w := <-found; w == nil {
			t.Error("an agent that did not know its pods yet has answered")
		}
		if w := (nodeAPI{a}).find("default", "absent"); w != nil {
			t.Error("a pod was found that is not there")
		}
	})
}
