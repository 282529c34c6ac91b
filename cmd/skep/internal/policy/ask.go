// SPDX-License-Identifier: Apache-2.0

// Package policy asks the nodes of a cluster about its policies, by way of the API server, and shows a person the sum of what they say.
package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	nodeutil "k8s.io/component-helpers/node/util"

	"skep.dev/skep/controlplane/nodeproxy"
)

// nodesToAsk are those that are Ready, or the one that is named.
func nodesToAsk(ctx context.Context, client kubernetes.Interface, only string) ([]string, error) {
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	var names, ready []string
	for _, n := range list.Items {
		names = append(names, n.Name)
		if _, c := nodeutil.GetNodeCondition(&n.Status, corev1.NodeReady); c != nil && c.Status == corev1.ConditionTrue {
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

// missing says which nodes did not answer; nil when all did. A refusal by the server is told once.
func missing[T any](answers []nodeproxy.Answer[T]) error {
	var texts []string
	for _, a := range answers {
		if apierrors.IsForbidden(a.Err) || apierrors.IsUnauthorized(a.Err) {
			return fmt.Errorf("%w (it takes the verb get on nodes/proxy)", a.Err)
		}
		if a.Err != nil {
			texts = append(texts, fmt.Sprintf("%s: %v", a.Node, a.Err))
		}
	}
	if len(texts) == 0 {
		return nil
	}
	return fmt.Errorf("%d/%d nodes answered; not in this: %s", len(answers)-len(texts), len(answers), strings.Join(texts, "; "))
}
