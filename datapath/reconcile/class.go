// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"maps"
	"slices"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/compile"
)

const noClass = 0

// class is a class in the maps: the rows under its number are those of its atoms, in every set that stays.
type class struct {
	number uint32
	atoms  []datapath.AtomID
}

// numberClasses gives new classes their numbers. A class whose atoms change keeps its number, with its addresses and rows, if
// no set that stays tells the difference: rows of the sets that leave go on to mean what they meant, and those of new sets are yet
// to be written. So it is cheap when the first or last rule comes or goes that names a peer, however many addresses that has.
func (p *policy) numberClasses(c *change) {
	if p.inherited != nil {
		p.inheritClasses(c)
	}
	replaced := map[uint32]bool{}
	for _, key := range c.classes {
		before, known := p.classes[key]
		atoms := p.computed.Atoms(key)
		if known && sameAtoms(before.atoms, atoms) {
			continue
		}
		c.before[key] = before
		if known && !p.tellsApart(c, before.atoms, atoms) {
			p.classes[key] = class{before.number, atoms}
			continue
		}
		p.node.state.NextClass++
		p.classes[key] = class{p.node.state.NextClass, atoms}
		c.newClasses = append(c.newClasses, p.classes[key])
		if known {
			replaced[before.number] = true
			p.left = append(p.left, before)
		}
	}
	if len(replaced) > 0 {
		c.addresses = appendMembers(c.addresses, p.addresses, replaced)
		c.prefixes = appendMembers(c.prefixes, p.prefixes, replaced)
	}
}

func sameAtoms(a, b []datapath.AtomID) bool {
	if slices.Equal(a, b) {
		return true
	}
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// tellsApart says whether a set that stays names an atom that only one of the lists has.
func (p *policy) tellsApart(c *change, a, b []datapath.AtomID) bool {
	return differIn(a, b, func(atom datapath.AtomID) bool { return p.staysNamed(c, atom) })
}

// willTellApart says whether a set that stays or comes does.
func (p *policy) willTellApart(c *change, a, b []datapath.AtomID) bool {
	return differIn(a, b, func(atom datapath.AtomID) bool { return c.coming[atom] || p.staysNamed(c, atom) })
}

// differIn says whether only one of the lists has one of some atoms.
func differIn(a, b []datapath.AtomID, some func(datapath.AtomID) bool) bool {
	for _, atoms := range [2][2][]datapath.AtomID{{a, b}, {b, a}} {
		for _, atom := range atoms[0] {
			if !slices.Contains(atoms[1], atom) && some(atom) {
				return true
			}
		}
	}
	return false
}

func (p *policy) staysNamed(c *change, atom datapath.AtomID) bool {
	for set := range p.naming[atom] {
		if _, wanted := c.state.Sets[set.ID]; wanted && p.sets[set.ID] == set {
			return true
		}
	}
	return false
}

func appendMembers[K comparable](to []K, classes map[K]uint32, of map[uint32]bool) []K {
	for k, number := range classes {
		if of[number] {
			to = append(to, k)
		}
	}
	return to
}

// rowsOf says which sets need rows of classes: those that name one of their atoms.
func (p *policy) rowsOf(classes []class) map[*liveSet][]class {
	out := map[*liveSet][]class{}
	for _, in := range classes {
		for set := range p.setsNaming(in.atoms) {
			out[set] = append(out[set], in)
		}
	}
	return out
}

func (p *policy) setsNaming(atoms []datapath.AtomID) map[*liveSet]bool {
	out := map[*liveSet]bool{}
	for _, atom := range atoms {
		maps.Copy(out, p.naming[atom])
	}
	return out
}

// classesFor lists the classes that have an atom which a set names.
func (p *policy) classesFor(set *liveSet) []class {
	keys := map[compile.ClassKey]bool{}
	var out []class
	for atom := range set.Atoms() {
		for key := range p.computed.With(atom) {
			if !keys[key] {
				keys[key] = true
				out = append(out, p.classes[key])
			}
		}
	}
	return out
}

// name enters a set's atoms in naming; unname takes them out again.
func (p *policy) name(set *liveSet) {
	for atom := range set.Atoms() {
		if p.naming[atom] == nil {
			p.naming[atom] = map[*liveSet]bool{}
		}
		p.naming[atom][set] = true
	}
}

func (p *policy) unname(set *liveSet) {
	for atom := range set.Atoms() {
		delete(p.naming[atom], set)
		if len(p.naming[atom]) == 0 {
			delete(p.naming, atom)
		}
	}
}

// dropClasses removes classes' rows from the sets that have them.
func (p *policy) dropClasses(classes []class) error {
	var rows []heldRow
	for set, theirs := range p.rowsOf(classes) {
		for _, in := range theirs {
			rows = append(rows, heldRow{set, in.number})
		}
	}
	return p.dropRows(rows)
}
