// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skep.dev/skep/datapath/loader"
)

const (
	policyCount   = 50
	policyChanges = 200
)

// benchPolicy measures from the API's answer to a changed policy to the new policy generation on the slower of two nodes, which
// is the last map write of a change. The policies select a pod on each node.
func (c *cluster) benchPolicy(ctx context.Context) error {
	const ns = "bench-policy"
	object := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}
	if _, err := c.client.CoreV1().Namespaces().Create(ctx, object, metav1.CreateOptions{}); err != nil {
		return err
	}
	var generations []*ebpf.Map
	for i := range 2 {
		pod := c.benchPod(fmt.Sprint("pod-", i), c.node(i+1), map[string]string{"app": "bench"})
		if _, err := c.client.CoreV1().Pods(ns).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			return err
		}
		m, err := ebpf.LoadPinnedMap(filepath.Join("/sys/fs/bpf/skep", c.name, c.node(i+1), fmt.Sprint("skep_state_v", loader.LayoutVersion)), nil)
		if err != nil {
			return err
		}
		defer m.Close()
		generations = append(generations, m)
	}
	for i := range policyCount {
		if _, err := c.client.NetworkingV1().NetworkPolicies(ns).Create(ctx, benchNetworkPolicy(i, i), metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	time.Sleep(3 * time.Second) // both pods are attached and quiet, or their own changes would be taken for the policies
	var took []time.Duration
	for i := range policyChanges {
		late, err := c.changePolicy(ctx, ns, i, generations)
		if err != nil {
			return err
		}
		took = append(took, late)
	}
	slices.Sort(took)
	row(fmt.Sprintf("policy written -> enforced, %d policies", policyCount), "p50 %v, p99 %v on the slower of 2 nodes, %d changes (bar 20 ms)",
		took[len(took)/2].Round(10*time.Microsecond), took[len(took)*99/100].Round(10*time.Microsecond), len(took))
	return nil
}

// changePolicy changes one policy and returns how long after the API's answer every node had a new generation; zero when they
// all had it before.
func (c *cluster) changePolicy(ctx context.Context, ns string, i int, generations []*ebpf.Map) (time.Duration, error) {
	before := make([]uint32, len(generations))
	for n, m := range generations {
		var err error
		if before[n], err = generation(m); err != nil {
			return 0, err
		}
	}
	if _, err := c.client.NetworkingV1().NetworkPolicies(ns).Update(ctx, benchNetworkPolicy(i%policyCount, 1000+i), metav1.UpdateOptions{}); err != nil {
		return 0, err
	}
	answered := time.Now()
	for n, m := range generations {
		for {
			now, err := generation(m)
			if err != nil {
				return 0, err
			}
			if now != before[n] {
				break
			}
			if time.Since(answered) > 5*time.Second {
				return 0, fmt.Errorf("node %d never enforced change %d", n+1, i)
			}
			time.Sleep(50 * time.Microsecond)
		}
	}
	late := time.Since(answered)
	time.Sleep(15 * time.Millisecond) // changes that come closer are enforced together
	return late, nil
}

// generation is the first field of the state.
func generation(m *ebpf.Map) (uint32, error) {
	value, err := m.LookupBytes(uint32(0))
	if err != nil || len(value) < 4 {
		return 0, fmt.Errorf("read the policy generation: %w", err)
	}
	return binary.NativeEndian.Uint32(value), nil
}

// benchNetworkPolicy lets in peers that differ with every version.
func benchNetworkPolicy(i, version int) *networkingv1.NetworkPolicy {
	peer := metav1.LabelSelector{MatchLabels: map[string]string{"version": fmt.Sprint(version)}}
	return &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("policy-", i)},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "bench"}},
			Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &peer}}}},
		},
	}
}
