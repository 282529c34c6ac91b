// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"maps"
	"net/netip"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/bpfobj"
	"skep.dev/skep/datapath/compile"
)

// inheritance lists the keys that were in the maps when this process took them over. Set and class numbers mean nothing
// without the names behind them, which the maps do not hold; so the first policy is written beside what is there, endpoints move
// over, and only then this is deleted.
type inheritance struct {
	// over says that a policy of this process decides: what that does not name has none any more.
	over  bool
	sets  map[uint32]bpfobj.SkepSet
	peers []bpfobj.SkepPeerKey
	runs  []run
	// unfinished are numbers of sets that are not visible but have rows: the process died while it wrote or removed them.
	unfinished map[uint32]bool
	// passing are the rows of passages.
	passing []bpfobj.SkepPeerKey
}

func adoptPolicy(n *Node) (*policy, error) {
	p := &policy{
		node:      n,
		classes:   map[compile.ClassKey]class{compile.NoClass: {number: noClass}},
		addresses: map[netip.Addr]uint32{},
		prefixes:  map[compile.Prefix]uint32{},
		loose:     map[netip.Addr]bool{},
		sets:      map[datapath.SetID]*liveSet{},
		naming:    map[datapath.AtomID]map[*liveSet]bool{},
	}
	sets, err1 := visibleSets(n)
	peers, err2 := n.maps.Peer.All()
	rows, err3 := rowsOf(n, sets)
	counters, err4 := adoptCounters(n)
	if err := errors.Join(err1, err2, err3, err4, p.adoptClasses()); err != nil {
		return nil, err
	}
	h := &inheritance{sets: sets, unfinished: map[uint32]bool{}}
	used := map[run]bool{}
	for key, row := range peers {
		h.peers = append(h.peers, key)
		used[runOf(row)] = true
		if _, visible := sets[key.Set]; !visible {
			h.unfinished[key.Set] = true
		}
	}
	for _, row := range rows {
		used[runOf(row)] = true
	}
	for r := range used {
		if r.length > 0 {
			h.runs = append(h.runs, r)
		}
	}
	// Number 0 is never given out: it is what an endpoint without policy has.
	numbers, ruleSpace, portSpace, nodeSpace := []run{{0, 1}}, []run{}, []run{}, []run{}
	for number, set := range sets {
		numbers = append(numbers, run{number, 1})
		ruleSpace = append(ruleSpace, rulesOf(set))
		if set.Ports > 0 {
			portSpace = append(portSpace, run{set.FirstPort, set.Ports})
			nodeSpace = append(nodeSpace, nodesOf(set))
		}
	}
	for number := range h.unfinished {
		numbers = append(numbers, run{number, 1})
	}
	p.rows = &rowStore{
		table: n.maps.Block, rows: map[string]*storedRow{},
		blocks: newExtents(n.maps.Block.Name, n.maps.Block.MaxEntries(), n.clock.Now, h.runs),
	}
	p.numbers = newExtents(n.maps.Set.Name, n.maps.Set.MaxEntries(), n.clock.Now, numbers)
	p.ruleSpace = newExtents(n.maps.Rule.Name, n.maps.Rule.MaxEntries(), n.clock.Now, ruleSpace)
	p.portSpace = newExtents(n.maps.Port.Name, n.maps.Port.MaxEntries(), n.clock.Now, portSpace)
	p.nodeSpace = newExtents(n.maps.PortIndex.Name, n.maps.PortIndex.MaxEntries(), n.clock.Now, nodeSpace)
	p.counters = counters
	if len(sets)+len(peers) > 0 {
		p.inherited = h
	}
	return p, nil
}

// visibleSets reads the sets that are in use.
func visibleSets(n *Node) (map[uint32]bpfobj.SkepSet, error) {
	all, err := n.maps.Set.All()
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(all, func(_ uint32, s bpfobj.SkepSet) bool { return s.Flags == 0 })
	return all, nil
}

// rulesOf is where the rules of a set lie, its defaults included.
func rulesOf(set bpfobj.SkepSet) run {
	return run{set.FirstRule, set.Rules + uint32(bpfobj.SkepViewSKEP_VIEWS)}
}

// nodesOf is where the port index of a set lies.
func nodesOf(set bpfobj.SkepSet) run {
	return run{set.FirstNode, uint32(compile.PortNodes(int(set.Ports)))}
}

// rowsOf reads the rows of the sets' views and port spans.
func rowsOf(n *Node, sets map[uint32]bpfobj.SkepSet) ([]bpfobj.SkepRow, error) {
	var rows []bpfobj.SkepRow
	for _, set := range sets {
		if bpfobj.SkepSetFlag(set.Flags)&bpfobj.SkepSetFlagSET_AUDIT != 0 {
			rows = append(rows, set.Views[:]...)
		}
		for i := range set.Ports {
			span, _, err := n.maps.Port.Get(set.FirstPort + i)
			if err != nil {
				return nil, err
			}
			rows = append(rows, span.Row)
		}
	}
	return rows, nil
}

// openPassages gives the passages of the first policy their rows in the inherited sets. The classes that this process makes are unknown
// to those, but nobody is in them before the endpoints have moved over.
func (h *inheritance) openPassages(p *policy, passages map[passage]uint32) error {
	for number, set := range h.sets {
		for way, class := range passages {
			row, ok, err := p.node.maps.Peer.Get(bpfobj.SkepPeerKey{Set: number, Class: way.from})
			if err != nil {
				return err
			}
			if !ok {
				continue // as without a class
			}
			key := bpfobj.SkepPeerKey{Set: number, Class: class}
			if err := p.node.maps.Peer.Put(key, row); err != nil {
				return err
			}
			h.passing = append(h.passing, key)
		}
		set.CompleteClass = p.node.state.NextClass
		if err := p.node.maps.Set.Put(number, set); err != nil {
			return err
		}
	}
	return nil
}

// closePassages removes the rows of passages that nobody has entered.
func (h *inheritance) closePassages(p *policy) error {
	var errs []error
	for _, key := range h.passing {
		errs = append(errs, p.node.maps.Peer.Remove(key))
	}
	h.passing = nil
	return errors.Join(errs...)
}

func (h *inheritance) remove(p *policy) error {
	var errs []error
	for number, set := range h.sets {
		errs = append(errs, p.node.maps.Set.Put(number, bpfobj.SkepSet{}))
		p.numbers.rest(run{number, 1})
		p.ruleSpace.rest(rulesOf(set))
		p.portSpace.rest(run{set.FirstPort, set.Ports})
		p.nodeSpace.rest(nodesOf(set))
	}
	for _, key := range h.peers {
		errs = append(errs, p.node.maps.Peer.Remove(key))
	}
	errs = append(errs, h.closePassages(p))
	for number := range h.unfinished {
		p.numbers.rest(run{number, 1})
	}
	for _, r := range h.runs {
		p.rows.blocks.rest(r)
	}
	return errors.Join(errs...)
}

// adoptClasses learns which addresses and prefixes have a class.
func (p *policy) adoptClasses() error {
	addresses, err := p.node.maps.Address.All()
	if err != nil {
		return err
	}
	for addr, entry := range addresses {
		if class, ok := bpfmap.ClassOf(entry); ok {
			p.addresses[bpfmap.Addr(addr)] = class
		}
	}
	prefixes, err := p.node.maps.CIDR.All()
	if err != nil {
		return err
	}
	for key, class := range prefixes {
		p.prefixes[bpfmap.CIDRPrefix(key)] = class
	}
	return nil
}

// inheritClasses gives classes the numbers that their addresses already have. Inherited sets, which are in force until the
// endpoints move over, then go on to know every address, and a restart drops nothing.
func (p *policy) inheritClasses(c *change) {
	taken := map[uint32]bool{}
	for _, in := range p.classes {
		taken[in.number] = true
	}
	claim := func(key compile.ClassKey, number uint32) {
		if _, has := p.classes[key]; !has && !taken[number] {
			p.classes[key] = class{number, p.computed.Atoms(key)}
			taken[number] = true
		}
	}
	for _, addr := range c.addresses {
		if key, ok := p.computed.Address(addr); ok {
			claim(key, p.addresses[addr])
		}
	}
	for _, prefix := range c.prefixes {
		if key, ok := p.computed.Prefix(prefix); ok {
			claim(key, p.prefixes[prefix])
		}
	}
}
