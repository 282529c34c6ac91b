// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"skep.dev/skep/datapath"
)

// editor changes a policy at random. Ranges are drawn around the addresses of small pools, so that they meet.
type editor struct {
	*rand.Rand
	addresses datapath.MapEditor[netip.Addr, datapath.GroupID]
	groups    datapath.MapEditor[datapath.GroupID, []datapath.AtomID]
	cidrs     datapath.MapEditor[datapath.AtomID, datapath.CIDR]
}

func (e *editor) addr() netip.Addr {
	if e.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte{10, byte(e.IntN(2)), byte(e.IntN(2)), byte(e.IntN(8))})
	}
	return netip.AddrFrom16([16]byte{0: 0xfd, 1: byte(e.IntN(2)), 15: byte(e.IntN(8))})
}

func (e *editor) prefix() netip.Prefix {
	a := e.addr()
	return netip.PrefixFrom(a, []int{0, 8, 9, 16, 24, 30, a.BitLen() - 1, a.BitLen()}[e.IntN(8)])
}

// step makes a few changes. A group that addresses are in always has atoms.
func (e *editor) step() *datapath.PolicyState {
	for range 1 + e.IntN(6) {
		group := datapath.GroupID(1 + e.IntN(6))
		switch e.IntN(5) {
		case 0:
			e.addresses.Delete(e.addr())
		case 1, 2:
			if groups := e.groups.Map(); groups.Len() == 0 {
				continue
			} else if _, ok := groups.Get(group); ok {
				e.addresses.Put(e.addr(), group)
			}
		case 3:
			var atoms []datapath.AtomID
			for range 1 + e.IntN(3) {
				atoms = append(atoms, datapath.AtomID(fmt.Sprint("pods-", e.IntN(5))))
			}
			e.groups.Put(group, slices.Compact(slices.Sorted(slices.Values(atoms))))
		case 4:
			id := datapath.AtomID(fmt.Sprint("net-", e.IntN(8)))
			if e.IntN(3) == 0 {
				e.cidrs.Delete(id)
				continue
			}
			var cidr datapath.CIDR
			for range 1 + e.IntN(3) {
				cidr.Prefixes = append(cidr.Prefixes, e.prefix())
			}
			for range e.IntN(3) {
				cidr.Except = append(cidr.Except, e.prefix())
			}
			e.cidrs.Put(id, cidr)
		}
	}
	return &datapath.PolicyState{Addresses: e.addresses.Map(), Groups: e.groups.Map(), CIDRs: e.cidrs.Map()}
}

// atomsOf is the slow and obvious answer.
func atomsOf(p *datapath.PolicyState, addr netip.Addr) []datapath.AtomID {
	atoms := slices.Clone(p.AtomsOf(addr))
	for id, cidr := range p.CIDRs.All() {
		around := func(p netip.Prefix) bool { return p.Masked().Contains(addr) }
		if slices.ContainsFunc(cidr.Prefixes, around) && !slices.ContainsFunc(cidr.Except, around) {
			atoms = append(atoms, id)
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(atoms)))
}

// lookup is what the maps give for an address: by itself, or by the longest prefix.
func lookup(addresses map[netip.Addr]ClassKey, prefixes map[Prefix]ClassKey, addr netip.Addr) ClassKey {
	if key, ok := addresses[addr]; ok {
		return key
	}
	for bits := 128; bits >= 0; bits-- {
		p, _ := netip.AddrFrom16(addr.As16()).Prefix(bits)
		if key, ok := prefixes[Prefix{Addr: p.Addr().As16(), Bits: bits}]; ok {
			return key
		}
	}
	return NoClass
}

// TestClassesFollowChanges goes from policy to policy and compares the classes with those that each address should have, and with
// those of somebody who only hears of the changes.
func TestClassesFollowChanges(t *testing.T) {
	for seed := range uint64(40) {
		e := &editor{Rand: rand.New(rand.NewPCG(seed, 0))}
		c := NewClasses()
		addresses, prefixes, atoms := map[netip.Addr]ClassKey{}, map[Prefix]ClassKey{}, map[ClassKey][]datapath.AtomID{}
		for step := range 100 {
			p := e.step()
			changes := c.Update(p)
			for _, addr := range changes.Addresses {
				follow(addresses, addr, c.Address)
			}
			for _, prefix := range changes.Prefixes {
				follow(prefixes, prefix, c.Prefix)
			}
			for _, key := range changes.Classes {
				atoms[key] = c.Atoms(key)
			}
			for _, key := range changes.Unused {
				delete(atoms, key)
			}
			for range 200 {
				addr := e.addr()
				key := lookup(addresses, prefixes, addr)
				got := slices.Sorted(slices.Values(atoms[key]))
				if want := atomsOf(p, addr); !slices.Equal(got, want) || key != c.Of(addr) {
					t.Fatalf("seed %d step %d: %s is in %v, %v or %v; want %v", seed, step, addr, key, got, c.Of(addr), want)
				}
			}
			used := map[ClassKey]bool{}
			for _, key := range addresses {
				used[key] = true
			}
			for _, key := range prefixes {
				used[key] = true
			}
			delete(used, NoClass)
			fresh := NewClasses()
			fresh.Update(p)
			if !sameKeys(used, atoms) || !sameKeys(used, c.classes) || !maps.Equal(fresh.addresses, c.addresses) ||
				!maps.Equal(fresh.prefixes, c.prefixes) || !sameIndex(fresh.byAtom, c.byAtom) {
				t.Fatalf("seed %d step %d: used are %v, listed %v; %+v; anew %+v", seed, step, used, atoms, c, fresh)
			}
		}
	}
}

func follow[K comparable](m map[K]ClassKey, k K, of func(K) (ClassKey, bool)) {
	if key, ok := of(k); ok {
		m[k] = key
	} else {
		delete(m, k)
	}
}

func sameKeys[A, B any](a map[ClassKey]A, b map[ClassKey]B) bool {
	for k := range a {
		if _, ok := b[k]; !ok {
			return false
		}
	}
	return len(a) == len(b)
}

func sameIndex(a, b map[datapath.AtomID]map[ClassKey]struct{}) bool {
	return maps.EqualFunc(a, b, func(x, y map[ClassKey]struct{}) bool { return maps.Equal(x, y) })
}
