// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"math/bits"
	"slices"

	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/bpfobj"
	"skep.dev/skep/datapath/compile"
)

func runOf(r bpfobj.SkepRow) run {
	return run{first: r.First, length: uint32(bits.OnesCount32(r.Blocks))}
}

// liveSet is a policy set in the maps.
type liveSet struct {
	*compile.Set
	number uint32
	at     bpfmap.Places
	// entry and rules are as they were written last.
	entry bpfobj.SkepSet
	rules []bpfobj.SkepRule
	// visible says that the header is written.
	visible bool
	// peers are the rows by class number.
	peers map[uint32]*storedRow
	// ports are the rows of the port spans, in their order, views those of the views.
	ports, views []*storedRow
}

// writeSet puts all of a set into the maps but its header: programs do not see it yet. What was written before an error is
// in the returned set, for removal; nil when nothing was.
func (p *policy) writeSet(compiled *compile.Set) (*liveSet, error) {
	number, err := p.numbers.take(1)
	if err != nil {
		return nil, err
	}
	at, err := p.takePlaces(compiled)
	if err != nil {
		p.numbers.give(run{number, 1})
		return nil, err
	}
	s := &liveSet{Set: compiled, number: number, at: at, peers: map[uint32]*storedRow{}}
	if err := p.writePorts(s); err != nil {
		return s, err
	}
	if err := p.storeViews(s); err != nil {
		return s, err
	}
	return s, p.writeRules(s)
}

func (p *policy) storeViews(s *liveSet) error {
	for _, row := range s.Views {
		stored, err := p.rows.acquire(row)
		if err != nil {
			return err
		}
		s.views = append(s.views, stored)
	}
	return nil
}

// header is the entry through which programs find all else of the set.
func (p *policy) header(s *liveSet) bpfobj.SkepSet {
	var views []bpfobj.SkepRow
	for _, stored := range s.views {
		views = append(views, stored.row)
	}
	return bpfmap.SetHeader(s.Set, s.at, views, p.node.state.NextClass)
}

// stretch is a set's part of an array.
type stretch struct {
	space *extents
	run
}

func (p *policy) stretches(s *compile.Set, at bpfmap.Places) [3]stretch {
	return [3]stretch{
		{p.ruleSpace, run{at.FirstRule, uint32(s.Entries())}},
		{p.portSpace, run{at.FirstPort, uint32(len(s.Ports))}},
		{p.nodeSpace, run{at.FirstNode, uint32(compile.PortNodes(len(s.Ports)))}},
	}
}

// takePlaces finds room for all parts of a set, or takes none.
func (p *policy) takePlaces(s *compile.Set) (bpfmap.Places, error) {
	parts := p.stretches(s, bpfmap.Places{})
	for i := range parts {
		first, err := parts[i].space.take(parts[i].length)
		if err != nil {
			for _, taken := range parts[:i] {
				if taken.length > 0 {
					taken.space.give(taken.run)
				}
			}
			return bpfmap.Places{}, err
		}
		parts[i].first = first
	}
	return bpfmap.Places{FirstRule: parts[0].first, FirstPort: parts[1].first, FirstNode: parts[2].first}, nil
}

func (p *policy) writePorts(s *liveSet) error {
	for i, node := range compile.PortIndex(s.Ports) {
		if err := p.node.maps.PortIndex.Put(s.at.FirstNode+uint32(i), bpfmap.PortNode(node)); err != nil {
			return err
		}
	}
	for i, span := range s.Ports {
		stored, err := p.rows.acquire(span.Row)
		if err != nil {
			return err
		}
		s.ports = append(s.ports, stored)
		if err := p.node.maps.Port.Put(s.at.FirstPort+uint32(i), bpfmap.PortSpan(span, stored.row)); err != nil {
			return err
		}
	}
	return nil
}

// writeRules writes one entry for every bit; bits between tiers have none that is present.
func (p *policy) writeRules(s *liveSet) error {
	entries := make([]bpfobj.SkepRule, s.Entries())
	for _, rule := range slices.Concat(s.Rules, s.Defaults[:]) {
		slot, err := p.counters.slot(rule.ID)
		if err != nil {
			return err
		}
		entries[rule.Bit] = bpfmap.Rule(rule, slot)
	}
	s.rules = entries
	for i, entry := range entries {
		if err := p.node.maps.Rule.Put(s.at.FirstRule+uint32(i), entry); err != nil {
			return err
		}
	}
	return nil
}

// peerWrites are rows of sets on their way into skep_peer.
type peerWrites struct {
	keys []bpfobj.SkepPeerKey
	rows []bpfobj.SkepRow
}

func (w *peerWrites) add(s *liveSet, class uint32, stored *storedRow) {
	s.peers[class] = stored
	w.keys, w.rows = append(w.keys, s.peerKey(class)), append(w.rows, stored.row)
}

func (s *liveSet) peerKey(class uint32) bpfobj.SkepPeerKey {
	return bpfobj.SkepPeerKey{Set: s.number, Class: class}
}

// write puts the rows into the map.
func (w *peerWrites) write(p *policy) error {
	defer func() { *w = peerWrites{} }()
	return p.node.maps.Peer.PutAll(w.keys, w.rows)
}

// addClasses gives a set the rows of classes.
func (p *policy) addClasses(w *peerWrites, s *liveSet, classes []class) error {
	for _, in := range classes {
		row, differs := s.PeerRow(in.atoms)
		if !differs {
			continue
		}
		if err := p.addRow(w, s, in.number, row); err != nil {
			return err
		}
	}
	return nil
}

func (p *policy) addRow(w *peerWrites, s *liveSet, class uint32, row compile.Row) error {
	stored, err := p.rows.acquire(row)
	if err != nil {
		return err
	}
	if before := s.peers[class]; before != nil {
		p.rows.release(before)
	}
	w.add(s, class, stored)
	return nil
}

// declare declares sets complete for all classes numbered so far, whose rows are there.
func (p *policy) declare(sets []*liveSet) error {
	var numbers, hiddenNumbers []uint32
	var headers, hidden []bpfobj.SkepSet
	for _, s := range sets {
		header := p.header(s)
		if !s.visible {
			// Entries of an array are not written in one piece: the flags follow when the rest is there.
			dark := header
			dark.Flags = 0
			hiddenNumbers, hidden = append(hiddenNumbers, s.number), append(hidden, dark)
		}
		s.visible, s.entry = true, header
		numbers, headers = append(numbers, s.number), append(headers, header)
	}
	if err := p.node.maps.Set.PutAll(hiddenNumbers, hidden); err != nil {
		return err
	}
	return p.node.maps.Set.PutAll(numbers, headers)
}

// heldRow is the row of a class in a set.
type heldRow struct {
	set   *liveSet
	class uint32
}

// dropRows removes rows from sets that may have them.
func (p *policy) dropRows(rows []heldRow) error {
	var keys []bpfobj.SkepPeerKey
	for _, row := range rows {
		if row.set.peers[row.class] != nil {
			keys = append(keys, row.set.peerKey(row.class))
		}
	}
	if err := p.node.maps.Peer.RemoveAll(keys); err != nil {
		return err
	}
	for _, row := range rows {
		if stored := row.set.peers[row.class]; stored != nil {
			p.rows.release(stored)
			delete(row.set.peers, row.class)
		}
	}
	return nil
}

// removeSet deletes a set that no endpoint refers to, header first.
func (p *policy) removeSet(s *liveSet) error {
	maps := p.node.maps
	errs := []error{maps.Set.Put(s.number, bpfobj.SkepSet{})}
	var keys []bpfobj.SkepPeerKey
	for class, stored := range s.peers {
		keys = append(keys, s.peerKey(class))
		p.rows.release(stored)
	}
	errs = append(errs, maps.Peer.RemoveAll(keys))
	for _, stored := range slices.Concat(s.ports, s.views) {
		p.rows.release(stored)
	}
	if err := errors.Join(errs...); err != nil {
		// Its number may still have rows: it is not given out again.
		return err
	}
	p.numbers.rest(run{s.number, 1})
	for _, part := range p.stretches(s.Set, s.at) {
		part.space.rest(part.run)
	}
	return nil
}
