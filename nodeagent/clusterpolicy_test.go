// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// A server that does not serve the resource has no policies, which is an answer; one that fails has given none.
func TestClusterPoliciesThatAreNotServed(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		synced bool
	}{
		{"not served", http.StatusNotFound, true},
		{"unavailable", http.StatusServiceUnavailable, false},
		{"forbidden", http.StatusForbidden, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var asked atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				asked.Add(1)
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(c.status)
				fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","code":%d,"reason":%q}`, c.status,
					map[int]string{404: "NotFound", 503: "ServiceUnavailable", 403: "Forbidden"}[c.status])
			}))
			defer server.Close()
			informer, err := newClusterPolicies(&rest.Config{Host: server.URL})
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			stop := make(chan struct{})
			go func() { informer.Run(stop); close(done) }()
			for asked.Load() == 0 {
				time.Sleep(time.Millisecond)
			}
			limit := make(chan struct{})
			time.AfterFunc(time.Second, func() { close(limit) })
			if got := cache.WaitForCacheSync(limit, informer.HasSynced); got != c.synced {
				t.Errorf("synced: %v", got)
			}
			close(stop)
			<-done
		})
	}
}
