// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"sort"

	"skep.dev/skep/datapath"
)

// MaxTiers is how many tiers a set may have.
const MaxTiers = 3

// Set is a policy set in the form in which it is looked up. It depends on nothing but the set's content.
type Set struct {
	ID            datapath.SetID
	Rules         []Rule
	DefaultRule   datapath.RuleID
	DefaultAction datapath.Action
	// HasPorts says that some rule names ports. Only then is Ports filled.
	HasPorts bool
	Ports    map[PortKey]Row
	// Ranges is filled when some rule names a range; keys are prefixes of ports.
	Ranges map[RangeKey]Row

	anyPeer vector
	byAtom  map[datapath.AtomID]vector
}

// Rule is what one bit of a set's rows stands for.
type Rule struct {
	Bit    int
	ID     datapath.RuleID
	Action datapath.Action
	// NextBlock is the first block of the next tier.
	NextBlock int
}

// PortKind says which packets a port row is for.
type PortKind uint8

// Kinds of port rows, from the most specific: the first that exists is used.
const (
	// PortExact is one port of one protocol.
	PortExact PortKind = iota
	// PortAnyOfProtocol is every other port of a protocol.
	PortAnyOfProtocol
	// PortAny is everything else.
	PortAny
)

// PortKey names a port row.
type PortKey struct {
	Kind     PortKind
	Protocol datapath.Protocol
	Port     uint16
}

// RangeKey names the row of the ports that share their first Bits bits with Port.
type RangeKey struct {
	Protocol datapath.Protocol
	Port     uint16
	Bits     int
}

// NewSet compiles one set.
func NewSet(s datapath.PolicySet) (*Set, error) {
	out := &Set{ID: s.ID, DefaultRule: s.DefaultRule, DefaultAction: s.Default, byAtom: map[datapath.AtomID]vector{}}
	if s.Default == datapath.Pass {
		return nil, fmt.Errorf("set %s: the default cannot be Pass", s.ID)
	}
	if err := out.placeRules(s.Rules); err != nil {
		return nil, fmt.Errorf("set %s: %w", s.ID, err)
	}
	for i, rule := range s.Rules {
		bit := out.Rules[i].Bit
		if rule.AnyPeer {
			out.anyPeer.set(bit)
			continue
		}
		for _, atom := range rule.Peers {
			v := out.byAtom[atom]
			v.set(bit)
			out.byAtom[atom] = v
		}
	}
	if err := out.compilePorts(s.Rules); err != nil {
		return nil, fmt.Errorf("set %s: %w", s.ID, err)
	}
	return out, nil
}

// placeRules gives every rule its bit. A tier starts at a block, so that Pass is a skip of whole blocks.
func (s *Set) placeRules(rules []datapath.Rule) error {
	next, tiers := 0, 0
	for i, rule := range rules {
		if i == 0 {
			tiers = 1
		} else if before := rules[i-1].Tier; rule.Tier != before {
			if rule.Tier < before {
				return fmt.Errorf("rule %d: tier %d comes after tier %d", rule.ID, rule.Tier, before)
			}
			tiers++
			next = (next + BlockBits - 1) / BlockBits * BlockBits
		}
		s.Rules = append(s.Rules, Rule{Bit: next, ID: rule.ID, Action: rule.Action})
		next++
	}
	if next > MaxRules || tiers > MaxTiers {
		return fmt.Errorf("%d rules in %d tiers do not fit: %d rules and %d tiers do", len(rules), tiers, MaxRules, MaxTiers)
	}
	for i, end := len(s.Rules)-1, MaxBlocks; i >= 0; i-- {
		if i+1 < len(rules) && rules[i].Tier != rules[i+1].Tier {
			end = s.Rules[i+1].Bit / BlockBits
		}
		s.Rules[i].NextBlock = end
	}
	return nil
}

// Bits is how many bits the set's rows have, those between tiers included.
func (s *Set) Bits() int {
	if len(s.Rules) == 0 {
		return 0
	}
	return s.Rules[len(s.Rules)-1].Bit + 1
}

// NoPeer is the row for addresses that no atom of the set covers.
func (s *Set) NoPeer() Row { return s.anyPeer.row() }

// PeerRow is the row for addresses that belong to atoms. It reports false when it is the same as NoPeer.
func (s *Set) PeerRow(atoms []datapath.AtomID) (Row, bool) {
	var v vector
	for _, atom := range atoms {
		if bits, ok := s.byAtom[atom]; ok {
			v.or(bits)
		}
	}
	if v == nil {
		return Row{}, false
	}
	v.or(s.anyPeer)
	return v.row(), true
}

// ports collects the rules of one protocol by the ports that they name.
type ports struct {
	all    vector
	exact  map[uint16]vector
	ranges []portRange
}

type portRange struct {
	first, last uint16
	bit         int
}

func (s *Set) compilePorts(rules []datapath.Rule) error {
	var anyPort vector
	protocols := map[datapath.Protocol]*ports{}
	for i, rule := range rules {
		bit := s.Rules[i].Bit
		if rule.AnyPort {
			anyPort.set(bit)
			continue
		}
		s.HasPorts = true
		for _, r := range rule.Ports {
			if r.First > r.Last {
				return fmt.Errorf("rule %d: port range %d-%d is empty", rule.ID, r.First, r.Last)
			}
			if protocols[r.Protocol] == nil {
				protocols[r.Protocol] = &ports{exact: map[uint16]vector{}}
			}
			protocols[r.Protocol].add(r, bit)
		}
	}
	if !s.HasPorts {
		return nil
	}
	s.Ports = map[PortKey]Row{{Kind: PortAny}: anyPort.row()}
	s.Ranges = map[RangeKey]Row{}
	for protocol, p := range protocols {
		p.rows(protocol, anyPort, s)
	}
	return nil
}

func (p *ports) add(r datapath.PortRange, bit int) {
	switch {
	case r.First == 0 && r.Last == 65535:
		p.all.set(bit)
	case r.First == r.Last:
		v := p.exact[r.First]
		v.set(bit)
		p.exact[r.First] = v
	default:
		p.ranges = append(p.ranges, portRange{r.First, r.Last, bit})
	}
}

func (p *ports) covering(port uint16) vector {
	var v vector
	for _, r := range p.ranges {
		if r.first <= port && port <= r.last {
			v.set(r.bit)
		}
	}
	return v
}

// rows adds this protocol's rows. Each row is complete by itself: one look-up finds all rules that include the port.
func (p *ports) rows(protocol datapath.Protocol, anyPort vector, s *Set) {
	every := union(anyPort, p.all)
	if p.all != nil {
		s.Ports[PortKey{Kind: PortAnyOfProtocol, Protocol: protocol}] = every.row()
	}
	for port, v := range p.exact {
		s.Ports[PortKey{Kind: PortExact, Protocol: protocol, Port: port}] = union(every, v, p.covering(port)).row()
	}
	for _, span := range p.elementary() {
		v := p.covering(span.first)
		if v == nil {
			continue
		}
		row := union(every, v).row()
		for _, prefix := range prefixes(int(span.first), int(span.last)) {
			s.Ranges[RangeKey{Protocol: protocol, Port: uint16(prefix.first), Bits: prefix.bits}] = row
		}
	}
}

// elementary cuts the port space at every end of a range: within a piece all ports are in the same ranges.
func (p *ports) elementary() []portRange {
	var starts []int
	for _, r := range p.ranges {
		starts = append(starts, int(r.first), int(r.last)+1)
	}
	sort.Ints(starts)
	var out []portRange
	for i := 0; i+1 < len(starts); i++ {
		if starts[i] != starts[i+1] {
			out = append(out, portRange{first: uint16(starts[i]), last: uint16(starts[i+1] - 1)})
		}
	}
	return out
}

type portPrefix struct{ first, bits int }

// prefixes covers first..last with as few aligned powers of two as possible.
func prefixes(first, last int) []portPrefix {
	var out []portPrefix
	for first <= last {
		bits := 16
		for bits > 0 {
			size := 1 << (16 - (bits - 1))
			if first%size != 0 || first+size-1 > last {
				break
			}
			bits--
		}
		out = append(out, portPrefix{first, bits})
		first += 1 << (16 - bits)
	}
	return out
}
