// SPDX-License-Identifier: Apache-2.0

// Package policy asks the nodes of a cluster about its policies, by way of the API server, and shows a person the sum of what they say.
package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// answerLimit bounds each question, so that one dead node does not hide the others; askedAtOnce how many nodes are asked at a time.
const (
	answerLimit = 5 * time.Second
	askedAtOnce = 50
)

// answer is what one node says, or why it does not.
type answer[T any] struct {
	node  string
	value T
	err   error
}

// nodesToAsk are those that are Ready, or the one that is named.
func nodesToAsk(ctx context.Context, client kubernetes.Interface, only string) ([]string, error) {
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	var names, ready []string
	for _, n := range list.Items {
		names = append(names, n.Name)
		if isReady(&n) {
			ready = append(ready, n.Name)
		}
	}
	switch {
	case only == "" && len(ready) == 0:
		return nil, errors.New("no node is ready")
	case only == "":
		return ready, nil
	case !slices.Contains(names, only):
		return nil, fmt.Errorf("there is no node %q; there are %s", only, strings.Join(names, ", "))
	}
	return []string{only}, nil
}

func isReady(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// ask puts one question to nodes at the same time. The answers come in the order of the nodes.
func ask[T any](ctx context.Context, client rest.Interface, nodes []string, path string, query map[string]string) []answer[T] {
	out := make([]answer[T], len(nodes))
	free := make(chan struct{}, askedAtOnce)
	var asking sync.WaitGroup
	for i, node := range nodes {
		free <- struct{}{}
		asking.Go(func() {
			defer func() { <-free }()
			out[i].node = node
			out[i].value, out[i].err = askOne[T](ctx, client, node, path, query)
		})
	}
	asking.Wait()
	return out
}

func askOne[T any](ctx context.Context, client rest.Interface, node, path string, query map[string]string) (value T, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	request := client.Get().Resource("nodes").Name(node).SubResource("proxy").Suffix(path).MaxRetries(0)
	for name, text := range query {
		request = request.Param(name, text)
	}
	data, err := request.DoRaw(ctx)
	if err != nil {
		return value, err
	}
	if err := json.Unmarshal(data, &value); err != nil {
		return value, fmt.Errorf("read the answer: %w", err)
	}
	return value, nil
}

// missing says which nodes did not answer; nil when all did. A refusal by the server is told once.
func missing[T any](answers []answer[T]) error {
	var texts []string
	for _, a := range answers {
		if apierrors.IsForbidden(a.err) || apierrors.IsUnauthorized(a.err) {
			return fmt.Errorf("%w (it takes the verb get on nodes/proxy)", a.err)
		}
		if a.err != nil {
			texts = append(texts, fmt.Sprintf("%s: %v", a.node, a.err))
		}
	}
	if len(texts) == 0 {
		return nil
	}
	return fmt.Errorf("%d/%d nodes answered; not in this: %s", len(answers)-len(texts), len(answers), strings.Join(texts, "; "))
}
