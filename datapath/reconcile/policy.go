// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/compile"
)

const noClass = 0

// policy is what the policy maps hold. It is used under the node's lock.
type policy struct {
	node      *Node
	rows      *rowStore
	numbers   *extents // of skep_set
	ruleSpace *extents // of skep_rule
	portSpace *extents // of skep_port
	nodeSpace *extents // of skep_port_index
	counters  *counters
	classes   map[compile.ClassKey]uint32
	addresses map[netip.Addr]uint32
	prefixes  map[compile.Prefix]uint32
	sets      map[datapath.SetID]*liveSet
	endpoints map[datapath.EndpointID]datapath.EndpointPolicy
	// passing are the numbers of passages whose rows may still be there.
	passing []uint32
	// inherited is what an earlier process left: in force until the first policy of this one, deleted after it.
	inherited *inheritance
}

// change is a policy on its way into the maps.
type change struct {
	state      *datapath.PolicyState
	wanted     *compile.Classes
	newSets    []*liveSet
	newClasses []compile.ClassKey
	// final is where addresses go; between is where they pass through, nil when they need not.
	final    placement
	between  *placement
	passages map[passage]uint32
}

/*
apply makes before it breaks:

	rows of new classes into every live set, new sets complete   nobody refers to them yet
	addresses to their passages, if sets change                  in old sets what they were, in new ones what they will be
	endpoints to their sets, one write each
	addresses to their classes                                   in the sets of now the same as the passages
	generation                                                   known flows are judged again
	what nobody refers to is deleted

Whatever fails before the addresses flip is undone, and the last policy stays in force untouched.
*/
func (p *policy) apply(state *datapath.PolicyState, wanted *compile.Classes) error {
	c := &change{state: state, wanted: wanted}
	compiled, err := p.compileNew(state)
	if err != nil {
		return err
	}
	if err := p.checkRoom(c, compiled); err != nil {
		return err
	}
	if err := p.make(c, compiled); err != nil {
		return errors.Join(fmt.Errorf("prepare policy: %w", err), p.undo(c))
	}
	if err := p.flip(c); err != nil {
		return fmt.Errorf("enforce policy: %w", err)
	}
	if err := p.node.bump(); err != nil {
		return fmt.Errorf("start a policy generation: %w", err)
	}
	if err := p.collect(c); err != nil {
		return fmt.Errorf("remove what the last policy left: %w", err)
	}
	return nil
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
func (p *policy) checkRoom(c *change, compiled []*compile.Set) error {
	tables := p.node.maps
	addresses, prefixes := len(p.addresses), len(p.prefixes)
	for addr := range c.wanted.Addresses {
		if _, ok := p.addresses[addr]; !ok {
			addresses++
		}
	}
	for addr := range p.node.owners {
		_, classified := p.addresses[addr]
		if _, wanted := c.wanted.Addresses[addr]; !classified && !wanted {
			addresses++
		}
	}
	for prefix := range c.wanted.Prefixes {
		if _, ok := p.prefixes[prefix]; !ok {
			prefixes++
		}
	}
	return errors.Join(
		room(tables.Address.Map, tables.Address.Name, addresses),
		room(tables.CIDR.Map, tables.CIDR.Name, prefixes),
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
	if p.inherited != nil {
		p.inheritClasses(c.wanted)
	}
	for class := range c.wanted.Atoms {
		if _, known := p.classes[class]; !known {
			p.node.state.NextClass++
			p.classes[class] = p.node.state.NextClass
			c.newClasses = append(c.newClasses, class)
		}
	}
	p.planPassages(c)
	if err := p.node.saveState(); err != nil {
		return err
	}
	if len(c.newClasses) > 0 || len(c.passages) > 0 {
		for _, set := range p.sets {
			if err := p.addClasses(set, c.newClasses, c.wanted.Atoms); err != nil {
				return err
			}
		}
	}
	if err := p.openPassages(c); err != nil {
		return err
	}
	var all []compile.ClassKey
	for class := range c.wanted.Atoms {
		all = append(all, class)
	}
	for _, s := range compiled {
		set, err := p.writeSet(s)
		if set != nil {
			c.newSets = append(c.newSets, set)
		}
		if err == nil {
			err = p.addClasses(set, all, c.wanted.Atoms)
		}
		for way, number := range c.passages {
			if err == nil {
				err = p.copyPeer(set, way.to, number)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// undo removes what make wrote. Class numbers stay used up: they are never given out twice.
func (p *policy) undo(c *change) error {
	var errs []error
	for _, set := range c.newSets {
		errs = append(errs, p.removeSet(set))
	}
	for _, class := range c.newClasses {
		for _, set := range p.sets {
			errs = append(errs, p.dropClass(set, p.classes[class]))
		}
		delete(p.classes, class)
	}
	errs = append(errs, p.closePassages(slices.Collect(maps.Values(c.passages))))
	if p.inherited != nil {
		errs = append(errs, p.inherited.closePassages(p))
	}
	return errors.Join(errs...)
}

// flip lets the new policy decide. Meanwhile state.flips is odd: programs then look at each address again instead of trusting what
// they read of a sender before. It stays so when a flip fails halfway.
func (p *policy) flip(c *change) error {
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
	if c.between != nil {
		p.passing = slices.AppendSeq(p.passing, maps.Values(c.passages))
		if err := p.place(*c.between); err != nil {
			return err
		}
	}
	p.endpoints = c.state.Endpoints
	if err := p.writeEndpoints(); err != nil {
		return err
	}
	if err := p.place(c.final); err != nil {
		return err
	}
	// Each of them holds the classes of its own addresses too.
	if err := p.writeEndpoints(); err != nil {
		return err
	}
	state.Flips++
	return p.node.saveState()
}

// exactClasses are the classes of addresses that get an entry: those that the policy names, and this node's pods, which would have to
// be looked for by prefix with every connection.
func (p *policy) exactClasses(wanted *compile.Classes) map[netip.Addr]compile.ClassKey {
	out := maps.Clone(wanted.Addresses)
	for addr := range p.node.owners {
		out[addr] = wanted.Of(addr)
	}
	return out
}

func (p *policy) writeEndpoints() error {
	var errs []error
	for _, ep := range p.node.endpoints {
		errs = append(errs, p.node.writeEndpoint(ep))
	}
	return errors.Join(errs...)
}

// collect deletes sets and classes that are no longer in use.
func (p *policy) collect(c *change) error {
	var errs []error
	for id, set := range p.sets {
		if _, keep := c.state.Sets[id]; keep {
			continue
		}
		errs = append(errs, p.removeSet(set))
		delete(p.sets, id)
	}
	for class, number := range p.classes {
		if _, keep := c.wanted.Atoms[class]; keep || class == compile.NoClass {
			continue
		}
		for _, set := range p.sets {
			errs = append(errs, p.dropClass(set, number))
		}
		delete(p.classes, class)
	}
	errs = append(errs, p.closePassages(p.passing), p.counters.keep(c.state))
	p.passing = nil
	if p.inherited != nil {
		errs = append(errs, p.inherited.remove(p))
		p.inherited = nil
	}
	return errors.Join(errs...)
}

// setNumbers are the numbers of an endpoint's sets; false while no policy names it.
func (p *policy) setNumbers(id datapath.EndpointID) (ingress, egress uint32, ok bool) {
	sets, named := p.endpoints[id]
	if !named {
		return 0, 0, false
	}
	in, out := p.sets[sets.Ingress], p.sets[sets.Egress]
	if in == nil || out == nil {
		return 0, 0, false
	}
	return in.number, out.number, true
}
