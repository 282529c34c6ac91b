// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"skep.dev/skep/tests/truth"
)

// malformed are policies that the API refuses: a bug of it, or whoever writes to the store, could let them in all the same. Each would open
// x to more than the truth tables' policies do if what is wrong with it were passed over.
var malformed = map[string]string{
	"x/cidr":        `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/99}}]}]}`,
	"x/cidr-empty":  `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: ""}}]}]}`,
	"x/except":      `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [everybody]}}]}]}`,
	"x/operator":    `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: team, operator: Resembles, values: [z]}]}}]}]}`,
	"x/no-values":   `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: team, operator: In, values: []}]}}]}]}`,
	"x/subject":     `{podSelector: {matchExpressions: [{key: "a b", operator: Exists}]}, ingress: [{}]}`,
	"x/protocol":    `{podSelector: {}, ingress: [{ports: [{port: 80, protocol: HTTP}]}]}`,
	"x/port":        `{podSelector: {}, ingress: [{ports: [{port: 65616}]}]}`,
	"x/port-below":  `{podSelector: {}, ingress: [{ports: [{port: -65456}]}]}`,
	"x/end-port":    `{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 65616}]}]}`,
	"x/range":       `{podSelector: {}, ingress: [{ports: [{port: 81, endPort: 80}]}]}`,
	"x/named-range": `{podSelector: {}, ingress: [{ports: [{port: nothing, endPort: 90}]}]}`,
	"x/peer":        `{podSelector: {}, ingress: [{from: [{}]}]}`,
	"x/types":       `{podSelector: {}, policyTypes: [Sideways], ingress: [{}]}`,
	"x/both":        `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 300.0.0.0/8}, namespaceSelector: {}}]}]}`,
	"no-tier":       `{priority: 1, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}`,
	"tier":          `{tier: Penthouse, priority: 1, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}`,
	"action":        `{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: x}}}, ingress: [{action: Welcome, from: [{namespaces: {matchLabels: {team: z}}}]}]}`,
	"network":       `{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: z}}}, egress: [{action: Accept, to: [{networks: [10.0.0.0/99]}]}]}`,
	"port":          `{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: x}}}, ingress: [{action: Accept, from: [{namespaces: {matchLabels: {team: z}}}], protocols: [{tcp: {destinationPort: {number: 65616}}}]}]}`,
	"range":         `{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: x}}}, ingress: [{action: Accept, from: [{namespaces: {matchLabels: {team: z}}}], protocols: [{tcp: {destinationPort: {range: {start: 90, end: 70}}}}]}]}`,
	"empty-peer":    `{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: x}}}, ingress: [{action: Accept, from: [{}]}]}`,
	"future-peer":   `{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: x}}}, ingress: [{action: Accept, from: [{planets: {}}]}]}`,
	"future-port":   `{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: x}}}, ingress: [{action: Accept, from: [{namespaces: {matchLabels: {team: z}}}], protocols: [{quic: {}}]}]}`,
	"future-number": `{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: x}}}, ingress: [{action: Accept, from: [{namespaces: {matchLabels: {team: z}}}], protocols: [{tcp: {destinationPort: {anyOf: [80]}}}]}]}`,
	"selector":      `{tier: Admin, priority: 1, subject: {namespaces: {matchExpressions: [{key: team, operator: Resembles}]}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}`,
	"type-priority": `{tier: Admin, priority: first, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}`,
	"type-ingress":  `{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: {action: Accept, from: [{namespaces: {}}]}}`,
	"type-port":     `{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: x}}}, ingress: [{action: Accept, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: "80"}}}]}]}`,
	"no-subject":    `{tier: Admin, priority: 1, subject: {}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}`,
}

// malformedPolicies puts all of them into the store. Nothing opens and nothing closes, agents go on, and so does the enforcement of policies
// that are sound: those that were there, those that change, and what one said before somebody spoiled it.
func (w *truthWorld) malformedPolicies(t *testing.T) {
	cells := w.Cells("TCP", "UDP")
	sound := map[string]string{
		"x/deny": `{podSelector: {}}`,
		"x/w":    `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: w}}}]}]}`,
		"x/good": `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: z}}}], ports: [{port: 80}]}]}`,
		"good":   `{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: w}}}, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: z}}}]}]}`,
	}
	opens := func(c truth.Cell) bool {
		if c.To.In("w") {
			return !c.From.In("z")
		}
		return !c.To.In("x") || c.From.In("w") || c.From.In("z") && c.To.Is("x/a") && c.TCP(80)
	}
	network, cluster := w.parse(t, sound)
	w.Model.Policies, w.Model.ClusterPolicies = network, cluster
	want := w.expect(t, truth.Case{Name: "before", Policies: sound, Open: opens}, cells)
	remove := applyPolicies(t, network, cluster)
	defer func() { remove() }()
	w.await(t, cells, want)

	store := openStore(t)
	agents := agentProcesses()
	for name, spec := range malformed {
		store.put(t, name, spec, nil)
	}
	// The answer to a value that nobody knows is to enforce.
	store.put(t, "x/annotation", sound["x/deny"], map[string]string{"skep.dev/enforcement": "sometimes"})
	store.spoil(t, "x/good", `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{ipBlock: {cidr: 1.2.3.4.5/6}}]}]}`)
	store.spoil(t, "good", `{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: w}}}, ingress: [{action: Welcome, from: [{namespaces: {}}]}]}`)

	// What changes now is seen after all that came before it.
	later := map[string]string{"z/p": `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}}]}]}`,
		"later": `{tier: Admin, priority: 3, subject: {namespaces: {matchLabels: {team: z}}}, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: w}}}]}]}`}
	network, cluster = w.parse(t, later)
	w.Model.Policies, w.Model.ClusterPolicies = append(w.Model.Policies, network...), append(w.Model.ClusterPolicies, cluster...)
	want = w.expect(t, truth.Case{Name: "beside malformed ones", Policies: later, Open: func(c truth.Cell) bool {
		return opens(c) && (!c.From.In("z") || c.To.IsPod()) && (!c.To.In("z") || !c.From.In("w"))
	}}, cells)
	removeLater := applyPolicies(t, network, cluster)
	defer func() { removeLater() }()
	w.await(t, cells, want)
	if now := agentProcesses(); len(now) != nodes || !maps.Equal(now, agents) {
		t.Errorf("agents were %v, now %v", agents, now)
	}
	for name := range malformed {
		store.remove(t, name)
	}
	store.remove(t, "x/annotation")
}

// store writes objects past the API.
type store struct{ *clientv3.Client }

func openStore(t *testing.T) store {
	t.Helper()
	socket := filepath.Join("/var/lib/skep", name, "server/etcd/etcd.sock")
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + socket}, DialTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return store{c}
}

// storeKey is where the API server keeps a policy.
func storeKey(policy string) string {
	if ns, short, namespaced := strings.Cut(policy, "/"); namespaced {
		return "/registry/networkpolicies/" + truth.Namespace(ns) + "/" + short
	}
	return "/registry/policy.networking.k8s.io/clusternetworkpolicies/" + policy
}

func (s store) put(t *testing.T, policy, spec string, annotations map[string]string) {
	t.Helper()
	meta := metav1.ObjectMeta{Name: policy, UID: types.UID("malformed-" + policy), CreationTimestamp: metav1.Now(), Generation: 1, Annotations: annotations}
	object := map[string]any{"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy"}
	if ns, short, namespaced := strings.Cut(policy, "/"); namespaced {
		meta.Namespace, meta.Name = truth.Namespace(ns), short
		object = map[string]any{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
	}
	object["metadata"] = meta
	s.write(t, policy, object, spec)
}

// spoil gives a policy that is there another spec.
func (s store) spoil(t *testing.T, policy, spec string) {
	t.Helper()
	var path string
	if ns, short, namespaced := strings.Cut(policy, "/"); namespaced {
		path = fmt.Sprintf("/apis/networking.k8s.io/v1/namespaces/%s/networkpolicies/%s", truth.Namespace(ns), short)
	} else {
		path = clusterPolicies + "/" + policy
	}
	raw, err := client.CoreV1().RESTClient().Get().AbsPath(path).SetHeader("Accept", "application/json").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var object map[string]any
	if err := json.Unmarshal(raw, &object); err != nil {
		t.Fatal(err)
	}
	object["metadata"].(map[string]any)["generation"] = 2
	delete(object["metadata"].(map[string]any), "resourceVersion")
	s.write(t, policy, object, spec)
}

func (s store) write(t *testing.T, policy string, object map[string]any, spec string) {
	t.Helper()
	var content map[string]any
	if err := yaml.Unmarshal([]byte(spec), &content); err != nil {
		t.Fatal(err)
	}
	object["spec"] = content
	raw, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), storeKey(policy), string(raw)); err != nil {
		t.Fatal(err)
	}
}

func (s store) remove(t *testing.T, policy string) {
	t.Helper()
	if _, err := s.Delete(t.Context(), storeKey(policy)); err != nil {
		t.Error(err)
	}
}
