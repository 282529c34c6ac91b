// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/compile"
)

// policy is what the policy maps hold. It is used under the node's lock.
type policy struct {
	node      *Node
	rows      *rowStore
	numbers   *extents // of skep_set
	ruleSpace *extents // of skep_rule
	portSpace *extents // of skep_port
	nodeSpace *extents // of skep_port_index
	counters  *counters
	// computed are the classes of the policy in force; nil when that is not known in whole, and all has to be compared.
	computed *compile.Classes
	// whole says that the last policy that began to be in force is so, up to its generation.
	whole     bool
	classes   map[compile.ClassKey]class
	addresses map[netip.Addr]uint32
	prefixes  map[compile.Prefix]uint32
	// loose are addresses whose pod has gone from this node.
	loose map[netip.Addr]bool
	sets  map[datapath.SetID]*liveSet
	// naming says which sets in the maps name an atom.
	naming    map[datapath.AtomID]map[*liveSet]bool
	endpoints map[datapath.EndpointID]datapath.EndpointPolicy
	// passing are rows of passages that may still be there.
	passing []heldRow
	// leaving and left are sets and classes that the next collection deletes. Until then a set may be in use.
	leaving []*liveSet
	left    []class
	// uncollected is the last change, whose leavings are still there, and flipped when it was made.
	uncollected *change
	flipped     time.Time
	// inherited is what an earlier process left: in force until the first policy of this one, deleted after it.
	inherited *inheritance
}

// change is a policy on its way into the maps.
type change struct {
	state *datapath.PolicyState
	// all says that everything is compared.
	all bool
	// addresses and prefixes are those that may need other classes.
	addresses []netip.Addr
	prefixes  []compile.Prefix
	// classes may need other numbers, or other atoms; unused ones go.
	classes, unused []compile.ClassKey
	newSets         []*liveSet
	newClasses      []class
	// before are the classes as they were; without a number when they were not there.
	before map[compile.ClassKey]class
	// moves and prefixMoves are what changes; passages are needed on the way if sets change too, opened are their rows.
	moves       []move[netip.Addr]
	prefixMoves []move[compile.Prefix]
	passages    map[passage]uint32
	opened      []heldRow
	// heirs are new classes that start with the rows of others, copied are these rows.
	heirs  map[uint32]uint32
	copied []heldRow
	// coming are the atoms that new sets name, stayers those that pass in the class that they leave.
	coming  map[datapath.AtomID]bool
	stayers []passage
}

/*
apply makes before it breaks:

	rows of new classes into every live set, new sets complete   nobody refers to them yet
	addresses to their passages, if sets change                  in old sets what they were, in new ones what they will be
	endpoints to their sets, one write each
	addresses to their classes                                   in the sets of now the same as the passages
	generation                                                   known flows are judged again
	what nobody refers to is deleted, when the next change comes or somebody tidies up

Whatever fails before the addresses flip is undone, and the last policy stays in force untouched. After a failure the next policy is
compared with all that is in the maps, and not only with the last one.
*/
func (p *policy) apply(state *datapath.PolicyState) error {
	if err := p.tidy(); err != nil {
		p.computed = nil
		return err
	}
	compiled, err := p.compileNew(state)
	if err != nil {
		return err
	}
	if err := p.replace(state, compiled); err != nil {
		p.computed = nil
		return err
	}
	return nil
}

func (p *policy) replace(state *datapath.PolicyState, compiled []*compile.Set) error {
	c := p.compare(state)
	if err := p.checkRoom(c); err != nil {
		return err
	}
	if err := p.make(c, compiled); err != nil {
		return errors.Join(fmt.Errorf("prepare policy: %w", err), p.undo(c))
	}
	if p.decides(c) {
		p.uncollected = c
		return nil
	}
	p.whole = false
	if err := p.flip(c); err != nil {
		return fmt.Errorf("enforce policy: %w", err)
	}
	if err := p.node.bump(); err != nil {
		return fmt.Errorf("start a policy generation: %w", err)
	}
	p.whole = true
	clear(p.loose)
	p.uncollected, p.flipped = c, p.node.clock.Now()
	return nil
}

// decides says that what is in force is the new policy already, so that no flow needs to be judged again. It is when a policy that was
// refused, as it is from time to time, makes way for the one before.
func (p *policy) decides(c *change) bool {
	return p.whole && p.inherited == nil && len(c.newSets)+len(c.moves)+len(c.prefixMoves)+len(p.loose) == 0 &&
		len(c.state.Sets) == len(p.sets) && maps.Equal(c.state.Endpoints, p.endpoints)
}

// compare finds what the new policy may change. Addresses of this node's pods are always looked at: pods come without a change of
// policy.
func (p *policy) compare(state *datapath.PolicyState) *change {
	c := &change{state: state, all: p.computed == nil, before: map[compile.ClassKey]class{}}
	if c.all {
		p.computed = compile.NewClasses()
	}
	found := p.computed.Update(state)
	c.addresses, c.prefixes, c.classes, c.unused = found.Addresses, found.Prefixes, found.Classes, found.Unused
	c.addresses = slices.AppendSeq(c.addresses, maps.Keys(p.node.owners))
	c.addresses = slices.AppendSeq(c.addresses, maps.Keys(p.loose))
	if c.all {
		c.addresses = slices.AppendSeq(c.addresses, maps.Keys(p.addresses))
		c.prefixes = slices.AppendSeq(c.prefixes, maps.Keys(p.prefixes))
		c.unused = slices.AppendSeq(c.unused, maps.Keys(p.classes))
	}
	return c
}

// classOf is the class of an address if it gets an entry: because the policy names it, or because it is that of a pod of this node,
// which would have to be looked for by prefix with every connection.
func (p *policy) classOf(addr netip.Addr) (compile.ClassKey, bool) {
	if key, ok := p.computed.Address(addr); ok {
		return key, true
	}
	if _, owned := p.node.owners[addr]; owned {
		return p.computed.Of(addr), true
	}
	return compile.NoClass, false
}

func (p *policy) compileNew(state *datapath.PolicyState) ([]*compile.Set, error) {
	var compiled []*compile.Set
	for id, set := range state.Sets {
		if id != set.ID {
			return nil, fmt.Errorf("set %s is listed as %s", set.ID, id)
		}
		if p.sets[id] != nil {
			continue // the identifier follows from the content
		}
		s, err := compile.NewSet(set)
		if err != nil {
			return nil, err
		}
		compiled = append(compiled, s)
	}
	for id, sets := range state.Endpoints {
		if _, ok := state.Sets[sets.Ingress]; !ok {
			return nil, fmt.Errorf("endpoint %s: ingress set %s is not defined", id, sets.Ingress)
		}
		if _, ok := state.Sets[sets.Egress]; !ok {
			return nil, fmt.Errorf("endpoint %s: egress set %s is not defined", id, sets.Egress)
		}
	}
	return compiled, nil
}

// checkRoom refuses a policy that cannot fit beside the present one before anything is written.
func (p *policy) checkRoom(c *change) error {
	tables := p.node.maps
	if len(p.addresses)+len(p.node.owners)+len(c.addresses) <= int(tables.Address.MaxEntries()) &&
		len(p.prefixes)+len(c.prefixes) <= int(tables.CIDR.MaxEntries()) {
		return nil // even if all of them are new
	}
	more := map[netip.Addr]bool{}
	for addr := range p.node.owners {
		if _, classified := p.addresses[addr]; !classified {
			more[addr] = true
		}
	}
	for _, addr := range c.addresses {
		_, classified := p.addresses[addr]
		if _, wanted := p.classOf(addr); wanted && !classified {
			more[addr] = true
		}
	}
	prefixes := map[compile.Prefix]bool{}
	for _, prefix := range c.prefixes {
		_, classified := p.prefixes[prefix]
		if _, wanted := p.computed.Prefix(prefix); wanted && !classified {
			prefixes[prefix] = true
		}
	}
	return errors.Join(
		room(tables.Address.Map, tables.Address.Name, len(p.addresses)+len(more)),
		room(tables.CIDR.Map, tables.CIDR.Name, len(p.prefixes)+len(prefixes)),
	)
}

func room(m *ebpf.Map, name string, entries int) error {
	if entries <= int(m.MaxEntries()) {
		return nil
	}
	return fmt.Errorf("%s holds %d entries, %d are needed: %w", name, m.MaxEntries(), entries, bpfmap.ErrFull)
}

// make writes everything that the new policy needs and the old one does not see.
func (p *policy) make(c *change, compiled []*compile.Set) error {
	c.coming = map[datapath.AtomID]bool{}
	for _, set := range compiled {
		for atom := range set.Atoms() {
			c.coming[atom] = true
		}
	}
	p.numberClasses(c)
	p.planMoves(c)
	if err := p.node.saveState(); err != nil {
		return err
	}
	var w peerWrites
	if err := p.prepareLive(&w, c); err != nil {
		return err
	}
	for _, s := range compiled {
		if err := p.prepareNew(&w, c, s); err != nil {
			return err
		}
	}
	if err := w.write(p); err != nil {
		return err
	}
	return p.declare(c.newSets)
}

// prepareLive gives the sets that are there the rows of new classes and of passages.
func (p *policy) prepareLive(w *peerWrites, c *change) error {
	fresh := slices.DeleteFunc(slices.Clone(c.newClasses), func(in class) bool { _, heir := c.heirs[in.number]; return heir })
	for set, classes := range p.rowsOf(fresh) {
		if err := p.addClasses(w, set, classes); err != nil {
			return err
		}
	}
	if err := p.openPassages(w, c); err != nil {
		return err
	}
	if err := w.write(p); err != nil {
		return err
	}
	if len(c.newClasses)+len(c.passages) == 0 {
		return nil
	}
	return p.declare(slices.Collect(p.live()))
}

// prepareNew writes a set but for the rows that wait in w, and its header.
func (p *policy) prepareNew(w *peerWrites, c *change, compiled *compile.Set) error {
	set, err := p.writeSet(compiled)
	if set != nil {
		c.newSets = append(c.newSets, set)
		p.name(set)
	}
	if err != nil {
		return err
	}
	if err := p.addRow(w, set, noClass, compiled.NoPeer()); err != nil {
		return err
	}
	if err := p.addClasses(w, set, p.classesFor(set)); err != nil {
		return err
	}
	for way, number := range c.passages {
		copyPeer(w, &c.opened, set, way.to, number)
	}
	for _, way := range c.stayers {
		if set.peers[way.from] == nil { // or somebody is in it for good
			copyPeer(w, &c.opened, set, way.to, way.from)
		}
	}
	return nil
}

// live goes over the sets in the maps that endpoints may refer to.
func (p *policy) live() iter.Seq[*liveSet] {
	return func(yield func(*liveSet) bool) {
		for _, set := range p.sets {
			if !yield(set) {
				return
			}
		}
		for _, set := range p.leaving {
			if !yield(set) {
				return
			}
		}
	}
}

func (p *policy) isLive(s *liveSet) bool { return p.sets[s.ID] == s || slices.Contains(p.leaving, s) }

// undo removes what make wrote. Class numbers stay used up: they are never given out twice.
func (p *policy) undo(c *change) error {
	errs := []error{p.dropRows(c.opened), p.dropRows(c.copied)}
	if p.inherited != nil {
		errs = append(errs, p.inherited.closePassages(p))
	}
	for _, set := range c.newSets {
		p.unname(set)
		errs = append(errs, p.removeSet(set))
	}
	errs = append(errs, p.dropClasses(c.newClasses))
	for key, before := range c.before {
		if before.number == noClass {
			delete(p.classes, key)
			continue
		}
		p.left = slices.DeleteFunc(p.left, func(in class) bool { return in.number == before.number })
		p.classes[key] = before
	}
	return errors.Join(errs...)
}

// flip lets the new policy decide. Meanwhile state.flips is odd: programs then look at each address again instead of trusting what
// they read of a sender before. It stays so when a flip fails halfway.
func (p *policy) flip(c *change) error {
	for id, set := range p.sets {
		if _, stays := c.state.Sets[id]; !stays {
			p.leaving = append(p.leaving, set)
			delete(p.sets, id)
		}
	}
	for _, set := range c.newSets {
		p.sets[set.ID] = set
	}
	state := &p.node.state
	if state.Flips%2 == 0 {
		state.Flips++
	}
	if err := p.node.saveState(); err != nil {
		return err
	}
	if c.passes() {
		p.passing = append(p.passing, c.opened...)
		if err := p.pass(c); err != nil {
			return err
		}
	}
	p.endpoints = c.state.Endpoints
	if p.inherited != nil {
		p.inherited.over = true
	}
	if err := p.node.refreshEndpoints(); err != nil {
		return err
	}
	if err := p.arrive(c); err != nil {
		return err
	}
	// Each of them holds the classes of its own addresses too.
	if err := p.node.refreshEndpoints(); err != nil {
		return err
	}
	state.Flips++
	return p.node.saveState()
}

// setNumbers are the numbers of an endpoint's sets; false while no policy names it.
func (p *policy) setNumbers(id datapath.EndpointID) (ingress, egress uint32, ok bool) {
	sets, named := p.endpoints[id]
	if !named {
		return 0, 0, false
	}
	in, out := p.set(sets.Ingress), p.set(sets.Egress)
	if in == nil || out == nil {
		return 0, 0, false
	}
	return in.number, out.number, true
}

// set finds a set that an endpoint may have: a flip that failed halfway leaves some with sets that are to go.
func (p *policy) set(id datapath.SetID) *liveSet {
	if set := p.sets[id]; set != nil {
		return set
	}
	i := slices.IndexFunc(p.leaving, func(s *liveSet) bool { return s.ID == id })
	if i < 0 {
		return nil
	}
	return p.leaving[i]
}
