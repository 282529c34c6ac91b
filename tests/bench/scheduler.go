// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skep.dev/skep/controlplane/scheduler/place"
)

const (
	simulatedNodes = 1000
	zones          = 10
	runningPods    = 30 // on each node, before decisions are measured
	boundPods      = 1000
	decideFor      = time.Second
)

// wishes are the kinds of pods to be placed. None of them can be refused for want of a node.
var wishes = []struct {
	name string
	add  func(*corev1.Pod)
}{
	{"plain", func(*corev1.Pod) {}},
	{"hard spread over zones", func(p *corev1.Pod) { spread(p, corev1.LabelTopologyZone) }},
	{"hard spread over nodes", func(p *corev1.Pod) { spread(p, corev1.LabelHostname) }},
	{"anti-affinity by node", func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
				TopologyKey: corev1.LabelHostname, LabelSelector: metav1.SetAsLabelSelector(p.Labels),
			}},
		}}
	}},
}

func spread(p *corev1.Pod, key string) {
	p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		MaxSkew: 1, TopologyKey: key, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: metav1.SetAsLabelSelector(p.Labels),
	}}
}

// benchScheduler measures decisions alone, and pods from their creation to their binding by a server.
func (o options) benchScheduler(ctx context.Context) error {
	working := place.NewSnapshot(workingNodes(), nil)
	for i, wish := range wishes {
		var rates, perCPU []float64
		for range o.rounds {
			wall, cpu, err := decideRate(working, i)
			if err != nil {
				return fmt.Errorf("decide: %s: %w", wish.name, err)
			}
			rates, perCPU = append(rates, wall), append(perCPU, cpu)
		}
		row("decisions, "+wish.name, "%.0f/s (bar 5000; %.0f to %.0f), %.0f per second of processor time, %d nodes", median(rates),
			slices.Min(rates), slices.Max(rates), median(perCPU), simulatedNodes)
	}
	for i, wish := range wishes {
		var rates, costs []float64
		for range o.rounds {
			rate, cost, err := o.bindRate(ctx, i)
			if err != nil {
				return fmt.Errorf("bind: %s: %w", wish.name, err)
			}
			rates, costs = append(rates, rate), append(costs, cost)
		}
		row("pods created and bound, "+wish.name, "%.0f/s (bar 600; %.0f to %.0f), %.2f ms of the server's processor time each, %d pods on %d nodes, fsync",
			median(rates), slices.Min(rates), slices.Max(rates), median(costs), boundPods, simulatedNodes)
	}
	return nil
}

func simulatedNode(i int) *corev1.Node {
	name := fmt.Sprintf("node-%04d", i)
	n := &corev1.Node{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			corev1.LabelHostname: name, corev1.LabelTopologyZone: fmt.Sprint("zone-", i%zones),
		}},
	}
	n.Status.Allocatable = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("64Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	n.Status.Capacity = n.Status.Allocatable
	now := metav1.Now()
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Simulated", LastHeartbeatTime: now, LastTransitionTime: now}}
	return n
}

// appPod makes a pod of an app, which has a controller.
func appPod(name, app string) *corev1.Pod {
	p := ordinaryPod(name)
	p.Labels = map[string]string{"app": app}
	p.Spec.SchedulerName = corev1.DefaultSchedulerName
	yes := true
	p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: app, UID: types.UID(app), Controller: &yes}}
	return p
}

// decideRate decides about pods of a new app in a cluster at work, each in the snapshot that the last one left. It returns the
// decisions per second, and per second of processor time: what they would be if nobody else used the machine.
func decideRate(start *place.Snapshot, wish int) (wall, cpu float64, err error) {
	s, random := start, rand.New(rand.NewPCG(1, 1))
	n, began, used := 0, time.Now(), processorTime()
	for ; time.Since(began) < decideFor; n++ {
		if n%simulatedNodes == 0 {
			s = start // with anti-affinity the nodes are used up
		}
		api := appPod(fmt.Sprint("new-", n), "new")
		api.Namespace, api.UID = "bench", types.UID(api.Name)
		wishes[wish].add(api)
		p := place.NewPod(api)
		node, err := place.Decide(s, p, random)
		if err != nil {
			return 0, 0, err
		}
		s = s.Replace(node, node.With(p))
	}
	return float64(n) / time.Since(began).Seconds(), float64(n) / (processorTime() - used).Seconds(), nil
}

// processorTime is what all threads of this process have used, those that collect garbage included.
func processorTime() time.Duration {
	var usage unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &usage) // only fails for other arguments
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func workingNodes() []*place.Node {
	nodes := make([]*place.Node, simulatedNodes)
	for i := range nodes {
		nodes[i] = place.NewNode(simulatedNode(i))
		for j := range runningPods {
			pod := appPod(fmt.Sprintf("old-%d-%d", i, j), fmt.Sprint("app-", (i+j)%100))
			pod.Namespace, pod.UID = "bench", types.UID(pod.Name)
			nodes[i] = nodes[i].With(place.NewPod(pod))
		}
	}
	return nodes
}

// bindRate creates pods as fast as the server takes them and measures until the last one is bound. It returns pods per second and
// the server's processor time for each, in milliseconds.
func (o options) bindRate(ctx context.Context, wish int) (rate, cost float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	s, err := startSkep(ctx, o)
	if err != nil {
		return 0, 0, err
	}
	defer s.stop()
	if err := s.addNodes(ctx); err != nil {
		return 0, 0, err
	}
	if _, err := s.client().do(ctx, http.MethodPost, "/api/v1/namespaces", object("Namespace", "bench")); err != nil {
		return 0, 0, err
	}
	bound := make(chan error, 1)
	go func() { bound <- s.waitBound(ctx) }()
	before, err := s.processorTime()
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	if err := s.each(createClients, boundPods, func(c *apiClient, i int) error {
		pod := ordinaryPod(fmt.Sprint("pod-", i))
		wishes[wish].add(pod)
		_, err := c.do(ctx, http.MethodPost, inBench(pods), pod)
		return err
	}); err != nil {
		return 0, 0, err
	}
	if err := <-bound; err != nil {
		return 0, 0, err
	}
	took := time.Since(began)
	after, err := s.processorTime()
	return boundPods / took.Seconds(), (after - before).Seconds() * 1000 / boundPods, err
}

// waitBound returns when all pods have a node. A server that is short of time ends a watch that lags; the next one begins with
// the pods that are bound by then.
func (s *apiServer) waitBound(ctx context.Context) error {
	for {
		events, err := s.client().open(ctx, http.MethodGet, inBench(pods)+"?watch=1&fieldSelector=spec.nodeName!=", nil)
		if err != nil {
			return err
		}
		n := 0
		for lines := bufio.NewScanner(events); n < boundPods && lines.Scan(); {
			if bytes.HasPrefix(lines.Bytes(), []byte(`{"type":"ADDED"`)) {
				n++
			}
		}
		if err := errors.Join(ctx.Err(), events.Close()); err != nil || n == boundPods {
			return err
		}
	}
}

// addNodes makes the nodes and waits until they take pods. Nobody renews their leases: the pods must come within the grace of silent nodes.
func (s *apiServer) addNodes(ctx context.Context) error {
	if err := s.each(createClients, simulatedNodes, func(c *apiClient, i int) error {
		node := simulatedNode(i)
		if _, err := c.do(ctx, http.MethodPost, "/api/v1/nodes", node); err != nil {
			return err
		}
		_, err := c.do(ctx, http.MethodPatch, "/api/v1/nodes/"+node.Name+"/status", map[string]any{"status": node.Status})
		return err
	}); err != nil {
		return err
	}
	return s.waitTaints(ctx)
}

// waitTaints waits until no node is kept free by a taint any more: new nodes carry one until they are seen to be ready.
func (s *apiServer) waitTaints(ctx context.Context) error {
	for tick := time.NewTicker(200 * time.Millisecond); ; {
		var nodes corev1.NodeList
		body, err := s.client().open(ctx, http.MethodGet, "/api/v1/nodes", nil)
		if err != nil {
			return err
		}
		err = errors.Join(json.NewDecoder(body).Decode(&nodes), body.Close())
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(nodes.Items, func(n corev1.Node) bool { return len(n.Spec.Taints) > 0 }) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the nodes are not ready: %w", ctx.Err())
		case <-tick.C:
		}
	}
}
