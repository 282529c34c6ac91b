// SPDX-License-Identifier: Apache-2.0

// Package nodeproxy puts questions to the agents of nodes by way of the API server, which asks for the verb get on nodes/proxy.
package nodeproxy

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"k8s.io/client-go/rest"
)

// answerLimit bounds each question, so that one dead node does not hide the others; askedAtOnce how many nodes are asked at a time.
const (
	answerLimit = 5 * time.Second
	askedAtOnce = 50
)

// Answer is what one node says, or why it does not.
type Answer[T any] struct {
	Node  string
	Value T
	Err   error
}

// Ask puts one question to nodes at the same time; an answer is JSON. The answers come in the order of the nodes.
func Ask[T any](ctx context.Context, core rest.Interface, nodes []string, path string, query map[string]string) []Answer[T] {
	out := make([]Answer[T], len(nodes))
	free := make(chan struct{}, askedAtOnce)
	var asking sync.WaitGroup
	for i, node := range nodes {
		free <- struct{}{}
		asking.Go(func() {
			defer func() { <-free }()
			out[i].Node = node
			out[i].Value, out[i].Err = ask[T](ctx, core, node, path, query)
		})
	}
	asking.Wait()
	return out
}

func ask[T any](ctx context.Context, core rest.Interface, node, path string, query map[string]string) (value T, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	request := core.Get().Resource("nodes").Name(node).SubResource("proxy").Suffix(path).MaxRetries(0)
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
