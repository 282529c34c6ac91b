// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// wouldDeny is what "skep policy stats" says that a policy in audit mode would have denied.
func wouldDeny(t *testing.T, ns, policy string) int {
	t.Helper()
	out := kubectl(t, "policy", "stats", "-n", ns, "-o", "json")
	var got struct {
		Rules []struct {
			Policies  []string
			Mode      string
			WouldDeny int
		}
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	sum := 0
	for _, r := range got.Rules {
		if len(r.Policies) == 1 && r.Policies[0] == policy && r.Mode == "audit" {
			sum += r.WouldDeny
		}
	}
	return sum
}

// TestAuditMode goes the way from writing a policy to enforcing it: nothing is refused while it is in audit mode, what would have been is
// counted and told by name, and one annotation makes it bite.
func TestAuditMode(t *testing.T) {
	const ns = "audits"
	rulesWorld(t, ns)
	all := ways("client-1 tcp", "client-1 udp", "client-2 tcp", "client-2 udp")
	policy := allow("trial", "server", "")
	policy.Annotations = map[string]string{"skep.dev/enforcement": "audit"}
	withPolicy(t, ns, policy, func() {
		eventually(t, 10*time.Second, func() error {
			if out := kubectl(t, "policy", "stats", "-n", ns); !strings.Contains(out, "audit") {
				return fmt.Errorf("not in audit mode:\n%s", out)
			}
			return nil
		})
		for _, server := range []string{"server-1", "server-2"} {
			expectReach(t, ns, server, all)
		}
		before := wouldDeny(t, ns, "trial")
		const requests = 9
		var got tally
		inPod(t, ns, "client-1", &got, "get", "-n", fmt.Sprint(requests), "http://"+net.JoinHostPort(podIP(t, ns, "server-2"), "8080"))
		if got.OK != requests {
			t.Errorf("in audit mode: %+v", got)
		}
		// Probes of the node pass policy, so nothing else connects.
		if grown := wouldDeny(t, ns, "trial") - before; grown != requests {
			t.Errorf("%d more connections would have been denied, want %d", grown, requests)
		}
		eventually(t, 30*time.Second, func() error { return toldOf(t, ns, "trial") })

		if out, err := tryKubectl(t, "annotate", "-n", ns, "networkpolicy", "trial", "--overwrite", "skep.dev/enforcement=maybe"); err == nil {
			t.Errorf("an unknown mode was taken: %s", out)
		}
		kubectl(t, "annotate", "-n", ns, "networkpolicy", "trial", "--overwrite", "skep.dev/enforcement=enforce")
		for _, server := range []string{"server-1", "server-2"} {
			expectReach(t, ns, server, nil)
		}
		kubectl(t, "annotate", "-n", ns, "networkpolicy", "trial", "--overwrite", "skep.dev/enforcement=audit")
		for _, server := range []string{"server-1", "server-2"} {
			expectReach(t, ns, server, all)
		}
	})
}

// toldOf looks for the event about a policy in audit mode, which names a connection.
func toldOf(t *testing.T, ns, policy string) error {
	t.Helper()
	events, err := client.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.kind=NetworkPolicy,involvedObject.name=" + policy})
	if err != nil {
		return err
	}
	for _, e := range events.Items {
		if e.Reason == "WouldDeny" && e.Type == corev1.EventTypeNormal && strings.Contains(e.Message, ns+"/client-") && strings.Contains(e.Message, ns+"/server-") {
			return nil
		}
	}
	return fmt.Errorf("no event WouldDeny with names among %d", len(events.Items))
}
