// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"os"
	"path/filepath"
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
