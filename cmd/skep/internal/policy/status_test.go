// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"skep.dev/skep/controlplane/nodeproxy"
	"skep.dev/skep/enforcement"
)

func object(namespace, name string, generation int64, mode string) metav1.PartialObjectMetadata {
	o := metav1.PartialObjectMetadata{}
	o.Namespace, o.Name, o.UID, o.Generation = namespace, name, types.UID("uid-"+name), generation
	if mode != "" {
		o.Annotations = map[string]string{enforcement.Annotation: mode}
	}
	return o
}

func said(o metav1.PartialObjectMetadata, reason enforcement.Reason, latencies ...time.Duration) enforcement.Policy {
	v := enforcement.VersionOf(&o)
	p := enforcement.Policy{Namespace: o.Namespace, Name: o.Name, Newest: v, InForce: v, Reason: reason, Latencies: latencies}
	if reason != "" {
		p.Message = "why"
	}
	return p
}

func report(node string, policies ...enforcement.Policy) nodeproxy.Answer[enforcement.Report] {
	return nodeproxy.Answer[enforcement.Report]{Node: node, Value: enforcement.Report{Node: node, Policies: policies}}
}

func TestStatusOfPolicies(t *testing.T) {
	web, old, audited, guard := object("shop", "web", 3, ""), object("shop", "web", 2, ""), object("shop", "seen", 1, "audit"), object("", "guard", 1, "")
	enforced := object("shop", "seen", 1, "")
	stranger := object("shop", "web", 3, "")
	stranger.UID = "another"
	domains := said(guard, "", 4*time.Millisecond)
	domains.NotUnderstood = []string{"spec.egress[0] has domainNames"}
	for _, c := range []struct {
		name    string
		objects []metav1.PartialObjectMetadata
		reports []nodeproxy.Answer[enforcement.Report]
		want    string
		err     bool
	}{
		{"everywhere", []metav1.PartialObjectMetadata{web}, []nodeproxy.Answer[enforcement.Report]{report("a", said(web, "", 2*time.Millisecond)), report("b", said(web, "", 30*time.Millisecond))},
			"shop web 3 2/2 2.0 ms 30 ms enforce", false},
		{"an older version on one node", []metav1.PartialObjectMetadata{web}, []nodeproxy.Answer[enforcement.Report]{report("a", said(web, "")), report("b", said(old, ""))},
			"shop web 3 1/2 - - enforce b: is on its way", true},
		{"refused by one node", []metav1.PartialObjectMetadata{web}, []nodeproxy.Answer[enforcement.Report]{report("a", said(old, enforcement.NoRoom)), report("b", said(web, ""))},
			"shop web 3 1/2 - - enforce a: NoRoom: why", true},
		{"not for all pods", []metav1.PartialObjectMetadata{web}, []nodeproxy.Answer[enforcement.Report]{report("a", said(web, enforcement.TooManyRules))},
			"shop web 3 0/1 - - enforce a: TooManyRules: why", true},
		{"not heard of", []metav1.PartialObjectMetadata{web}, []nodeproxy.Answer[enforcement.Report]{report("a")}, "shop web 3 0/1 - - enforce a: has not heard of it", true},
		{"another of the name", []metav1.PartialObjectMetadata{web}, []nodeproxy.Answer[enforcement.Report]{report("a", said(stranger, ""))}, "shop web 3 0/1 - - enforce a: is on its way", true},
		{"a silent node", []metav1.PartialObjectMetadata{web}, []nodeproxy.Answer[enforcement.Report]{report("a", said(web, "")), {Node: "b", Err: errors.New("timeout")}},
			"shop web 3 1/2 - - enforce b: did not answer: timeout", true},
		{"in audit mode", []metav1.PartialObjectMetadata{audited}, []nodeproxy.Answer[enforcement.Report]{report("a", said(audited, ""))}, "shop seen 1 1/1 - - audit", false},
		{"in audit mode and still enforced", []metav1.PartialObjectMetadata{audited}, []nodeproxy.Answer[enforcement.Report]{report("a", said(enforced, ""))},
			"shop seen 1 0/1 - - audit a: is on its way", true},
		{"not understood", []metav1.PartialObjectMetadata{guard}, []nodeproxy.Answer[enforcement.Report]{report("a", domains)},
			"- ClusterNetworkPolicy/guard 1 1/1 4.0 ms 4.0 ms enforce spec.egress[0] has domainNames", false},
	} {
		lines := combine(c.objects, c.reports)
		var b strings.Builder
		if err := printPolicies(&b, lines, StatusOptions{}); err != nil {
			t.Fatal(err)
		}
		_, rows, _ := strings.Cut(b.String(), "\n")
		if got := strings.Join(strings.Fields(rows), " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		if err := verdict(lines); errors.Is(err, ErrUnenforced) != c.err {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestStatusOfOnePolicy(t *testing.T) {
	web := object("shop", "web", 3, "")
	a := said(web, "", 2*time.Millisecond, 9*time.Millisecond)
	a.Since = time.Unix(0, 0)
	lines := combine([]metav1.PartialObjectMetadata{web}, []nodeproxy.Answer[enforcement.Report]{report("node-a", a), report("node-b", said(web, "")), report("node-c", said(web, ""))})
	var b strings.Builder
	if err := printPolicies(&b, lines, StatusOptions{Name: "web"}); err != nil {
		t.Fatal(err)
	}
	want := `enforced on 3/3 nodes, p99 9.0 ms

NODE     ENFORCED   GENERATION   SINCE                  P99      MESSAGE
node-a   true       3            1970-01-01T00:00:00Z   9.0 ms   
node-b   true       3            -                      -        
node-c   true       3            -                      -        
`
	if b.String() != want {
		t.Errorf("got:\n%swant:\n%s", b.String(), want)
	}
}

// TestNodesThatDoNotAnswer asks through a server that knows three nodes: one that answers, one that does not and one that is not ready.
func TestNodesThatDoNotAnswer(t *testing.T) {
	node := func(name string, ready corev1.ConditionStatus) corev1.Node {
		n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
		return n
	}
	list := corev1.NodeList{Items: []corev1.Node{node("alive", corev1.ConditionTrue), node("dead", corev1.ConditionTrue), node("away", corev1.ConditionUnknown)}}
	refuse := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.URL.Path == "/api/v1/nodes":
			_ = json.NewEncoder(w).Encode(list)
		case refuse:
			w.WriteHeader(http.StatusForbidden)
		case r.URL.Path == "/api/v1/nodes/alive/proxy"+enforcement.RulesPath:
			_, _ = w.Write([]byte("[]"))
		default:
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	ask := func(o StatsOptions) (string, error) {
		var b strings.Builder
		err := Stats(t.Context(), &b, &rest.Config{Host: server.URL}, o)
		return b.String(), err
	}
	out, err := ask(StatsOptions{})
	if out != "No policies.\n" || err == nil || !strings.Contains(err.Error(), "1/2 nodes answered; not in this: dead: ") {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := ask(StatsOptions{Node: "alive"}); out != "No policies.\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := ask(StatsOptions{Node: "nobody"}); err == nil || !strings.Contains(err.Error(), "there are alive, dead, away") {
		t.Error(err)
	}
	refuse = true
	if out, err := ask(StatsOptions{}); out != "" || err == nil || !strings.Contains(err.Error(), "nodes/proxy") {
		t.Errorf("%q, %v", out, err)
	}
}
