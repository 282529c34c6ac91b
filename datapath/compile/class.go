// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"slices"
	"strings"

	"skep.dev/skep/datapath"
)

// ClassKey names a class by its content: the atoms, sorted and joined. The empty key is the class of addresses that belong
// to no atom.
type ClassKey string

// NoClass is the class of everything that no atom covers.
const NoClass ClassKey = ""

// Prefix is a prefix of the 128-bit address form.
type Prefix struct {
	Addr [16]byte
	Bits int
}

// Cut is the prefix of that length around p.
func (p Prefix) Cut(bits int) Prefix {
	out := Prefix{Bits: bits}
	copy(out.Addr[:], p.Addr[:bits/8])
	if rest := bits % 8; rest > 0 {
		out.Addr[bits/8] = p.Addr[bits/8] &^ (0xff >> rest)
	}
	return out
}

// Classes says to which class every address belongs.
type Classes struct {
	// Addresses are pods, found by exact match.
	Addresses map[netip.Addr]ClassKey
	// Prefixes decide about all other addresses, by longest match.
	Prefixes map[Prefix]ClassKey
	// Atoms lists the atoms of every class in use but NoClass.
	Atoms map[ClassKey][]datapath.AtomID

	cidrs *cidrs
}

const separator = "\x00"

// NewClasses computes the classes of a policy.
func NewClasses(p *datapath.PolicyState) *Classes {
	c := &Classes{
		Addresses: make(map[netip.Addr]ClassKey, len(p.Addresses)),
		Prefixes:  map[Prefix]ClassKey{},
		Atoms:     map[ClassKey][]datapath.AtomID{},
	}
	cidrs := newCIDRs(p.CIDRs)
	c.cidrs = cidrs
	for addr, atoms := range p.Addresses {
		addr = addr.Unmap()
		c.Addresses[addr] = c.intern(slices.Concat(atoms, cidrs.atomsOf(addr)))
	}
	for prefix, atoms := range cidrs.boundaries {
		c.Prefixes[wide(prefix)] = c.intern(atoms)
	}
	if len(c.Prefixes) > 0 {
		// IPv4 lives inside the IPv6 space as v4-mapped addresses; ::/0 must not reach it.
		v4 := Prefix{Addr: netip.AddrFrom4([4]byte{}).As16(), Bits: 96}
		if _, decided := c.Prefixes[v4]; !decided {
			c.Prefixes[v4] = NoClass
		}
	}
	return c
}

// Of is the class of an address, by itself or by prefix.
func (c *Classes) Of(addr netip.Addr) ClassKey {
	if key, ok := c.Addresses[addr]; ok {
		return key
	}
	return c.intern(c.cidrs.atomsOf(addr))
}

func (c *Classes) intern(atoms []datapath.AtomID) ClassKey {
	if len(atoms) == 0 {
		return NoClass
	}
	sorted := slices.Clone(atoms)
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	var b strings.Builder
	for i, atom := range sorted {
		if i > 0 {
			b.WriteString(separator)
		}
		b.WriteString(string(atom))
	}
	key := ClassKey(b.String())
	c.Atoms[key] = sorted
	return key
}

// cidrs knows, for every prefix that some atom names in its range or exceptions, the atoms of the addresses whose longest
// such prefix it is.
type cidrs struct {
	boundaries map[netip.Prefix][]datapath.AtomID
	// lengths are the prefix lengths in use, longest first: [0] of IPv4, [1] of IPv6.
	lengths [2][]int
}

func newCIDRs(atoms map[datapath.AtomID]datapath.CIDR) *cidrs {
	c := &cidrs{boundaries: map[netip.Prefix][]datapath.AtomID{}}
	included := map[netip.Prefix][]datapath.AtomID{}
	excluded := map[netip.Prefix][]datapath.AtomID{}
	for id, cidr := range atoms {
		prefix := canonical(cidr.Prefix)
		included[prefix] = append(included[prefix], id)
		c.boundaries[prefix] = nil
		for _, except := range cidr.Except {
			prefix := canonical(except)
			excluded[prefix] = append(excluded[prefix], id)
			c.boundaries[prefix] = nil
		}
	}
	for prefix := range c.boundaries {
		f := family(prefix.Addr())
		if !slices.Contains(c.lengths[f], prefix.Bits()) {
			c.lengths[f] = append(c.lengths[f], prefix.Bits())
		}
	}
	for f := range c.lengths {
		slices.Sort(c.lengths[f])
		slices.Reverse(c.lengths[f])
	}
	for prefix := range c.boundaries {
		var in, out []datapath.AtomID
		for _, bits := range c.lengths[family(prefix.Addr())] {
			if bits > prefix.Bits() {
				continue
			}
			cover := netip.PrefixFrom(prefix.Addr(), bits).Masked()
			in = append(in, included[cover]...)
			out = append(out, excluded[cover]...)
		}
		c.boundaries[prefix] = slices.DeleteFunc(in, func(id datapath.AtomID) bool { return slices.Contains(out, id) })
	}
	return c
}

// atomsOf lists the CIDR atoms that an address belongs to.
func (c *cidrs) atomsOf(addr netip.Addr) []datapath.AtomID {
	for _, bits := range c.lengths[family(addr)] {
		if atoms, ok := c.boundaries[netip.PrefixFrom(addr, bits).Masked()]; ok {
			return atoms
		}
	}
	return nil
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
