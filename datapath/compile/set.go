// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"

	"skep.dev/skep/datapath"
)

// MaxTiers is how many tiers a set may have.
const MaxTiers = 3

// Set is a policy set in the form in which it is looked up. It depends on nothing but the set's content.
type Set struct {
	ID    datapath.SetID
	Rules []Rule
	// Defaults decide what no rule matched, by view: enforced, and would-be.
	Defaults [2]Rule
	// Views are the rules of each view. They are nil when the two are the same, defaults included.
	Views []Row
	// Ports has a row for every packet when some rule names ports, in order of Start; otherwise it is empty.
	Ports []PortSpan

	anyPeer vector
	byAtom  map[datapath.AtomID]vector
}

// Rule is what one bit of a set's rows stands for.
type Rule struct {
	Bit    int
	ID     datapath.RuleID
	Action datapath.Action
	// Audit says that the rule is in the would-be view alone.
	Audit bool
	// NextBlock is the first block of the next tier.
	NextBlock int
}

// PortSpan is a stretch of protocols and ports that the same rules include: from Start to the next span's Start. The first span of
// a set starts at 0.
type PortSpan struct {
	// Start is protocol << 16 | port.
	Start uint32
	Row   Row
}

// NewSet compiles one set.
func NewSet(s datapath.PolicySet) (*Set, error) {
	out := &Set{ID: s.ID, byAtom: map[datapath.AtomID]vector{}}
	if s.Default == datapath.Pass || (s.Audit != nil && s.Audit.Action == datapath.Pass) {
		return nil, fmt.Errorf("set %s: the default cannot be Pass", s.ID)
	}
	if err := out.placeRules(s.Rules); err != nil {
		return nil, fmt.Errorf("set %s: %w", s.ID, err)
	}
	out.placeDefaults(s)
	out.Views = out.views(s)
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
	var err error
	if out.Ports, err = out.portSpans(s.Rules); err != nil {
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
		s.Rules = append(s.Rules, Rule{Bit: next, ID: rule.ID, Action: rule.Action, Audit: rule.View == datapath.AuditOnly})
		next++
	}
	if next > datapath.MaxRules || tiers > MaxTiers {
		return fmt.Errorf("%d rules in %d tiers do not fit: %d rules and %d tiers do", len(rules), tiers, datapath.MaxRules, MaxTiers)
	}
	for i, end := len(s.Rules)-1, MaxBlocks; i >= 0; i-- {
		if i+1 < len(rules) && rules[i].Tier != rules[i+1].Tier {
			end = s.Rules[i+1].Bit / BlockBits
		}
		s.Rules[i].NextBlock = end
	}
	return nil
}

// placeDefaults puts what decides when no rule did behind the last rule.
func (s *Set) placeDefaults(from datapath.PolicySet) {
	enforced := Rule{Bit: s.Bits(), ID: from.DefaultRule, Action: from.Default}
	would := enforced
	if from.Audit != nil {
		would = Rule{ID: from.Audit.Rule, Action: from.Audit.Action, Audit: from.Audit.Rule != from.DefaultRule}
	}
	would.Bit = s.Bits() + 1
	s.Defaults = [2]Rule{enforced, would}
}

func (s *Set) views(from datapath.PolicySet) []Row {
	var enforced, would vector
	differ := from.Audit != nil
	for i, rule := range from.Rules {
		bit := s.Rules[i].Bit
		if rule.View != datapath.AuditOnly {
			enforced.set(bit)
		}
		if rule.View != datapath.EnforcedOnly {
			would.set(bit)
		}
		differ = differ || rule.View != datapath.BothViews
	}
	if !differ {
		return nil
	}
	return []Row{enforced.row(), would.row()}
}

// Entries is how many rules the set has with its defaults, room between tiers included.
func (s *Set) Entries() int { return s.Bits() + len(s.Defaults) }

// Atoms goes over the atoms that the set's rules name.
func (s *Set) Atoms() iter.Seq[datapath.AtomID] { return maps.Keys(s.byAtom) }

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

// portEdge is where a rule starts or stops to include ports.
type portEdge struct {
	at    uint32
	bit   int
	delta int
}

// portSpans goes over the edges of all rules' ports in order. Between two edges all ports are in the same rules.
func (s *Set) portSpans(rules []datapath.Rule) ([]PortSpan, error) {
	var included vector
	var edges []portEdge
	for i, rule := range rules {
		bit := s.Rules[i].Bit
		if rule.AnyPort {
			included.set(bit)
			continue
		}
		for _, r := range rule.Ports {
			if r.First > r.Last {
				return nil, fmt.Errorf("rule %d: port range %d-%d is empty", rule.ID, r.First, r.Last)
			}
			protocol := uint32(r.Protocol) << 16
			edges = append(edges, portEdge{protocol + uint32(r.First), bit, 1}, portEdge{protocol + uint32(r.Last) + 1, bit, -1})
		}
	}
	if !slices.ContainsFunc(rules, func(r datapath.Rule) bool { return !r.AnyPort }) {
		return nil, nil
	}
	slices.SortFunc(edges, func(a, b portEdge) int { return cmp.Compare(a.at, b.at) })
	spans := []PortSpan{{Row: included.row()}}
	// A rule may include a port by several of its ranges.
	ranges := make([]int, s.Bits())
	for i, edge := range edges {
		if ranges[edge.bit] += edge.delta; ranges[edge.bit] > 0 {
			included.set(edge.bit)
		} else {
			included.clear(edge.bit)
		}
		if i+1 == len(edges) || edges[i+1].at != edge.at {
			spans = append(spans, PortSpan{Start: edge.at, Row: included.row()})
		}
	}
	return spans, nil
}
