// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfobj"
	"skep.dev/skep/datapath/compile"
)

// CIDRKey is the key of a prefix in skep_cidr.
func CIDRKey(p compile.Prefix) bpfobj.SkepCidrKey {
	return bpfobj.SkepCidrKey{Prefix: uint32(p.Bits), Addr: addr16(p.Addr)}
}

// CIDRPrefix is the prefix of a key in skep_cidr.
func CIDRPrefix(k bpfobj.SkepCidrKey) compile.Prefix {
	return compile.Prefix{Addr: bytes16(k.Addr), Bits: int(k.Prefix)}
}

// PortSpan is the entry of a span in skep_port, with its row as it is stored.
func PortSpan(s compile.PortSpan, row bpfobj.SkepRow) bpfobj.SkepPortSpan {
	return bpfobj.SkepPortSpan{Start: s.Start, Row: row, Present: 1}
}

// PortNode is the entry of a node in skep_port_index.
func PortNode(n compile.PortNode) bpfobj.SkepPortNode {
	return bpfobj.SkepPortNode{Present: 1, Start: n}
}

// Rule is the entry of a rule in skep_rule, counted in a slot of skep_rule_count.
func Rule(r compile.Rule, slot uint16) bpfobj.SkepRule {
	flags := bpfobj.SkepRuleFlagRULE_PRESENT
	if r.Audit {
		flags |= bpfobj.SkepRuleFlagRULE_AUDIT
	}
	return bpfobj.SkepRule{
		Id: uint32(r.ID), Counter: slot, Action: uint8(Action(r.Action)), Flags: uint8(flags), NextBlock: uint32(r.NextBlock),
	}
}

// Action is the number of an action in maps.
func Action(a datapath.Action) bpfobj.SkepAction {
	switch a {
	case datapath.Allow:
		return bpfobj.SkepActionACTION_ALLOW
	case datapath.Pass:
		return bpfobj.SkepActionACTION_PASS
	default:
		return bpfobj.SkepActionACTION_DENY
	}
}

// Places say where the parts of a set lie in the arrays.
type Places struct {
	FirstRule, FirstPort, FirstNode uint32
}

// SetHeader is the entry of a set in skep_set, complete for classes up to completeClass. views are the set's, as they are stored.
func SetHeader(s *compile.Set, at Places, views []bpfobj.SkepRow, completeClass uint32) bpfobj.SkepSet {
	out := bpfobj.SkepSet{
		Flags: uint32(bpfobj.SkepSetFlagSET_COMPLETE), CompleteClass: completeClass,
		FirstRule: at.FirstRule, Rules: uint32(s.Bits()), FirstPort: at.FirstPort, Ports: uint32(len(s.Ports)),
		FirstNode: at.FirstNode, Levels: uint32(compile.PortLevels(len(s.Ports))),
	}
	if len(s.Ports) > 0 {
		out.Flags |= uint32(bpfobj.SkepSetFlagSET_HAS_PORTS)
	}
	if copy(out.Views[:], views) > 0 {
		out.Flags |= uint32(bpfobj.SkepSetFlagSET_AUDIT)
	}
	return out
}
