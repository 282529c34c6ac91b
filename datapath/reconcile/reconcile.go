// SPDX-License-Identifier: Apache-2.0

// Package reconcile makes the maps of a node agree with intent: what is missing is added before anything refers to it, and what
// nobody refers to any more is deleted last. It adopts what it finds in the maps.
package reconcile

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/bpfobj"
)

// bumpInterval is the least time between two policy generations. Every generation has all flows judged again, so a busy cluster
// must not make one per change.
const bumpInterval = 10 * time.Millisecond

// Clock is the time that a Node goes by.
type Clock struct {
	Now   func() time.Time
	Sleep func(time.Duration)
	// Settle returns when every program that runs now has ended; nil asks the kernel.
	Settle func()
}

// Node owns the content of one node's maps. All methods are safe for concurrent use.
type Node struct {
	maps  *bpfmap.Maps
	clock Clock

	mu        sync.Mutex // guards everything below
	state     bpfobj.SkepState
	bumped    time.Time
	endpoints map[datapath.EndpointID]datapath.Endpoint
	// written are the endpoints' entries as this process wrote them, by interface.
	written     map[uint32]bpfobj.SkepEndpoint
	owners      map[netip.Addr]datapath.Endpoint // by address; of two endpoints with one address the newer
	addressMap  *held[bpfobj.SkepAddr, bpfobj.SkepAddress]
	endpointMap *held[uint32, bpfobj.SkepEndpoint]
	serviceMap  *held[bpfobj.SkepServiceKey, bpfobj.SkepService]
	nodeMap     *held[bpfobj.SkepAddr, uint32]
	// settled is a time: all programs that ran then have ended.
	settled time.Time

	policy   *policy
	nodes    map[bpfobj.SkepAddr]uint32 // nil before the first are set
	services map[datapath.Frontend]*liveService
	retired  []retiredService
}

// New takes over the maps as they are.
func New(maps *bpfmap.Maps, clock Clock) (*Node, error) {
	n := &Node{
		maps: maps, clock: clock,
		endpoints: map[datapath.EndpointID]datapath.Endpoint{},
		written:   map[uint32]bpfobj.SkepEndpoint{},
		owners:    map[netip.Addr]datapath.Endpoint{},
		services:  map[datapath.Frontend]*liveService{},
	}
	n.addressMap = &held[bpfobj.SkepAddr, bpfobj.SkepAddress]{
		table: maps.Address, change: maps.ChangeAddress, await: n.await, now: clock.Now,
		inPlace: func(_, _ bpfobj.SkepAddress) bool { return true },
	}
	n.endpointMap = &held[uint32, bpfobj.SkepEndpoint]{
		table: maps.Endpoint, change: maps.ChangeEndpoint, await: n.await, now: clock.Now,
		inPlace: bpfmap.SamePod,
	}
	n.serviceMap = &held[bpfobj.SkepServiceKey, bpfobj.SkepService]{
		table: maps.Service, change: maps.ChangeService, await: n.await, now: clock.Now,
		inPlace: func(from, to bpfobj.SkepService) bool { return from.Id == to.Id },
	}
	n.nodeMap = &held[bpfobj.SkepAddr, uint32]{
		table: maps.Node, await: n.await, now: clock.Now, inPlace: func(_, _ uint32) bool { return false },
	}
	var err error
	if n.state, _, err = maps.State.Get(0); err != nil {
		return nil, err
	}
	if n.state.Generation == 0 {
		n.state.Generation = 1
		if err := n.saveState(); err != nil {
			return nil, err
		}
	}
	if n.policy, err = adoptPolicy(n); err != nil {
		return nil, fmt.Errorf("adopt policy: %w", err)
	}
	if err := n.adoptEndpoints(); err != nil {
		return nil, fmt.Errorf("adopt endpoints: %w", err)
	}
	if err := n.adoptOwners(); err != nil {
		return nil, fmt.Errorf("adopt addresses: %w", err)
	}
	if err := n.adoptServices(); err != nil {
		return nil, fmt.Errorf("adopt services: %w", err)
	}
	return n, nil
}

func (n *Node) saveState() error { return n.maps.State.Put(0, n.state) }

// bump starts a new policy generation: every flow is judged again with its next packet.
func (n *Node) bump() error {
	if wait := bumpInterval - n.clock.Now().Sub(n.bumped); wait > 0 {
		n.clock.Sleep(wait)
	}
	n.bumped = n.clock.Now()
	n.state.Generation++
	return n.saveState()
}

// SetPolicy makes a policy the one that is enforced. See policy.apply for the order.
func (n *Node) SetPolicy(p *datapath.PolicyState) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.policy.apply(p)
}
