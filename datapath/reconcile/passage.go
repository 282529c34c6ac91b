// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"cmp"
	"errors"
	"maps"
	"net/netip"
	"slices"

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

// placement says which class every address has: by itself, or by its longest prefix.
type placement struct {
	addresses map[netip.Addr]uint32
	prefixes  map[compile.Prefix]uint32
	// lengths are those of prefixes, longest first.
	lengths []int
}

func newPlacement(addresses map[netip.Addr]uint32, prefixes map[compile.Prefix]uint32) placement {
	used := map[int]bool{}
	for prefix := range prefixes {
		used[prefix.Bits] = true
	}
	lengths := slices.Sorted(maps.Keys(used))
	slices.Reverse(lengths)
	return placement{addresses, prefixes, lengths}
}

func (p placement) ofAddress(addr netip.Addr) uint32 {
	if class, ok := p.addresses[addr]; ok {
		return class
	}
	return p.ofPrefix(compile.Prefix{Addr: addr.As16(), Bits: 128})
}

// ofPrefix is the class of those addresses in a prefix that have no longer one.
func (p placement) ofPrefix(prefix compile.Prefix) uint32 {
	for _, bits := range p.lengths {
		if bits > prefix.Bits {
			continue
		}
		if class, ok := p.prefixes[prefix.Cut(bits)]; ok {
			return class
		}
	}
	return noClass
}

// present is where addresses are now; it is of use until the first of them moves.
func (p *policy) present() placement { return newPlacement(p.addresses, p.prefixes) }

// final is where a policy wants addresses. Its classes have numbers.
func (p *policy) final(wanted *compile.Classes) placement {
	addresses, prefixes := map[netip.Addr]uint32{}, map[compile.Prefix]uint32{}
	for addr, key := range p.exactClasses(wanted) {
		addresses[addr] = p.classes[key]
	}
	for prefix, key := range wanted.Prefixes {
		prefixes[prefix] = p.classes[key]
	}
	return newPlacement(addresses, prefixes)
}

// between places addresses on their way, with a number for each passage. Addresses whose class stays keep it.
func between(from, to placement, number func(passage) uint32) placement {
	through := func(way passage) uint32 {
		if way.from == way.to {
			return way.to
		}
		return number(way)
	}
	addresses, prefixes := map[netip.Addr]uint32{}, map[compile.Prefix]uint32{}
	for _, side := range []placement{from, to} {
		for addr := range side.addresses {
			addresses[addr] = through(passage{from.ofAddress(addr), to.ofAddress(addr)})
		}
		for prefix := range side.prefixes {
			prefixes[prefix] = through(passage{from.ofPrefix(prefix), to.ofPrefix(prefix)})
		}
	}
	return newPlacement(addresses, prefixes)
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

// planPassages numbers the passages of a change, if it needs any.
func (p *policy) planPassages(c *change) {
	c.final = p.final(c.wanted)
	if !p.setsChange(c.state) {
		return
	}
	c.passages = map[passage]uint32{}
	between := between(p.present(), c.final, func(way passage) uint32 {
		if _, numbered := c.passages[way]; !numbered {
			p.node.state.NextClass++
			c.passages[way] = p.node.state.NextClass
		}
		return c.passages[way]
	})
	if len(c.passages) > 0 {
		c.between = &between
	}
}

// openPassages gives the passages their rows in the sets that are in force.
func (p *policy) openPassages(c *change) error {
	for _, set := range p.sets {
		for way, number := range c.passages {
			if err := p.copyPeer(set, way.from, number); err != nil {
				return err
			}
		}
	}
	if p.inherited == nil {
		return nil
	}
	return p.inherited.openPassages(p, c.passages)
}

// copyPeer gives a class the row of another one. Without a row both have that of no class.
func (p *policy) copyPeer(s *liveSet, from, to uint32) error {
	stored := s.peers[from]
	if stored == nil {
		return nil
	}
	stored.refs++
	s.peers[to] = stored
	return p.node.maps.Peer.Put(bpfobj.SkepPeerKey{Set: s.number, Class: to}, stored.row)
}

// place puts every address where it belongs. What an address has at any moment is what it had before or what it will have: a prefix is
// written after the longer ones in it, and removed before them.
func (p *policy) place(to placement) error {
	for addr, class := range to.addresses {
		if before, ok := p.addresses[addr]; ok && before == class {
			continue
		}
		if err := p.node.setClass(addr, &class); err != nil {
			return err
		}
	}
	if err := p.placePrefixes(to); err != nil {
		return err
	}
	for addr := range p.addresses {
		if _, keep := to.addresses[addr]; keep {
			continue
		}
		if err := p.node.setClass(addr, nil); err != nil {
			return err
		}
	}
	return nil
}

func (p *policy) placePrefixes(to placement) error {
	for _, prefix := range slices.SortedFunc(maps.Keys(to.prefixes), longestFirst) {
		class := to.prefixes[prefix]
		if before, ok := p.prefixes[prefix]; ok && before == class {
			continue
		}
		if err := p.node.maps.CIDR.Put(bpfmap.CIDRKey(prefix), class); err != nil {
			return err
		}
		p.prefixes[prefix] = class
	}
	if err := p.saveHasCIDR(); err != nil {
		return err
	}
	gone := slices.SortedFunc(maps.Keys(p.prefixes), longestFirst)
	slices.Reverse(gone)
	for _, prefix := range gone {
		if _, keep := to.prefixes[prefix]; keep {
			continue
		}
		if err := p.node.maps.CIDR.Remove(bpfmap.CIDRKey(prefix)); err != nil {
			return err
		}
		delete(p.prefixes, prefix)
	}
	return p.saveHasCIDR()
}

func longestFirst(a, b compile.Prefix) int {
	return cmp.Or(cmp.Compare(b.Bits, a.Bits), slices.Compare(a.Addr[:], b.Addr[:]))
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

// closePassages removes the rows of passages that nobody is in any more.
func (p *policy) closePassages(numbers []uint32) error {
	var errs []error
	for _, number := range numbers {
		for _, set := range p.sets {
			errs = append(errs, p.dropClass(set, number))
		}
	}
	return errors.Join(errs...)
}
