// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"maps"
	"net/netip"
	"slices"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/bpfobj"
	"skep.dev/skep/datapath/compile"
)

// This file says, for each map, what Verify should find in it. The functions inside are called under the node's lock.

// policyChecks are about the maps that verdicts depend on, in the order in which they are written.
func (n *Node) policyChecks() []check {
	p := n.policy
	sets := checkPlaced(n.maps.Set, func() []part[bpfobj.SkepSet] {
		return eachSet(p, func(s *liveSet) run { return run{s.number, 1} },
			func(s *liveSet) []bpfobj.SkepSet { return []bpfobj.SkepSet{s.entry} })
	})
	sets.write = n.hideFirst
	return []check{
		checkPlaced(n.maps.Block, p.rows.parts),
		checkPlaced(n.maps.PortIndex, func() []part[bpfobj.SkepPortNode] {
			return eachSet(p, func(s *liveSet) run { return run{s.at.FirstNode, uint32(compile.PortNodes(len(s.Ports)))} }, portNodes)
		}),
		checkPlaced(n.maps.Port, func() []part[bpfobj.SkepPortSpan] {
			return eachSet(p, func(s *liveSet) run { return run{s.at.FirstPort, uint32(len(s.Ports))} }, portSpans)
		}),
		checkPlaced(n.maps.Rule, func() []part[bpfobj.SkepRule] {
			return eachSet(p, func(s *liveSet) run { return run{s.at.FirstRule, uint32(len(s.rules))} },
				func(s *liveSet) []bpfobj.SkepRule { return s.rules })
		}),
		p.peerCheck(),
		sets,
		&whole{datapath.Repair{Map: n.maps.State.Name, Policy: true}},
		p.cidrCheck(),
		n.addressCheck(),
		checkHeld(n.endpointMap, true, n.ifindexes, func(ifindex uint32) (bpfobj.SkepEndpoint, bool) {
			ep, ok := n.endpointAt(ifindex)
			if !ok {
				return bpfobj.SkepEndpoint{}, false
			}
			entry, _ := n.endpointEntry(ep)
			return entry, true
		}),
	}
}

// plainChecks are about the other maps.
func (n *Node) plainChecks() []check {
	checks := []check{
		checkKeyed(n.maps.EndpointName, false, n.ifindexes, func(ifindex uint32) (bpfobj.SkepEndpointName, bool) {
			ep, ok := n.endpointAt(ifindex)
			if !ok {
				return bpfobj.SkepEndpointName{}, false
			}
			name, err := bpfmap.EndpointName(ep)
			return name, err == nil
		}),
		checkKeyed(n.maps.RuleSlot, false, func() []uint32 {
			var rules []uint32
			for rule := range n.policy.counters.slots {
				rules = append(rules, uint32(rule))
			}
			return rules
		}, func(rule uint32) (bpfobj.SkepRuleSlot, bool) {
			slot, ok := n.policy.counters.slots[datapath.RuleID(rule)]
			return slot, ok
		}),
		n.backendCheck(),
		checkHeld(n.serviceMap, false, func() []bpfobj.SkepServiceKey {
			var keys []bpfobj.SkepServiceKey
			for frontend := range n.services {
				keys = append(keys, bpfmap.ServiceKey(frontend))
			}
			return keys
		}, func(key bpfobj.SkepServiceKey) (bpfobj.SkepService, bool) {
			live, ok := n.services[bpfmap.Frontend(key)]
			if !ok {
				return bpfobj.SkepService{}, false
			}
			return live.entry, true
		}),
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.nodes == nil {
		return checks // what is there was left by an earlier process
	}
	return append(checks, checkHeld(n.nodeMap, false, func() []bpfobj.SkepAddr { return slices.Collect(maps.Keys(n.nodes)) },
		func(addr bpfobj.SkepAddr) (uint32, bool) { flags, ok := n.nodes[addr]; return flags, ok }))
}

// eachSet makes a part of each live set.
func eachSet[V comparable](p *policy, where func(*liveSet) run, entries func(*liveSet) []V) []part[V] {
	parts := make([]part[V], 0, len(p.sets))
	for s := range p.live() {
		parts = append(parts, part[V]{where(s), func() []V {
			if !p.isLive(s) {
				return nil
			}
			return entries(s)
		}})
	}
	return parts
}

func portNodes(s *liveSet) []bpfobj.SkepPortNode {
	var out []bpfobj.SkepPortNode
	for _, node := range compile.PortIndex(s.Ports) {
		out = append(out, bpfmap.PortNode(node))
	}
	return out
}

func portSpans(s *liveSet) []bpfobj.SkepPortSpan {
	var out []bpfobj.SkepPortSpan
	for i, span := range s.Ports {
		out = append(out, bpfmap.PortSpan(span, s.ports[i].row))
	}
	return out
}

// parts are the rows in skep_block. A row's key is all of its content, so nothing else has to be remembered.
func (s *rowStore) parts() []part[bpfobj.SkepBlock] {
	parts := make([]part[bpfobj.SkepBlock], 0, len(s.rows))
	for _, stored := range s.rows {
		parts = append(parts, part[bpfobj.SkepBlock]{runOf(stored.row), func() []bpfobj.SkepBlock {
			if s.rows[stored.key] != stored {
				return nil
			}
			var out []bpfobj.SkepBlock
			for _, block := range compile.RowOf(stored.key).Blocks {
				out = append(out, bpfobj.SkepBlock{Words: block})
			}
			return out
		}})
	}
	return parts
}

func (p *policy) peerCheck() check {
	byNumber := map[uint32]*liveSet{}
	c := checkKeyed(p.node.maps.Peer, true, func() []bpfobj.SkepPeerKey {
		var keys []bpfobj.SkepPeerKey
		for s := range p.live() {
			for class := range s.peers {
				keys = append(keys, bpfobj.SkepPeerKey{Set: s.number, Class: class})
			}
		}
		return keys
	}, func(key bpfobj.SkepPeerKey) (bpfobj.SkepRow, bool) {
		if s := byNumber[key.Set]; s != nil && s.peers[key.Class] != nil {
			return s.peers[key.Class].row, true
		}
		return bpfobj.SkepRow{}, false
	})
	c.begin = func() {
		clear(byNumber)
		for s := range p.live() {
			byNumber[s.number] = s
		}
	}
	return c
}

// cidrCheck reads the whole map again when it looks twice: a look-up finds the longest prefix, not the one asked for.
func (p *policy) cidrCheck() check {
	table := p.node.maps.CIDR
	c := checkKeyed(table, true, func() []bpfobj.SkepCidrKey {
		var keys []bpfobj.SkepCidrKey
		for prefix := range p.prefixes {
			keys = append(keys, bpfmap.CIDRKey(prefix))
		}
		return keys
	}, func(key bpfobj.SkepCidrKey) (uint32, bool) {
		class, ok := p.prefixes[bpfmap.CIDRPrefix(key)]
		return class, ok
	})
	var present map[bpfobj.SkepCidrKey]uint32
	c.begin = func() { present = nil }
	c.lookup = func(key bpfobj.SkepCidrKey) (uint32, bool, error) {
		if present == nil {
			var err error
			if present, err = table.All(); err != nil {
				return 0, false, err
			}
		}
		class, ok := present[key]
		return class, ok, nil
	}
	return c
}

func (n *Node) addressCheck() check {
	return checkHeld(n.addressMap, true, func() []bpfobj.SkepAddr {
		keys := make([]bpfobj.SkepAddr, 0, len(n.policy.addresses))
		for addr := range n.policy.addresses {
			keys = append(keys, bpfmap.AddrOf(addr))
		}
		for addr := range n.owners {
			if _, listed := n.policy.addresses[addr]; !listed {
				keys = append(keys, bpfmap.AddrOf(addr))
			}
		}
		return keys
	}, func(key bpfobj.SkepAddr) (bpfobj.SkepAddress, bool) {
		addr := bpfmap.Addr(key)
		if !addr.IsValid() {
			addr = netip.IPv6Unspecified() // all zero in the map, and no address of anybody
		}
		return n.addressEntry(addr)
	})
}

func (n *Node) ifindexes() []uint32 {
	var out []uint32
	for _, ep := range n.endpoints {
		out = append(out, uint32(ep.Ifindex))
	}
	return out
}

func (n *Node) endpointAt(ifindex uint32) (datapath.Endpoint, bool) {
	for _, ep := range n.endpoints {
		if uint32(ep.Ifindex) == ifindex {
			return ep, true
		}
	}
	return datapath.Endpoint{}, false
}

// backendCheck is about the lists that are in use, and those that a program may still be reading.
func (n *Node) backendCheck() check {
	lists := map[uint32][]bpfobj.SkepBackend{}
	collect := func() {
		clear(lists)
		for _, live := range n.services {
			lists[live.entry.Backends] = live.backends
		}
		for _, old := range n.retired {
			lists[old.entry.Backends] = old.backends
		}
	}
	c := checkKeyed(n.maps.Backend, false, func() []bpfobj.SkepBackendKey {
		collect()
		var keys []bpfobj.SkepBackendKey
		for list, backends := range lists {
			for slot := range backends {
				keys = append(keys, bpfobj.SkepBackendKey{Backends: list, Slot: uint32(slot)})
			}
		}
		return keys
	}, func(key bpfobj.SkepBackendKey) (bpfobj.SkepBackend, bool) {
		backends := lists[key.Backends]
		if int64(key.Slot) >= int64(len(backends)) {
			return bpfobj.SkepBackend{}, false
		}
		return backends[key.Slot], true
	})
	c.begin = collect
	return c
}
