// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/bpfobj"
	"skep.dev/skep/datapath/compile"
)

// A class has one row in each set. While sets change over that is not enough: what an address was is known to the old sets alone, what it will
// be to the new ones. So an address whose class changes at such a moment passes through a class made for it, which in every set that is
// there says what the address was, and in every new set what it will be.

// passage is a change from one class to another.
type passage struct{ from, to uint32 }

// move is an address or a prefix that comes, goes or changes its class.
type move[K any] struct {
	key K
	// via is its class on the way, to the one in the end. Then it keeps its entry if it stays.
	via, to uint32
	stays   bool
}

// byPrefix gives the class of what has no entry of its own.
type byPrefix struct {
	prefixes map[compile.Prefix]uint32
	lengths  []int // longest first
}

func newByPrefix(prefixes map[compile.Prefix]uint32) byPrefix {
	used := map[int]bool{}
	for prefix := range prefixes {
		used[prefix.Bits] = true
	}
	lengths := slices.Sorted(maps.Keys(used))
	slices.Reverse(lengths)
	return byPrefix{prefixes, lengths}
}

// of is the class of those addresses in a prefix that have no longer one.
func (b byPrefix) of(prefix compile.Prefix) uint32 {
	for _, bits := range b.lengths {
		if bits > prefix.Bits {
			continue
		}
		if class, ok := b.prefixes[prefix.Cut(bits)]; ok {
			return class
		}
	}
	return noClass
}

// setsChange says whether a pod that has a policy moves to another set.
func (p *policy) setsChange(state *datapath.PolicyState) bool {
	if p.inherited != nil {
		return true
	}
	for id := range p.node.endpoints {
		if before, had := p.endpoints[id]; had && before != state.Endpoints[id] {
			return true
		}
	}
	return false
}

// planMoves finds what changes its class, and numbers the passages if sets change too. Classes have their numbers.
func (p *policy) planMoves(c *change) {
	through := func(_, to uint32) uint32 { return to }
	if p.setsChange(c.state) {
		c.passages = map[passage]uint32{}
		through = func(from, to uint32) uint32 { return p.numberPassage(c, passage{from, to}) }
	}
	present := sync.OnceValue(func() byPrefix { return newByPrefix(p.prefixes) })
	for _, addr := range c.addresses {
		from, has := p.addresses[addr]
		key, stays := p.classOf(addr)
		if !stays {
			key = p.computed.Of(addr)
		}
		to := p.classes[key].number
		if has == stays && (!has || from == to) {
			continue
		}
		if !has {
			from = present().of(compile.Prefix{Addr: addr.As16(), Bits: 128})
		}
		c.moves = append(c.moves, move[netip.Addr]{addr, through(from, to), to, stays})
	}
	for _, prefix := range c.prefixes {
		from, has := p.prefixes[prefix]
		_, stays := p.computed.Prefix(prefix)
		to := p.classes[p.computed.Around(prefix)].number
		if has == stays && (!has || from == to) {
			continue
		}
		if !has {
			from = present().of(prefix)
		}
		c.prefixMoves = append(c.prefixMoves, move[compile.Prefix]{prefix, through(from, to), to, stays})
	}
	slices.SortFunc(c.prefixMoves, longestFirst)
	p.planHeirs(c)
}

// planHeirs spares passages. A class that is new needs none if all that comes into it comes from one other, and no set that stays tells
// the two apart: with the rows of the other in the sets that are there it is a passage itself. So it is when a selector for some pods of
// a class comes into use.
func (p *policy) planHeirs(c *change) {
	if len(c.passages) == 0 || p.inherited != nil {
		return
	}
	fresh := map[uint32][]datapath.AtomID{}
	for _, in := range c.newClasses {
		fresh[in.number] = in.atoms
	}
	sources, goals := map[uint32]int{}, map[uint32]int{}
	for way := range c.passages {
		sources[way.to]++
		goals[way.from]++
	}
	atoms, now := p.atomsBefore(c), p.atomsNow(c)
	direct := map[uint32]uint32{}
	c.heirs = map[uint32]uint32{}
	for way, number := range c.passages {
		before, known := atoms[way.from]
		after, isNew := fresh[way.to]
		switch {
		case isNew && known && sources[way.to] == 1 && !p.tellsApart(c, before, after):
			direct[number], c.heirs[way.to] = way.to, way.from
		case known && p.isPassage(c, way, now, goals):
			direct[number], c.stayers = way.from, append(c.stayers, way)
		default:
			continue
		}
		delete(c.passages, way)
	}
	spare(c.moves, direct)
	spare(c.prefixMoves, direct)
}

// spare has moves go straight to their class where they can.
func spare[K any](moves []move[K], direct map[uint32]uint32) {
	for i := range moves {
		if to, ok := direct[moves[i].via]; ok {
			moves[i].via = to
		}
	}
}

// isPassage says whether a class that something leaves is a passage itself: in the sets that are there it says what it was, and in new
// ones it will have the row of the class that it becomes. So it is when all leave it for one class, as they do when a selector goes out of
// use, or when no set that stays or comes tells the two apart.
func (p *policy) isPassage(c *change, way passage, now map[uint32][]datapath.AtomID, goals map[uint32]int) bool {
	if own, used := now[way.from]; used {
		return !p.willTellApart(c, own, now[way.to])
	}
	return goals[way.from] == 1
}

// atomsNow gives the atoms of the classes at the ends of passages that are in use from now on.
func (p *policy) atomsNow(c *change) map[uint32][]datapath.AtomID {
	ends := map[uint32]bool{}
	for way := range c.passages {
		ends[way.from], ends[way.to] = true, true
	}
	out := map[uint32][]datapath.AtomID{noClass: nil}
	for key, in := range p.classes {
		if ends[in.number] && p.computed.Used(key) {
			out[in.number] = in.atoms
		}
	}
	return out
}

// atomsBefore gives the atoms of those classes that something leaves, as they were; their rows are still those. It does not know
// classes that this process did not name, and passages that something was left in.
func (p *policy) atomsBefore(c *change) map[uint32][]datapath.AtomID {
	left := map[uint32]bool{}
	for way := range c.passages {
		left[way.from] = true
	}
	for _, from := range c.heirs {
		left[from] = true
	}
	out := map[uint32][]datapath.AtomID{}
	for key, in := range p.classes {
		if before, changed := c.before[key]; changed {
			in = before
		}
		if left[in.number] {
			out[in.number] = in.atoms
		}
	}
	if left[noClass] {
		out[noClass] = nil
	}
	return out
}

// numberPassage is the class of what passes from one class to another. What does not change keeps its class.
func (p *policy) numberPassage(c *change, way passage) uint32 {
	if way.from == way.to {
		return way.to
	}
	if _, numbered := c.passages[way]; !numbered {
		p.node.state.NextClass++
		c.passages[way] = p.node.state.NextClass
	}
	return c.passages[way]
}

// openPassages gives the passages, and the classes that are their own, their rows in the sets that are in force.
func (p *policy) openPassages(w *peerWrites, c *change) error {
	if !c.passes() {
		return nil
	}
	atoms := p.atomsBefore(c)
	for way, number := range c.passages {
		p.copyPeers(w, &c.opened, atoms, way.from, number)
	}
	for to, from := range c.heirs {
		p.copyPeers(w, &c.copied, atoms, from, to)
	}
	if p.inherited == nil {
		return nil
	}
	return p.inherited.openPassages(p, c.passages)
}

// passes says whether something has a class on the way.
func (c *change) passes() bool { return len(c.passages)+len(c.heirs)+len(c.stayers) > 0 }

func (p *policy) copyPeers(w *peerWrites, rows *[]heldRow, atoms map[uint32][]datapath.AtomID, from, to uint32) {
	sets := p.live()
	if ids, known := atoms[from]; known {
		naming := p.setsNaming(ids)
		for _, set := range p.leaving {
			naming[set] = true // its rows may be older than the atoms
		}
		sets = maps.Keys(naming)
	}
	for set := range sets {
		copyPeer(w, rows, set, from, to)
	}
}

// copyPeer gives a class the row of another one. Without a row both have that of no class.
func copyPeer(w *peerWrites, rows *[]heldRow, s *liveSet, from, to uint32) {
	stored := s.peers[from]
	if stored == nil {
		return
	}
	stored.refs++
	*rows = append(*rows, heldRow{s, to})
	w.add(s, to, stored)
}

// pass puts everything that moves where it passes through, and arrive where it goes. What an address has at any moment is what it
// had before or what it will have: a prefix is written after the longer ones in it, and removed before them.
func (p *policy) pass(c *change) error {
	if err := p.placeAddresses(c.moves, func(m move[netip.Addr]) (uint32, bool) { return m.via, true }); err != nil {
		return err
	}
	for _, m := range c.prefixMoves {
		if err := p.placePrefix(m.key, m.via); err != nil {
			return err
		}
	}
	return p.saveHasCIDR()
}

func (p *policy) arrive(c *change) error {
	if err := p.placeAddresses(c.moves, func(m move[netip.Addr]) (uint32, bool) { return m.to, m.stays }); err != nil {
		return err
	}
	if err := p.arrivePrefixes(c); err != nil {
		return err
	}
	for _, m := range c.moves {
		if m.stays {
			continue
		}
		if err := p.node.setClass(m.key, nil); err != nil {
			return err
		}
	}
	return nil
}

func (p *policy) arrivePrefixes(c *change) error {
	for _, m := range c.prefixMoves {
		if !m.stays {
			continue
		}
		if err := p.placePrefix(m.key, m.to); err != nil {
			return err
		}
	}
	if err := p.saveHasCIDR(); err != nil {
		return err
	}
	for _, m := range slices.Backward(c.prefixMoves) {
		if m.stays {
			continue
		}
		if err := p.node.maps.CIDR.Remove(bpfmap.CIDRKey(m.key)); err != nil {
			return err
		}
		delete(p.prefixes, m.key)
	}
	return p.saveHasCIDR()
}

// placeAddresses puts addresses into the classes that a function gives, or with false leaves them.
func (p *policy) placeAddresses(moves []move[netip.Addr], to func(move[netip.Addr]) (uint32, bool)) error {
	var changed []placement
	for _, m := range moves {
		class, wanted := to(m)
		before, classified := p.addresses[m.key]
		if wanted && !(classified && before == class) {
			changed = append(changed, placement{m.key, class})
		}
	}
	return p.node.setClasses(changed)
}

func (p *policy) placePrefix(prefix compile.Prefix, class uint32) error {
	if before, ok := p.prefixes[prefix]; ok && before == class {
		return nil
	}
	if err := p.node.maps.CIDR.Put(bpfmap.CIDRKey(prefix), class); err != nil {
		return err
	}
	p.prefixes[prefix] = class
	return nil
}

func longestFirst(a, b move[compile.Prefix]) int {
	return cmp.Or(cmp.Compare(b.key.Bits, a.key.Bits), slices.Compare(a.key.Addr[:], b.key.Addr[:]))
}

// saveHasCIDR tells programs whether there is any prefix to look for.
func (p *policy) saveHasCIDR() error {
	flags := p.node.state.Flags &^ uint32(bpfobj.SkepStateFlagSTATE_HAS_CIDR)
	if len(p.prefixes) > 0 {
		flags |= uint32(bpfobj.SkepStateFlagSTATE_HAS_CIDR)
	}
	if flags == p.node.state.Flags {
		return nil
	}
	p.node.state.Flags = flags
	return p.node.saveState()
}
