// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	createClients = 32
	createFor     = 2 * time.Second
	listedPods    = 10_000
	readFor       = 10 * time.Second
	readClients   = 32
	watchers      = 100
	watchWrites   = 200
)

// benchAPI measures a server without nodes.
func (o options) benchAPI(ctx context.Context) error {
	s, err := startSkep(ctx, o)
	if err != nil {
		return err
	}
	defer s.stop()
	if _, err := s.client().do(ctx, http.MethodPost, "/api/v1/namespaces", object("Namespace", "bench")); err != nil {
		return err
	}
	if err := s.benchCreates(ctx, o.rounds); err != nil {
		return fmt.Errorf("creates: %w", err)
	}
	if err := s.benchWatch(ctx); err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	if err := s.benchReads(ctx); err != nil {
		return fmt.Errorf("reads: %w", err)
	}
	return nil
}

func object(kind, name string) map[string]any {
	return map[string]any{"apiVersion": "v1", "kind": kind, "metadata": map[string]any{"name": name}}
}

// Paths of what is created.
const (
	configMaps = "configmaps"
	pods       = "pods"
)

func inBench(resource string) string { return "/api/v1/namespaces/bench/" + resource }

var created atomic.Int64

// unique is a name that no other process of a run gives either.
func unique() string { return fmt.Sprintf("bench-%d-%d", os.Getpid(), created.Add(1)) }

// ordinary makes an object of ordinary size: a ConfigMap of 1 KB, or a pod that no scheduler looks at.
func ordinary(kind string) any {
	if kind == configMaps {
		m := object("ConfigMap", unique())
		m["data"] = map[string]string{"config.yaml": strings.Repeat("key: value of ordinary length 12\n", 1000/33)}
		return m
	}
	pod := ordinaryPod(unique())
	pod.Spec.SchedulerName = "nobody"
	return pod
}

func ordinaryPod(name string) *corev1.Pod {
	probe := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{}}, PeriodSeconds: 10}
	probe.TCPSocket.Port.IntVal = 8080
	return &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "shop", "tier": "front", "version": "v12"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "main", Image: "registry.example/shop/front:v12", Args: []string{"--listen", ":8080", "--log", "json"},
			Env:            []corev1.EnvVar{{Name: "LOG_LEVEL", Value: "info"}, {Name: "BACKEND", Value: "http://back.shop.svc:8080"}},
			Ports:          []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
			ReadinessProbe: probe,
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("16Mi"),
			}},
		}}},
	}
}

// benchCreates pairs creates by the server with those of the bare registry, in changing order.
func (s *apiServer) benchCreates(ctx context.Context, rounds int) error {
	bare, err := startBare(ctx)
	if err != nil {
		return err
	}
	defer bare.stop()
	for _, kind := range []string{configMaps, pods} {
		rates, costs := map[string][]float64{}, map[string][]float64{}
		arms := []struct {
			name   string
			server *apiServer
			rate   func(context.Context, string) (float64, error)
		}{
			{"skep", s, s.createRate}, {"bare", bare, bare.createRate}, {"inside", bare, bare.insideRate},
		}
		for range rounds {
			for _, arm := range arms {
				before, err := arm.server.processorTime()
				if err != nil {
					return err
				}
				rate, err := arm.rate(ctx, kind)
				if err != nil {
					return fmt.Errorf("%s: %w", arm.name, err)
				}
				after, err := arm.server.processorTime()
				if err != nil {
					return err
				}
				rates[arm.name] = append(rates[arm.name], rate)
				costs[arm.name] = append(costs[arm.name], (after-before).Seconds()*1000/(rate*createFor.Seconds()))
			}
			slices.Reverse(arms)
		}
		row(fmt.Sprintf("%s created, %d clients, JSON, fsync", kind, createClients), "%.0f/s (bar 700; %.0f to %.0f)",
			median(rates["skep"]), slices.Min(rates["skep"]), slices.Max(rates["skep"]))
		ratioRow("  / bare registry behind TLS and JSON", "bar 0.8", rates["skep"], rates["bare"])
		ratioRow("  / bare registry called in its process", "no bar", rates["skep"], rates["inside"])
		row("  processor time of the server for each", "%.2f ms; bare behind TLS and JSON %.2f ms; bare in its process %.2f ms",
			median(costs["skep"]), median(costs["bare"]), median(costs["inside"]))
	}
	return nil
}

// ratioRow prints the median of the paired ratios.
func ratioRow(what, bar string, figures, references []float64) {
	ratios := make([]float64, len(figures))
	for i := range figures {
		ratios[i] = figures[i] / references[i]
	}
	row(what, "%.2f (%s; %.2f to %.2f; reference %.0f/s)", median(ratios), bar, slices.Min(ratios), slices.Max(ratios), median(references))
}

func (s *apiServer) createRate(ctx context.Context, kind string) (float64, error) {
	took, err := s.storm(createClients, createFor, func(c *apiClient) error {
		_, err := c.do(ctx, http.MethodPost, inBench(kind), ordinary(kind))
		return err
	})
	return float64(len(took)) / createFor.Seconds(), err
}

func (s *apiServer) insideRate(ctx context.Context, kind string) (float64, error) {
	body, err := s.client().open(ctx, http.MethodPost, "/inside/bench/"+kind, ordinary(kind))
	if err != nil {
		return 0, err
	}
	defer body.Close()
	raw, err := io.ReadAll(body)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(string(raw))
	return float64(n) / createFor.Seconds(), err
}

// benchWatch changes one object again and again and measures from each answer to the event at each of many watchers.
func (s *apiServer) benchWatch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	m := object("ConfigMap", "watched")
	m["metadata"].(map[string]any)["labels"] = map[string]string{"watched": "yes"}
	writer := s.client()
	if _, err := writer.do(ctx, http.MethodPost, inBench(configMaps), m); err != nil {
		return err
	}
	arrived := make(chan time.Time, watchers)
	for range watchers {
		body, err := s.client().open(ctx, http.MethodGet, inBench(configMaps)+"?watch=1&labelSelector=watched", nil)
		if err != nil {
			return err
		}
		defer body.Close()
		go func() {
			// One line is one event. The first is the object as it is.
			for lines := bufio.NewScanner(body); lines.Scan(); {
				arrived <- time.Now()
			}
		}()
	}
	late := make([]time.Duration, 0, watchers*watchWrites)
	for i := range 1 + watchWrites {
		answered := time.Now()
		if i > 0 {
			if _, err := writer.do(ctx, http.MethodPatch, inBench(configMaps)+"/watched", map[string]any{"data": map[string]string{"i": fmt.Sprint(i)}}); err != nil {
				return err
			}
			answered = time.Now()
		}
		for range watchers {
			select {
			case at := <-arrived:
				if i > 0 {
					late = append(late, max(0, at.Sub(answered))) // an event may come before the answer
				}
			case <-ctx.Done():
				return fmt.Errorf("an event of write %d is missing: %w", i, ctx.Err())
			}
		}
	}
	row(fmt.Sprintf("write answered -> event, %d watchers", watchers), "p50 %v, p99 %v, %d events", quantile(late, 0.5), quantile(late, 0.99), len(late))
	return nil
}

// benchReads lists many pods beside clients that get single ones, then with every client listing.
func (s *apiServer) benchReads(ctx context.Context) error {
	const ns = "/api/v1/namespaces/reads"
	if _, err := s.client().do(ctx, http.MethodPost, "/api/v1/namespaces", object("Namespace", "reads")); err != nil {
		return err
	}
	err := s.each(createClients, listedPods, func(c *apiClient, i int) error {
		pod := ordinaryPod(fmt.Sprint("pod-", i))
		pod.Spec.SchedulerName = "nobody"
		_, err := c.do(ctx, http.MethodPost, ns+"/pods", pod)
		return err
	})
	if err != nil {
		return err
	}
	var size atomic.Int64
	list := func(c *apiClient) error {
		n, err := c.do(ctx, http.MethodGet, ns+"/pods", nil)
		size.Store(n)
		return err
	}
	get := func(c *apiClient) error {
		_, err := c.do(ctx, http.MethodGet, fmt.Sprintf("%s/pods/pod-%d", ns, rand.IntN(listedPods)), nil)
		return err
	}
	if err := s.resetPeak(); err != nil {
		return err
	}
	var lists, gets []time.Duration
	err = crowd(2, func(part int) (err error) {
		if part == 0 {
			lists, err = s.storm(1, readFor, list)
		} else {
			gets, err = s.storm(readClients-1, readFor, get)
		}
		return err
	})
	if err != nil {
		return err
	}
	peak, err := s.peak()
	if err != nil {
		return err
	}
	row(fmt.Sprintf("1 lister of %d pods beside %d getters", listedPods, readClients-1), "%d lists of %d MB, peak of the server's memory %.0f MB",
		len(lists), size.Load()/1e6, peak)
	row("  list", "p50 %v, p99 %v (bar p99 1.5 s)", quantile(lists, 0.5), quantile(lists, 0.99))
	row("  get", "p50 %v, p99 %v (bar p99 1.5 s), %.0f/s", quantile(gets, 0.5), quantile(gets, 0.99), float64(len(gets))/readFor.Seconds())
	if lists, err = s.storm(readClients, readFor, list); err != nil {
		return err
	}
	if peak, err = s.peak(); err != nil {
		return err
	}
	row(fmt.Sprintf("%d listers of %d pods", readClients, listedPods), "p50 %v, p99 %v (no bar), peak of the server's memory %.0f MB",
		quantile(lists, 0.5), quantile(lists, 0.99), peak)
	return nil
}
