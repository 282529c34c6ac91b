// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// withClusterPolicy applies a ClusterNetworkPolicy as a user does, and deletes it afterwards.
func withClusterPolicy(t *testing.T, name, spec string, run func()) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "policy.yaml")
	object := fmt.Sprintf("apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: %s}\nspec: %s\n", name, spec)
	if err := os.WriteFile(file, []byte(object), 0o600); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "apply", "-f", file)
	defer kubectl(t, "delete", "-f", file)
	run()
}

// TestClusterPolicyKinds tries the tiers of ClusterNetworkPolicy with real sockets, from the servers' own nodes and across.
func TestClusterPolicyKinds(t *testing.T) {
	const ns = "tiers"
	rulesWorld(t, ns)
	all := []string{"client-1 tcp", "client-1 udp", "client-2 tcp", "client-2 udp"}
	subject := "subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: " + ns + "}}, podSelector: {matchLabels: {app: server}}}}"
	clients := "{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: client}}}}"
	for _, c := range []struct {
		name, spec, networkPolicy string
		want                      []string
	}{
		{"Admin denies what nothing else forbids", "{tier: Admin, priority: 1, " + subject + ", ingress: [{action: Deny, from: [" + clients + "]}]}", "", nil},
		{"Admin denies what NetworkPolicy allows", "{tier: Admin, priority: 1, " + subject + ", ingress: [{action: Deny, from: [" + clients + "], protocols: [{udp: {destinationPort: {number: 9000}}}]}]}",
			"{podSelector: {}, ingress: [{}]}", []string{all[0], all[2]}},
		{"Admin accepts what NetworkPolicy forbids", "{tier: Admin, priority: 1, " + subject + ", ingress: [{action: Accept, from: [" + clients + "], protocols: [{destinationNamedPort: web}]}]}",
			"{podSelector: {}}", []string{all[0], all[2]}},
		{"Pass leaves it to NetworkPolicy", "{tier: Admin, priority: 1, " + subject + ", ingress: [{action: Pass, from: [" + clients + "]}, {action: Deny, from: [{namespaces: {}}]}]}",
			"{podSelector: {matchLabels: {app: server}}, ingress: [{ports: [{port: 9000, protocol: UDP}]}]}", []string{all[1], all[3]}},
		{"Baseline denies what nobody allows", "{tier: Baseline, priority: 1, " + subject + ", ingress: [{action: Deny, from: [" + clients + "]}]}", "", nil},
		{"NetworkPolicy opens what Baseline denies", "{tier: Baseline, priority: 1, " + subject + ", ingress: [{action: Deny, from: [" + clients + "]}]}",
			"{podSelector: {matchLabels: {app: server}}, ingress: [{ports: [{port: web}]}]}", []string{all[0], all[2]}},
	} {
		t.Run(c.name, func(t *testing.T) {
			withClusterPolicy(t, "tier", c.spec, func() {
				check := func() { expectReach(t, ns, "server-1", ways(c.want...)) }
				if c.networkPolicy == "" {
					check()
					return
				}
				policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "rule"}}
				if err := yaml.Unmarshal([]byte(c.networkPolicy), &policy.Spec); err != nil {
					t.Fatal(err)
				}
				withPolicy(t, ns, policy, check)
			})
		})
	}
	t.Run("everything opens again", func(t *testing.T) { expectReach(t, ns, "server-1", ways(all...)) })
	t.Run("what the API forbids is refused", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "bad.yaml")
		bad := "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: bad}\nspec: {tier: Admin, priority: 1001, subject: {namespaces: {}}," +
			" egress: [{action: Deny, to: [{networks: [10.0.0.0/33]}]}]}\n"
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := tryKubectl(t, "apply", "-f", file)
		if err == nil || !strings.Contains(out, "spec.priority") || !strings.Contains(out, "Invalid CIDR format provided") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("columns and short name", func(t *testing.T) {
		withClusterPolicy(t, "listed", "{tier: Baseline, priority: 7, subject: {namespaces: {matchLabels: {nobody: here}}}}", func() {
			out := kubectl(t, "get", "cnp", "listed")
			for _, want := range []string{"TIER", "PRIORITY", "Baseline", "7"} {
				if !strings.Contains(out, want) {
					t.Errorf("no %s in %s", want, out)
				}
			}
		})
	})
}

// ruleCounts is what "skep policy stats -o json" says about connections, by "policies direction rule".
func ruleCounts(t *testing.T, ns string, more ...string) map[string]int {
	t.Helper()
	out := kubectl(t, append([]string{"policy", "stats", "--name", name, "-n", ns, "-o", "json"}, more...)...)
	var got struct {
		Rules []struct {
			Policies             []string
			Direction            string
			Rule                 *int
			Connections, Packets int
		}
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	counts := map[string]int{}
	for _, r := range got.Rules {
		rule := "default deny"
		if r.Rule != nil {
			rule = fmt.Sprint(*r.Rule)
		}
		if r.Packets < r.Connections {
			t.Errorf("%v %s %s: %d connections, %d packets", r.Policies, r.Direction, rule, r.Connections, r.Packets)
		}
		counts[strings.Join(r.Policies, ",")+" "+r.Direction+" "+rule] = r.Connections
	}
	return counts
}

// TestRuleCounters makes connections by hand and finds each of them, and no other, in the counter of the rule that decided it.
func TestRuleCounters(t *testing.T) {
	const ns = "counters"
	rulesWorld(t, ns)
	subject := "subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: " + ns + "}}, podSelector: {matchLabels: {app: server}}}}"
	admin := "{tier: Admin, priority: 1, " + subject + ", ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{udp: {destinationPort: {number: 9000}}}]}]}"
	policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "web"}}
	spec := "{podSelector: {matchLabels: {app: server}}, ingress: [{ports: [{port: web}]}, {ports: [{port: 7}]}]}"
	if err := yaml.Unmarshal([]byte(spec), &policy.Spec); err != nil {
		t.Fatal(err)
	}
	withClusterPolicy(t, "no-echo", admin, func() {
		withPolicy(t, ns, policy, func() {
			for _, server := range []string{"server-1", "server-2"} {
				expectReach(t, ns, server, ways("client-1 tcp", "client-2 tcp"))
			}
			all, second := ruleCounts(t, ns), ruleCounts(t, ns, "--node", nodeName(2))
			send := func(server string, requests, datagrams, refused int) {
				target := podIP(t, ns, server)
				var got [3]tally
				inPod(t, ns, "client-1", &got[0], "get", "-n", fmt.Sprint(requests), "http://"+net.JoinHostPort(target, "8080"))
				inPod(t, ns, "client-1", &got[1], "udp", "-n", fmt.Sprint(datagrams), "-timeout", "100ms", net.JoinHostPort(target, "9000"))
				inPod(t, ns, "client-1", &got[2], "udp", "-n", fmt.Sprint(refused), "-timeout", "100ms", net.JoinHostPort(target, "9001"))
				if got[0].OK != requests || got[1].Failed != datagrams || got[2].Failed != refused {
					t.Fatalf("%s: %+v", server, got)
				}
			}
			send("server-1", 30, 5, 3)
			send("server-2", 11, 7, 2)
			grown := func(before, after map[string]int) string {
				var b strings.Builder
				for _, rule := range slices.Sorted(maps.Keys(after)) {
					fmt.Fprintf(&b, "%s: %d\n", rule, after[rule]-before[rule])
				}
				return b.String()
			}
			const lines = "no-echo ingress 0: %d\nweb ingress 0: %d\nweb ingress 1: 0\nweb ingress default deny: %d\n"
			if got, want := grown(all, ruleCounts(t, ns)), fmt.Sprintf(lines, 12, 41, 5); got != want {
				t.Errorf("all nodes:\n%swant:\n%s", got, want)
			}
			if got, want := grown(second, ruleCounts(t, ns, "--node", nodeName(2))), fmt.Sprintf(lines, 7, 11, 2); got != want {
				t.Errorf("node 2:\n%swant:\n%s", got, want)
			}
			t.Logf("\n%s", kubectl(t, "policy", "stats", "--name", name))
		})
	})
}
