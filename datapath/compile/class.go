// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"slices"

	"skep.dev/skep/datapath"
)

// ClassKey names a class: a group of pods' addresses, and CIDR atoms. It keeps its name when the group's atoms change.
type ClassKey struct {
	// Group is 0 for addresses that no selector selects.
	Group datapath.GroupID
	// CIDRs are the CIDR atoms, sorted and joined.
	CIDRs string
}

// NoClass is the class of everything that no atom covers.
var NoClass ClassKey

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

// mapped holds IPv4 inside the IPv6 space, as v4-mapped addresses.
var mapped = Prefix{Addr: netip.AddrFrom4([4]byte{}).As16(), Bits: 96}

// Classes says to which class every address belongs. It follows from a policy alone; Update brings it to the next one at the cost of
// what differs.
type Classes struct {
	policy *datapath.PolicyState
	// addresses are pods, found by exact match.
	addresses map[netip.Addr]ClassKey
	// prefixes decide about all other addresses, by longest match.
	prefixes map[Prefix]ClassKey
	cidrs    *cidrs

	classes map[ClassKey]*class
	byAtom  map[datapath.AtomID]map[ClassKey]struct{}
}

// class is a class in use; NoClass is not counted.
type class struct {
	atoms []datapath.AtomID
	uses  int
}

// Changes is in what two policies' classes differ.
type Changes struct {
	// Addresses and Prefixes are those that came, went or are in another class.
	Addresses []netip.Addr
	Prefixes  []Prefix
	// Classes are those that came into use, or have other atoms.
	Classes []ClassKey
	// Unused are those that nothing belongs to any more.
	Unused []ClassKey
}

// NewClasses returns the classes of the empty policy.
func NewClasses() *Classes {
	return &Classes{
		policy:    &datapath.PolicyState{},
		addresses: map[netip.Addr]ClassKey{},
		prefixes:  map[Prefix]ClassKey{},
		cidrs:     newCIDRs(),
		classes:   map[ClassKey]*class{},
		byAtom:    map[datapath.AtomID]map[ClassKey]struct{}{},
	}
}

// Address is the class of an address that has an entry of its own.
func (c *Classes) Address(addr netip.Addr) (ClassKey, bool) {
	key, ok := c.addresses[addr]
	return key, ok
}

// Prefix is the class of the addresses that a prefix decides about.
func (c *Classes) Prefix(p Prefix) (ClassKey, bool) {
	key, ok := c.prefixes[p]
	return key, ok
}

// Around is the class of those addresses in a prefix that have no longer one.
func (c *Classes) Around(p Prefix) ClassKey {
	for bits := p.Bits; bits >= 0; bits-- {
		if c.cidrs.none(bits) {
			continue
		}
		if key, ok := c.prefixes[p.Cut(bits)]; ok {
			return key
		}
	}
	return NoClass
}

// Of is the class of an address, by itself or by prefix.
func (c *Classes) Of(addr netip.Addr) ClassKey {
	if key, ok := c.addresses[addr]; ok {
		return key
	}
	return ClassKey{CIDRs: c.cidrs.of(addr)}
}

// Atoms lists the atoms of a class in use; none for NoClass.
func (c *Classes) Atoms(key ClassKey) []datapath.AtomID {
	if in := c.classes[key]; in != nil {
		return in.atoms
	}
	return nil
}

// Used says whether something belongs to a class, NoClass not counted.
func (c *Classes) Used(key ClassKey) bool { return c.classes[key] != nil }

// With gives the classes that have an atom.
func (c *Classes) With(atom datapath.AtomID) map[ClassKey]struct{} { return c.byAtom[atom] }

// update collects what one Update changes.
type update struct {
	*Classes
	from *datapath.PolicyState
	out  Changes
	// used says of every class whose uses changed whether it had any before.
	used map[ClassKey]bool
}

// Update makes the classes those of another policy and returns in what they differ.
func (c *Classes) Update(to *datapath.PolicyState) Changes {
	u := &update{Classes: c, from: c.policy, used: map[ClassKey]bool{}}
	c.policy = to
	u.groups()
	moved := c.cidrs.update(u.from.CIDRs, to.CIDRs)
	u.moveAddresses(regionsOf(moved))
	u.movePrefixes(moved)
	for key, before := range u.used {
		switch now := c.classes[key]; {
		case now.uses > 0 && !before:
			u.out.Classes = append(u.out.Classes, key)
		case now.uses == 0:
			c.index(key, now.atoms, nil)
			delete(c.classes, key)
			if before {
				u.out.Unused = append(u.out.Unused, key)
			}
		}
	}
	u.out.Classes = slices.DeleteFunc(u.out.Classes, func(key ClassKey) bool { return !u.Used(key) })
	return u.out
}

// groups gives the classes of groups that stay their new atoms.
func (u *update) groups() {
	changed := map[datapath.GroupID]bool{}
	for id := range u.policy.Groups.Diff(u.from.Groups, slices.Equal) {
		if _, known := u.from.Groups.Get(id); known {
			changed[id] = true
		}
	}
	if len(changed) == 0 {
		return
	}
	for key, in := range u.classes {
		if changed[key.Group] {
			before := in.atoms
			in.atoms = u.atomsOf(key)
			u.index(key, before, in.atoms)
			u.out.Classes = append(u.out.Classes, key)
		}
	}
}

// moveAddresses looks again at the addresses that the policy changes, and at those whose prefix it changes.
func (u *update) moveAddresses(moved regions) {
	for addr := range u.policy.Addresses.Diff(u.from.Addresses, func(a, b datapath.GroupID) bool { return a == b }) {
		u.moveAddress(addr)
	}
	if len(moved) == 0 {
		return
	}
	for addr := range u.policy.Addresses.All() {
		if moved.contain(addr.Unmap()) {
			u.moveAddress(addr)
		}
	}
}

func (u *update) moveAddress(listed netip.Addr) {
	addr := listed.Unmap()
	group, has := u.policy.Addresses.Get(listed)
	now := ClassKey{Group: group, CIDRs: u.cidrs.of(addr)}
	if place(u, u.addresses, addr, now, has) {
		u.out.Addresses = append(u.out.Addresses, addr)
	}
}

// place puts a key into a class, or with has false into none, and reports whether it was elsewhere.
func place[K comparable](u *update, classes map[K]ClassKey, key K, now ClassKey, has bool) bool {
	before, had := classes[key]
	if had == has && (!has || before == now) {
		return false
	}
	if has {
		classes[key] = now
		u.use(now, 1)
	} else {
		delete(classes, key)
	}
	if had {
		u.use(before, -1)
	}
	return true
}

// movePrefixes looks again at prefixes. When there are any, IPv4 needs one of its own: ::/0 must not reach it.
func (u *update) movePrefixes(moved []netip.Prefix) {
	for _, prefix := range moved {
		joined, has := u.cidrs.boundaries[prefix]
		u.movePrefix(wide(prefix), ClassKey{CIDRs: joined}, has)
	}
	if _, decided := u.cidrs.boundaries[netip.PrefixFrom(netip.IPv4Unspecified(), 0)]; !decided {
		u.movePrefix(mapped, NoClass, len(u.cidrs.boundaries) > 0)
	}
}

func (u *update) movePrefix(prefix Prefix, now ClassKey, has bool) {
	if place(u, u.prefixes, prefix, now, has) {
		u.out.Prefixes = append(u.out.Prefixes, prefix)
	}
}

func (u *update) use(key ClassKey, delta int) {
	if key == NoClass {
		return
	}
	in := u.classes[key]
	if in == nil {
		in = &class{atoms: u.atomsOf(key)}
		u.classes[key] = in
		u.index(key, nil, in.atoms)
	}
	if _, noted := u.used[key]; !noted {
		u.used[key] = in.uses > 0
	}
	in.uses += delta
}

func (u *update) atomsOf(key ClassKey) []datapath.AtomID {
	selectors, _ := u.policy.Groups.Get(key.Group)
	if key.CIDRs == "" {
		return selectors
	}
	return append(slices.Clip(selectors), split(key.CIDRs)...)
}

// index notes that a class has other atoms.
func (c *Classes) index(key ClassKey, before, after []datapath.AtomID) {
	for _, atom := range before {
		delete(c.byAtom[atom], key)
	}
	for _, atom := range after {
		if c.byAtom[atom] == nil {
			c.byAtom[atom] = map[ClassKey]struct{}{}
		}
		c.byAtom[atom][key] = struct{}{}
	}
	for _, atom := range before {
		if len(c.byAtom[atom]) == 0 {
			delete(c.byAtom, atom)
		}
	}
}
