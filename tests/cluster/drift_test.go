// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// drift is what a node's condition says about the agreement of policy and maps.
func drift(t *testing.T, node string) (corev1.NodeCondition, error) {
	t.Helper()
	object, err := client.CoreV1().Nodes().Get(t.Context(), node, metav1.GetOptions{})
	if err != nil {
		return corev1.NodeCondition{}, err
	}
	for _, c := range object.Status.Conditions {
		if c.Type == "NetworkPolicyDrift" {
			return c, nil
		}
	}
	return corev1.NodeCondition{}, errors.New("the node has no such condition")
}

// TestDriftIsFoundAndRepaired deletes an entry of a pinned map, as nobody should. Within 30 s it is there again, and the node says
// what happened.
func TestDriftIsFoundAndRepaired(t *testing.T) {
	const limit = 30 * time.Second
	ns, node := namespace(t, "drift"), nodeName(1)
	createPods(t, ns, probePod("server", node, map[string]string{"app": "server"}), probePod("client", node, map[string]string{"app": "client"}))
	server, from := waitReady(t, ns, "server"), waitReady(t, ns, "client")
	if _, err := client.NetworkingV1().NetworkPolicies(ns).Create(t.Context(), allow("only-client", "server", "client"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	url := "http://" + netip.AddrPortFrom(netip.MustParseAddr(server.Status.PodIP), 8080).String()
	serves := func() error {
		var got tally
		if err := tryInPod(t, ns, "client", &got, "get", "-n", "1", url); err != nil {
			return err
		}
		if got.OK != 1 {
			return fmt.Errorf("the server was not reached: %+v", got)
		}
		return nil
	}
	eventually(t, limit, serves)
	for i := range nodes {
		eventually(t, limit, func() error {
			c, err := drift(t, nodeName(i+1))
			if err == nil && (c.Status != corev1.ConditionFalse || c.Reason != "InAgreement") {
				err = fmt.Errorf("before anything has happened: %+v", c)
			}
			return err
		})
	}
	addresses := pinned(t, node, "skep_addr")
	key := netip.MustParseAddr(from.Status.PodIP).As16()
	if err := addresses.Delete(key); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	eventually(t, limit, func() error {
		value, err := addresses.LookupBytes(key)
		if err == nil && value == nil {
			err = errors.New("the client's address has no entry")
		}
		return err
	})
	t.Logf("repaired after %v", time.Since(began).Round(100*time.Millisecond))
	eventually(t, limit-time.Since(began), func() error {
		c, err := drift(t, node)
		if err == nil && (c.Status != corev1.ConditionTrue || c.Reason != "Repaired" || !strings.Contains(c.Message, "skep_addr 1 missing")) {
			err = fmt.Errorf("the condition says %+v", c)
		}
		return err
	})
	t.Logf("told after %v", time.Since(began).Round(100*time.Millisecond))
	eventually(t, limit, serves)
	metrics, err := client.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes", node, "proxy/metrics").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`skep_datapath_repaired_entries_total{map="skep_addr"} 1`, `skep_policy_selfcheck_drift_total{kind="entry"} 1`, `skep_policy_selfcheck_drift_total{kind="verdict"} 0`} {
		if !strings.Contains(string(metrics), want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	eventually(t, limit, func() error {
		events, err := client.CoreV1().Events(metav1.NamespaceDefault).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.kind=Node,involvedObject.name=" + node + ",reason=NetworkPolicyDrift"})
		if err == nil && len(events.Items) == 0 {
			err = errors.New("no event of the node")
		}
		return err
	})
	if c, err := drift(t, nodeName(2)); err != nil || c.Status != corev1.ConditionFalse {
		t.Errorf("the other node says %+v %v", c, err)
	}
}

// pinned opens a map of a node by its name.
func pinned(t *testing.T, node, table string) *ebpf.Map {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("/sys/fs/bpf/skep", name, node, table+"_v*"))
	if err != nil || len(paths) != 1 {
		t.Fatalf("pins of %s: %v %v", table, paths, err)
	}
	m, err := ebpf.LoadPinnedMap(paths[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}
