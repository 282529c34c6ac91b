// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfobj"
)

const reasonPrefix = "SKEP_REASON_"

// reasons are the names of reasons by number, from the type information of the compiled programs.
var reasons = sync.OnceValues(func() (map[bpfobj.SkepReason]string, error) {
	spec, err := bpfobj.LoadSkep()
	if err != nil {
		return nil, fmt.Errorf("read the layout object: %w", err)
	}
	var enum *btf.Enum
	if err := spec.Types.TypeByName("reason", &enum); err != nil {
		return nil, fmt.Errorf("find the reasons: %w", err)
	}
	out := map[bpfobj.SkepReason]string{}
	for _, value := range enum.Values {
		name := strings.TrimPrefix(value.Name, reasonPrefix)
		if name == "FIRST_DROP" || name == "COUNT" {
			continue // markers, not reasons
		}
		out[bpfobj.SkepReason(value.Value)] = strings.ToLower(name)
	}
	return out, nil
})

// Reasons lists every reason with its name.
func Reasons() (map[bpfobj.SkepReason]string, error) { return reasons() }

// ReasonName is the name of a reason as counters carry it, "no_policy" for SKEP_REASON_NO_POLICY.
func ReasonName(r bpfobj.SkepReason) string {
	names, err := reasons()
	if err != nil || names[r] == "" {
		return fmt.Sprintf("reason_%d", r)
	}
	return names[r]
}

// Metrics sums the packet counters over all CPUs: what was handed on, and what was dropped. Every reason is listed, also
// at zero.
func Metrics(table *ebpf.Map) (verdicts, drops []datapath.Counter, err error) {
	names, err := reasons()
	if err != nil {
		return nil, nil, err
	}
	for _, reason := range sortedReasons(names) {
		var perCPU []bpfobj.SkepMetric
		if err := table.Lookup(uint32(reason), &perCPU); err != nil {
			return nil, nil, fmt.Errorf("read the counter of %s: %w", names[reason], err)
		}
		counter := datapath.Counter{Name: names[reason]}
		for _, m := range perCPU {
			counter.Packets += m.Packets
			counter.Bytes += m.Bytes
		}
		switch {
		case reason == bpfobj.SkepReasonSKEP_REASON_NONE:
		case reason < bpfobj.SkepReasonSKEP_REASON_FIRST_DROP:
			verdicts = append(verdicts, counter)
		default:
			drops = append(drops, counter)
		}
	}
	return verdicts, drops, nil
}

func sortedReasons(names map[bpfobj.SkepReason]string) []bpfobj.SkepReason {
	var out []bpfobj.SkepReason
	for reason := range names {
		out = append(out, reason)
	}
	slices.Sort(out)
	return out
}

// RuleCounters sums the rules' counters over all CPUs, in order of rule.
func RuleCounters(slots Table[uint32, bpfobj.SkepRuleSlot], table *ebpf.Map) ([]datapath.RuleCounter, error) {
	rules, err := slots.All()
	if err != nil {
		return nil, err
	}
	var out []datapath.RuleCounter
	for rule, slot := range rules {
		var perCPU []bpfobj.SkepRuleCount
		if err := table.Lookup(slot.Slot, &perCPU); err != nil {
			return nil, fmt.Errorf("read the counter of rule %d: %w", rule, err)
		}
		counter := datapath.RuleCounter{Rule: datapath.RuleID(rule), Since: time.Unix(0, int64(slot.Since))}
		for _, c := range perCPU {
			counter.Connections += c.Connections
			counter.Packets += c.Packets
			counter.Bytes += c.Bytes
			counter.WouldDeny += c.WouldDeny
			counter.WouldAllow += c.WouldAllow
		}
		out = append(out, counter)
	}
	slices.SortFunc(out, func(a, b datapath.RuleCounter) int { return cmp.Compare(a.Rule, b.Rule) })
	return out, nil
}

// Fill counts the entries of the maps that can fill up. Those of LRU maps include entries that wait for eviction.
func (m *Maps) Fill() ([]datapath.MapFill, error) {
	var out []datapath.MapFill
	for name, table := range m.all {
		switch table.Type() {
		case ebpf.Hash, ebpf.LRUHash, ebpf.LPMTrie:
		default:
			continue
		}
		entries, err := count(table)
		if err != nil {
			return nil, fmt.Errorf("count entries of %s: %w", name, err)
		}
		out = append(out, datapath.MapFill{Name: name, Entries: entries, Max: table.MaxEntries()})
	}
	slices.SortFunc(out, func(a, b datapath.MapFill) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// count walks the keys: the kernel keeps no number that it would tell.
func count(table *ebpf.Map) (uint32, error) {
	var n uint32
	key := make([]byte, table.KeySize())
	next := make([]byte, table.KeySize())
	err := table.NextKey(nil, &next)
	for ; err == nil && n < table.MaxEntries(); n++ {
		copy(key, next)
		err = table.NextKey(key, &next)
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return n, err
	}
	return n, nil
}
