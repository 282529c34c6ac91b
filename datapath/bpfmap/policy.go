// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfobj"
	"skep.dev/skep/datapath/compile"
)

// Bits before the part of a key that a longest-prefix match may shorten.
const rangeFixedBits = 32 + 16

// CIDRKey is the key of a prefix in skep_cidr.
func CIDRKey(p compile.Prefix) bpfobj.SkepCidrKey {
	return bpfobj.SkepCidrKey{Prefix: uint32(p.Bits), Addr: addr16(p.Addr)}
}

// CIDRPrefix is the prefix of a key in skep_cidr.
func CIDRPrefix(k bpfobj.SkepCidrKey) compile.Prefix {
	return compile.Prefix{Addr: bytes16(k.Addr), Bits: int(k.Prefix)}
}

// PortKey is the key of a port row in skep_port.
func PortKey(set uint32, k compile.PortKey) bpfobj.SkepPortKey {
	kind := map[compile.PortKind]bpfobj.SkepPortKind{
		compile.PortExact:         bpfobj.SkepPortKindPORT_EXACT,
		compile.PortAnyOfProtocol: bpfobj.SkepPortKindPORT_ANY_OF_PROTOCOL,
		compile.PortAny:           bpfobj.SkepPortKindPORT_ANY,
	}[k.Kind]
	return bpfobj.SkepPortKey{Set: set, Port: PortOf(k.Port), Proto: uint8(k.Protocol), Kind: uint8(kind)}
}

// RangeKey is the key of a port prefix in skep_range.
func RangeKey(set uint32, k compile.RangeKey) bpfobj.SkepRangeKey {
	return bpfobj.SkepRangeKey{
		Prefix: uint32(rangeFixedBits + k.Bits), Set: set, Proto: uint8(k.Protocol), Port: PortOf(k.Port),
	}
}

// Rule is the entry of a rule in skep_rule, counted in a slot of skep_rule_count.
func Rule(r compile.Rule, slot uint32) bpfobj.SkepRule {
	out := bpfobj.SkepRule{Action: uint16(Action(r.Action)), NextBlock: uint16(r.NextBlock), Present: 1}
	out.Ref.Id, out.Ref.Counter = uint32(r.ID), slot
	return out
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

// SetHeader is the entry of a set in skep_set, complete for classes up to completeClass. Its rules lie from firstRule on, its
// default is counted in slot.
func SetHeader(s *compile.Set, firstRule, slot, completeClass uint32) bpfobj.SkepSet {
	flags := bpfobj.SkepSetFlagSET_COMPLETE
	if s.HasPorts {
		flags |= bpfobj.SkepSetFlagSET_HAS_PORTS
	}
	if len(s.Ranges) > 0 {
		flags |= bpfobj.SkepSetFlagSET_HAS_RANGES
	}
	out := bpfobj.SkepSet{
		Flags: uint32(flags), CompleteClass: completeClass, FirstRule: firstRule, Rules: uint32(s.Bits()),
		DefaultAction: uint32(Action(s.DefaultAction)),
	}
	out.Otherwise.Id, out.Otherwise.Counter = uint32(s.DefaultRule), slot
	return out
}
