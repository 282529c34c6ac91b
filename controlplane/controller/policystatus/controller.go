// SPDX-License-Identifier: Apache-2.0

// Package policystatus says in the status of ClusterNetworkPolicies whether they are in force. It is the only writer of its conditions.
//
// Agents write nothing: the controller asks the nodes, by way of the API server, and only when there is something to find out. So a
// cluster in which all is well costs nothing but a look at the list of policies.
package policystatus

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"skep.dev/skep/controlplane/controller/loop"
	"skep.dev/skep/controlplane/nodeproxy"
	"skep.dev/skep/enforcement"
)

// every is how often policies are looked at.
const every = 2 * time.Second

// api is where ClusterNetworkPolicies are.
var api = fmt.Sprintf("/apis/%s/%s/clusternetworkpolicies", policyv1alpha2.GroupVersion.Group, policyv1alpha2.GroupVersion.Version)

// Controller looks at all policies at once.
type Controller struct {
	client rest.Interface
	nodes  corelisters.NodeLister
	log    *slog.Logger
}

// New makes the controller and registers its watch.
func New(env loop.Env) *Controller {
	return &Controller{
		client: env.Client.CoreV1().RESTClient(), nodes: env.Informers.Core().V1().Nodes().Lister(),
		log: env.Logger.With("component", "policystatus"),
	}
}

// Run looks until ctx ends.
func (c *Controller) Run(ctx context.Context) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := c.look(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("conditions of cluster network policies are not up to date, trying again", "err", err)
		}
	}
}

// look brings the conditions up to date.
func (c *Controller) look(ctx context.Context) error {
	policies, err := c.list(ctx)
	if err != nil || len(policies) == 0 {
		return err
	}
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	ready, trouble := readyNodes(nodes)
	if !trouble && !anyStale(policies, len(ready)) {
		return nil
	}
	said := c.ask(ctx, ready)
	for i := range policies {
		if err := c.write(ctx, &policies[i], said); err != nil {
			return err
		}
	}
	return nil
}

// list reads what the server has in memory. A server without the kind has no policies.
func (c *Controller) list(ctx context.Context) ([]policyv1alpha2.ClusterNetworkPolicy, error) {
	data, err := c.client.Get().AbsPath(api).Param("resourceVersion", "0").SetHeader("Accept", "application/json").DoRaw(ctx)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list cluster network policies: %w", err)
	}
	var list struct {
		Items []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("read cluster network policies: %w", err)
	}
	return readable(list.Items), nil
}

// readable leaves out what is in the store with other types than a ClusterNetworkPolicy has: nobody could write its status.
func readable(items []json.RawMessage) []policyv1alpha2.ClusterNetworkPolicy {
	var out []policyv1alpha2.ClusterNetworkPolicy
	for _, item := range items {
		var p policyv1alpha2.ClusterNetworkPolicy
		if json.Unmarshal(item, &p) == nil {
			out = append(out, p)
		}
	}
	return out
}

// ask asks nodes what they say of the policies of the cluster.
func (c *Controller) ask(ctx context.Context, nodes []string) []answer {
	reports := nodeproxy.Ask[enforcement.Report](ctx, c.client, nodes, enforcement.StatusPath, map[string]string{"namespace": ""})
	out := make([]answer, len(reports))
	for i, r := range reports {
		out[i] = answer{node: r.Node, policies: map[string]enforcement.Policy{}, err: r.Err}
		for _, p := range r.Value.Policies {
			out[i].policies[p.Name] = p
		}
	}
	return out
}

// write writes the conditions of a policy if they differ. Somebody else's write in between is no fault: the next look sees it.
func (c *Controller) write(ctx context.Context, p *policyv1alpha2.ClusterNetworkPolicy, said []answer) error {
	conditions, changed := conditionsOf(p, said)
	if !changed {
		return nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": metav1.ObjectMeta{UID: p.UID, ResourceVersion: p.ResourceVersion},
		"status":   map[string]any{"conditions": conditions},
	})
	if err != nil {
		return err
	}
	var code int
	err = c.client.Patch(types.MergePatchType).AbsPath(api, p.Name, "status").SetHeader("Accept", "application/json").Body(patch).Do(ctx).StatusCode(&code).Error()
	if code == http.StatusConflict || code == http.StatusNotFound {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write the conditions of %s: %w", p.Name, err)
	}
	return nil
}
