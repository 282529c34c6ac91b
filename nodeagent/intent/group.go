// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"

	"skep.dev/skep/datapath"
)

// groups sorts addresses by the atoms that they belong to. A group is not its atoms: when all of its addresses come to belong to one
// more, or to one less, it stays the same group, and nothing is said of each address.
type groups struct {
	of      map[netip.Addr]*group
	byAtoms map[string]*group
	last    datapath.GroupID

	addresses datapath.MapEditor[netip.Addr, datapath.GroupID]
	atoms     datapath.MapEditor[datapath.GroupID, []datapath.AtomID]
}

// group is the addresses that belong to the same atoms, of which there is one at least.
type group struct {
	id    datapath.GroupID
	atoms []*atom // by serial
	addrs map[netip.Addr]struct{}
}

func newGroups() *groups {
	return &groups{of: map[netip.Addr]*group{}, byAtoms: map[string]*group{}}
}

// put says to which atoms, in order of their serials, an address belongs.
func (g *groups) put(addr netip.Addr, atoms []*atom) {
	before := g.of[addr]
	if before != nil && slices.Equal(before.atoms, atoms) {
		return
	}
	if before != nil {
		delete(before.addrs, addr)
		if len(before.addrs) == 0 {
			g.remove(before)
		}
	}
	if len(atoms) == 0 {
		g.leave(addr)
		return
	}
	g.join(g.find(atoms), addr)
}

// add says which addresses belong to an atom that is new.
func (g *groups) add(a *atom, addrs []netip.Addr) {
	found := map[*group][]netip.Addr{}
	for _, addr := range addrs {
		found[g.of[addr]] = append(found[g.of[addr]], addr)
	}
	for gr, members := range found {
		switch {
		case gr == nil:
			alone := g.find([]*atom{a})
			for _, addr := range members {
				g.join(alone, addr)
			}
		case len(members) == len(gr.addrs):
			g.become(gr, append(slices.Clip(gr.atoms), a))
		default:
			other := g.find(append(slices.Clip(gr.atoms), a))
			for _, addr := range members {
				delete(gr.addrs, addr)
				g.join(other, addr)
			}
		}
	}
}

// drop forgets an atom. Of two groups that are one without it the smaller moves.
func (g *groups) drop(a *atom) {
	for _, gr := range slices.Collect(maps.Keys(a.groups)) {
		rest := slices.DeleteFunc(slices.Clone(gr.atoms), func(o *atom) bool { return o == a })
		same := g.byAtoms[keyOf(rest)]
		switch {
		case same == nil && len(rest) > 0:
			g.become(gr, rest)
		case same != nil && len(same.addrs) < len(gr.addrs):
			g.remove(same)
			g.become(gr, rest)
			for addr := range same.addrs {
				g.join(gr, addr)
			}
		default:
			g.remove(gr)
			for addr := range gr.addrs {
				if same != nil {
					g.join(same, addr)
				} else {
					g.leave(addr)
				}
			}
		}
	}
}

// find returns the group of some atoms, made if there is none.
func (g *groups) find(atoms []*atom) *group {
	if gr := g.byAtoms[keyOf(atoms)]; gr != nil {
		return gr
	}
	g.last++
	gr := &group{id: g.last, addrs: map[netip.Addr]struct{}{}}
	g.become(gr, slices.Clone(atoms)) // a profile's own list changes
	return gr
}

// leave notes that an address belongs to no atom.
func (g *groups) leave(addr netip.Addr) {
	delete(g.of, addr)
	g.addresses.Delete(addr)
}

func (g *groups) join(gr *group, addr netip.Addr) {
	gr.addrs[addr] = struct{}{}
	g.of[addr] = gr
	g.addresses.Put(addr, gr.id)
}

// become gives a group other atoms.
func (g *groups) become(gr *group, atoms []*atom) {
	g.unlist(gr)
	gr.atoms = atoms
	ids := make([]datapath.AtomID, len(atoms))
	for i, a := range atoms {
		ids[i] = a.id
		a.groups[gr] = struct{}{}
	}
	g.byAtoms[keyOf(atoms)] = gr
	g.atoms.Put(gr.id, ids)
}

func (g *groups) remove(gr *group) {
	g.unlist(gr)
	g.atoms.Delete(gr.id)
}

func (g *groups) unlist(gr *group) {
	delete(g.byAtoms, keyOf(gr.atoms))
	for _, a := range gr.atoms {
		delete(a.groups, gr)
	}
}

func keyOf(atoms []*atom) string {
	key := make([]byte, 0, 4*len(atoms))
	for _, a := range atoms {
		key = binary.NativeEndian.AppendUint32(key, a.serial)
	}
	return string(key)
}
