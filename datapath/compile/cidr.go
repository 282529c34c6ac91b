// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"slices"
	"strings"

	"skep.dev/skep/datapath"
)

// cidrs knows, for every prefix that some atom names in its range or exceptions, the atoms of the addresses whose longest
// such prefix it is.
type cidrs struct {
	included, excluded map[netip.Prefix][]datapath.AtomID
	// boundaries gives the atoms joined, as in ClassKey.
	boundaries map[netip.Prefix]string
	// lengths are the prefix lengths in use, longest first: [0] of IPv4, [1] of IPv6. counts says by how many boundaries.
	lengths [2][]int
	counts  [2][129]int
}

func newCIDRs() *cidrs {
	return &cidrs{
		included: map[netip.Prefix][]datapath.AtomID{}, excluded: map[netip.Prefix][]datapath.AtomID{},
		boundaries: map[netip.Prefix]string{},
	}
}

// update goes from one list of atoms to another, and returns the prefixes that came, went or have other atoms.
func (c *cidrs) update(from, to datapath.Map[datapath.AtomID, datapath.CIDR]) []netip.Prefix {
	var named []netip.Prefix
	for id := range to.Diff(from, datapath.CIDR.Equal) {
		if before, ok := from.Get(id); ok {
			named = append(named, c.name(id, before, without)...)
		}
		if now, ok := to.Get(id); ok {
			named = append(named, c.name(id, now, with)...)
		}
	}
	if len(named) == 0 {
		return nil
	}
	var moved []netip.Prefix
	for _, prefix := range named {
		if c.settle(prefix) {
			moved = append(moved, prefix)
		}
	}
	within := regionsOf(named)
	for prefix, before := range c.boundaries {
		if !within.contain(prefix.Addr()) {
			continue
		}
		if now := c.join(prefix); now != before {
			c.boundaries[prefix] = now
			moved = append(moved, prefix)
		}
	}
	return moved
}

func with(ids []datapath.AtomID, id datapath.AtomID) []datapath.AtomID { return append(ids, id) }

func without(ids []datapath.AtomID, id datapath.AtomID) []datapath.AtomID {
	if i := slices.Index(ids, id); i >= 0 {
		return slices.Delete(ids, i, i+1)
	}
	return ids
}

// name changes who names an atom's prefixes, and returns these.
func (c *cidrs) name(id datapath.AtomID, cidr datapath.CIDR, change func([]datapath.AtomID, datapath.AtomID) []datapath.AtomID) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(cidr.Prefixes)+len(cidr.Except))
	note := func(prefixes []netip.Prefix, by map[netip.Prefix][]datapath.AtomID) {
		for _, p := range prefixes {
			prefix := canonical(p)
			by[prefix] = change(by[prefix], id)
			out = append(out, prefix)
		}
	}
	note(cidr.Prefixes, c.included)
	note(cidr.Except, c.excluded)
	return out
}

// settle makes a prefix a boundary if some atom names it, or no boundary, and reports whether that is new. The atoms of a new
// one are not known yet.
func (c *cidrs) settle(prefix netip.Prefix) bool {
	_, was := c.boundaries[prefix]
	is := len(c.included[prefix])+len(c.excluded[prefix]) > 0
	if !is {
		delete(c.included, prefix)
		delete(c.excluded, prefix)
	}
	if is == was {
		return false
	}
	f := family(prefix.Addr())
	if is {
		c.boundaries[prefix] = ""
		c.counts[f][prefix.Bits()]++
	} else {
		delete(c.boundaries, prefix)
		c.counts[f][prefix.Bits()]--
	}
	c.lengths[f] = c.lengths[f][:0]
	for bits := 128; bits >= 0; bits-- {
		if c.counts[f][bits] > 0 {
			c.lengths[f] = append(c.lengths[f], bits)
		}
	}
	return true
}

// join lists the atoms of the addresses whose longest boundary a prefix is.
func (c *cidrs) join(prefix netip.Prefix) string {
	var in, out []datapath.AtomID
	for _, bits := range c.lengths[family(prefix.Addr())] {
		if bits > prefix.Bits() {
			continue
		}
		cover := netip.PrefixFrom(prefix.Addr(), bits).Masked()
		in = append(in, c.included[cover]...)
		out = append(out, c.excluded[cover]...)
	}
	in = slices.DeleteFunc(in, func(id datapath.AtomID) bool { return slices.Contains(out, id) })
	return join(in)
}

// of is the CIDR part of an address's class.
func (c *cidrs) of(addr netip.Addr) string {
	for _, bits := range c.lengths[family(addr)] {
		if joined, ok := c.boundaries[netip.PrefixFrom(addr, bits).Masked()]; ok {
			return joined
		}
	}
	return ""
}

// none says that no prefix in the 128-bit form has that length.
func (c *cidrs) none(bits int) bool {
	return bits != mapped.Bits && c.counts[1][bits] == 0 && (bits < mapped.Bits || c.counts[0][bits-mapped.Bits] == 0)
}

const separator = "\x00"

func join(ids []datapath.AtomID) string {
	if len(ids) == 1 {
		return string(ids[0])
	}
	slices.Sort(ids)
	var b strings.Builder
	for i, id := range slices.Compact(ids) {
		if i > 0 {
			b.WriteString(separator)
		}
		b.WriteString(string(id))
	}
	return b.String()
}

func split(joined string) []datapath.AtomID {
	var ids []datapath.AtomID
	for id := range strings.SplitSeq(joined, separator) {
		ids = append(ids, datapath.AtomID(id))
	}
	return ids
}

// regions are prefixes none of which is inside another, in order.
type regions []netip.Prefix

func regionsOf(prefixes []netip.Prefix) regions {
	sorted := slices.SortedFunc(slices.Values(prefixes), comparePrefixes)
	var out regions
	for _, p := range sorted {
		if len(out) == 0 || !out[len(out)-1].Contains(p.Addr()) {
			out = append(out, p)
		}
	}
	return out
}

func (r regions) contain(addr netip.Addr) bool {
	i, found := slices.BinarySearchFunc(r, addr, func(p netip.Prefix, a netip.Addr) int { return p.Addr().Compare(a) })
	return found || (i > 0 && r[i-1].Contains(addr))
}

// comparePrefixes puts what contains others before them.
func comparePrefixes(a, b netip.Prefix) int {
	if d := a.Addr().Compare(b.Addr()); d != 0 {
		return d
	}
	return a.Bits() - b.Bits()
}

func family(addr netip.Addr) int {
	if addr.Is4() {
		return 0
	}
	return 1
}

// canonical masks a prefix and writes v4-mapped ones as IPv4, which is what they mean.
func canonical(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

func wide(p netip.Prefix) Prefix {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return Prefix{Addr: p.Addr().As16(), Bits: bits}
}
