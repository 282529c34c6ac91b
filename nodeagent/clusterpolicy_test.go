// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"skep.dev/skep/nodeagent/intent"
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

// TestAClusterPolicyOfAWrongTypeStopsNoOther has one in the list and one in the watch.
func TestAClusterPolicyOfAWrongTypeStopsNoOther(t *testing.T) {
	policy := func(name, priority string) string {
		return fmt.Sprintf(`{"apiVersion":"policy.networking.k8s.io/v1alpha2","kind":"ClusterNetworkPolicy","metadata":{"name":%q,"uid":%q,"resourceVersion":"2",`+
			`"annotations":{"skep.dev/unreadable":"says the user","a":"b"}},"spec":{"tier":"Admin","priority":%s,"subject":{"namespaces":{}}}}`, name, name, priority)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Query().Get("watch") == "" {
			fmt.Fprintf(w, `{"apiVersion":"policy.networking.k8s.io/v1alpha2","kind":"ClusterNetworkPolicyList","metadata":{"resourceVersion":"3"},"items":[%s,%s]}`,
				policy("listed", "1"), policy("wrong", `"first"`))
			return
		}
		for _, object := range []string{policy("wrong-too", "[1]"), policy("watched", "2")} {
			fmt.Fprintf(w, `{"type":"ADDED","object":%s}`+"\n", object)
		}
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer server.Close()
	informer, err := newClusterPolicies(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { informer.RunWithContext(ctx); close(done) }()
	defer func() { cancel(); <-done }()
	for deadline := time.Now().Add(5 * time.Second); len(informer.GetStore().ListKeys()) < 4; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("only %v came", informer.GetStore().ListKeys())
		}
	}
	for name, readable := range map[string]bool{"listed": true, "wrong": false, "wrong-too": false, "watched": true} {
		obj, _, err := informer.GetStore().GetByKey(name)
		if err != nil {
			t.Fatal(err)
		}
		p := obj.(*policyv1alpha2.ClusterNetworkPolicy)
		why, unreadable := p.Annotations[intent.Unreadable]
		if p.Name != name || p.UID != types.UID(name) || p.Annotations["a"] != "b" || unreadable == readable || why == "says the user" ||
			readable != (p.Spec.Tier == policyv1alpha2.AdminTier && p.Spec.Priority > 0) {
			t.Errorf("%s: %+v", name, p)
		}
	}
	list, err := informer.list(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 2 || list.ResourceVersion != "3" || list.Items[1].ResourceVersion != "2" {
		t.Errorf("listed %+v, %v", list, err)
	}
}
