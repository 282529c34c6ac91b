// SPDX-License-Identifier: Apache-2.0

// Package fake is an in-memory Datapath for tests of its users: it remembers what it was asked for and fails when told to.
package fake

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"skep.dev/skep/datapath"
)

// Datapath is a datapath.Datapath without a kernel.
type Datapath struct {
	mu        sync.Mutex // guards everything below
	endpoints map[datapath.EndpointID]datapath.Endpoint
	policy    *datapath.PolicyState
	services  []datapath.Service
	nodes     []datapath.Node
	err       error
	changed   chan struct{}
	closed    bool
}

var _ datapath.Datapath = (*Datapath)(nil)

// New returns one that has nothing.
func New() *Datapath {
	return &Datapath{endpoints: map[datapath.EndpointID]datapath.Endpoint{}, changed: make(chan struct{})}
}

// Fail makes every change fail with err from now on; nil ends it. What is there stays, as with the real one.
func (d *Datapath) Fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

// Changed returns a channel that is closed at the next change.
func (d *Datapath) Changed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changed
}

// Policy is the last policy, nil before the first.
func (d *Datapath) Policy() *datapath.PolicyState {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.policy
}

// Services are the last Services.
func (d *Datapath) Services() []datapath.Service {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.services)
}

// Nodes are the last nodes.
func (d *Datapath) Nodes() []datapath.Node {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.nodes)
}

// Closed says whether Close was called.
func (d *Datapath) Closed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed
}

func (d *Datapath) change(ctx context.Context, apply func()) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return d.err
	}
	apply()
	close(d.changed)
	d.changed = make(chan struct{})
	return nil
}

// SetEndpoint remembers an endpoint.
func (d *Datapath) SetEndpoint(ctx context.Context, ep datapath.Endpoint) error {
	return d.change(ctx, func() { d.endpoints[ep.ID] = ep })
}

// DeleteEndpoint forgets an endpoint.
func (d *Datapath) DeleteEndpoint(ctx context.Context, id datapath.EndpointID) error {
	return d.change(ctx, func() { delete(d.endpoints, id) })
}

// Endpoints lists the endpoints in order of their IDs.
func (d *Datapath) Endpoints(context.Context) ([]datapath.Endpoint, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]datapath.Endpoint, 0, len(d.endpoints))
	for _, ep := range d.endpoints {
		out = append(out, ep)
	}
	slices.SortFunc(out, func(a, b datapath.Endpoint) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// SetPolicy remembers the policy.
func (d *Datapath) SetPolicy(ctx context.Context, p *datapath.PolicyState) error {
	return d.change(ctx, func() { d.policy = p })
}

// SetServices remembers the Services.
func (d *Datapath) SetServices(ctx context.Context, services []datapath.Service) error {
	return d.change(ctx, func() { d.services = slices.Clone(services) })
}

// SetNodes remembers the nodes.
func (d *Datapath) SetNodes(ctx context.Context, nodes []datapath.Node) error {
	return d.change(ctx, func() { d.nodes = slices.Clone(nodes) })
}

// FollowAudit hears of nothing.
func (d *Datapath) FollowAudit(ctx context.Context, _ func(datapath.AuditEvent)) error {
	<-ctx.Done()
	return nil
}

// RuleCounters are none: no packet passes.
func (d *Datapath) RuleCounters(context.Context) ([]datapath.RuleCounter, error) { return nil, nil }

// Status is empty: nothing is attached and no packet passes.
func (d *Datapath) Status(context.Context) (datapath.Status, error) { return datapath.Status{}, nil }

// Ask knows no policy: nothing is judged.
func (d *Datapath) Ask(_ context.Context, questions []datapath.Question) ([]datapath.Answer, error) {
	out := make([]datapath.Answer, len(questions))
	for i := range out {
		open := datapath.Verdict{Allowed: true, WouldAllow: true}
		out[i].Egress, out[i].Ingress = open, open
	}
	return out, nil
}

// Verify finds nothing wrong: what is remembered is all there is.
func (d *Datapath) Verify(context.Context) ([]datapath.Repair, error) { return nil, nil }

// Close ends nothing.
func (d *Datapath) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	return nil
}
