// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// benchNetwork pairs a Service with its one backend reached directly, from a client on the same node and on another.
func (c *cluster) benchNetwork(ctx context.Context) error {
	labels := map[string]string{"app": "bench"}
	pods := []*corev1.Pod{
		c.benchPod("server", c.node(1), labels), c.benchPod("same-node", c.node(1), nil), c.benchPod("across", c.node(2), nil),
	}
	for _, pod := range pods {
		if _, err := c.client.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "bench"}, Spec: corev1.ServiceSpec{Selector: labels}}
	for _, port := range []int32{9000, 9001} {
		service.Spec.Ports = append(service.Spec.Ports, corev1.ServicePort{Name: fmt.Sprint("p", port), Port: port, TargetPort: intstr.FromInt32(port)})
	}
	made, err := c.client.CoreV1().Services("default").Create(ctx, service, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	direct, err := c.waitServer(ctx)
	if err != nil {
		return err
	}
	for _, from := range []string{"same-node", "across"} {
		if err := c.pair(ctx, from, made.Spec.ClusterIP, direct); err != nil {
			return err
		}
	}
	return nil
}

// waitServer waits until the three pods run and the Service answers, and returns the server's own address.
func (c *cluster) waitServer(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for tick := time.NewTicker(100 * time.Millisecond); ; {
		pod, err := c.client.CoreV1().Pods("default").Get(ctx, "server", metav1.GetOptions{})
		if err == nil && pod.Status.PodIP != "" {
			ready := true
			for _, from := range []string{"same-node", "across"} {
				_, err := c.probe(ctx, from, "latency", "-n", "1", net.JoinHostPort(pod.Status.PodIP, "9000"))
				_, err2 := c.probe(ctx, from, "latency", "-n", "1", "bench.default.svc.cluster.local:9000")
				ready = ready && err == nil && err2 == nil
			}
			if ready {
				return pod.Status.PodIP, nil
			}
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("the server does not answer: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// pair runs each measurement in turn through the Service and directly and prints the median of the ratios.
func (c *cluster) pair(ctx context.Context, from, service, direct string) error {
	for _, m := range []struct {
		what, key, port string
		args            []string
		bar             string
	}{
		{"throughput", "bitsPerSecond", "9001", []string{"stream", "-for", "2s"}, "bar 0.98"},
		{"round trip p50", "p50", "9000", []string{"latency", "-n", "5000"}, "bar 1/0.98 = 1.02"},
		{"round trip p99", "p99", "9000", []string{"latency", "-n", "5000"}, "no bar"},
		{"new connections", "perSecond", "9000", []string{"connect", "-for", "1s"}, "bar 0.95"},
	} {
		var ratios, services, directs []float64
		for round := range c.rounds {
			// Which goes first changes from round to round: a machine that speeds up or slows down favours neither.
			order := []string{service, direct}
			if round%2 == 1 {
				slices.Reverse(order)
			}
			figures := map[string]float64{}
			for _, to := range order {
				answer, err := c.probe(ctx, from, append(m.args, net.JoinHostPort(to, m.port))...)
				if err != nil {
					return err
				}
				figures[to] = answer[m.key]
			}
			services, directs = append(services, figures[service]), append(directs, figures[direct])
			ratios = append(ratios, figures[service]/figures[direct])
		}
		row(from+", Service / direct: "+m.what, "%.3f (%s; medians %.4g and %.4g, ratios %.3f to %.3f)",
			median(ratios), m.bar, median(services), median(directs), slices.Min(ratios), slices.Max(ratios))
	}
	return nil
}

func (c *cluster) probe(ctx context.Context, pod string, args ...string) (map[string]float64, error) {
	cmd := c.command(ctx, append([]string{"exec", "-n", "default", pod, "--", "/probe"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%v in %s: %w: %s", args, pod, err, stderr.String())
	}
	var values map[string]float64
	return values, json.Unmarshal(out, &values)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
