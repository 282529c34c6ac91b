// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/bpfobj"
)

// counters gives rules their place in skep_rule_count. Rules without one have slot 0: they are enforced all the same.
type counters struct {
	maps  *bpfmap.Maps
	now   func() time.Time
	slots map[datapath.RuleID]bpfobj.SkepRuleSlot
	space *extents
}

func adoptCounters(n *Node) (*counters, error) {
	c := &counters{maps: n.maps, now: n.clock.Now, slots: map[datapath.RuleID]bpfobj.SkepRuleSlot{}}
	slots, err := n.maps.RuleSlot.All()
	if err != nil {
		return nil, err
	}
	inUse := []run{{0, 1}}
	for rule, slot := range slots {
		c.slots[datapath.RuleID(rule)] = slot
		inUse = append(inUse, run{slot.Slot, 1})
	}
	c.space = newExtents("skep_rule_count", n.maps.RuleCount.MaxEntries(), n.clock.Now, inUse)
	return c, nil
}

// slot finds or makes the place of a rule.
func (c *counters) slot(rule datapath.RuleID) (uint16, error) {
	if slot, ok := c.slots[rule]; ok || rule == 0 {
		return uint16(slot.Slot), nil
	}
	slot, err := c.space.take(1)
	if errors.Is(err, bpfmap.ErrFull) {
		return 0, nil
	}
	zero := make([]bpfobj.SkepRuleCount, ebpf.MustPossibleCPU())
	if err := c.maps.RuleCount.Put(slot, zero); err != nil {
		return 0, fmt.Errorf("clear the counter of rule %d: %w", rule, err)
	}
	entry := bpfobj.SkepRuleSlot{Slot: slot, Since: uint64(c.now().UnixNano())}
	if err := c.maps.RuleSlot.Put(uint32(rule), entry); err != nil {
		return 0, err
	}
	c.slots[rule] = entry
	return uint16(slot), nil
}

// keep gives up the counters of rules that are in no set any more.
func (c *counters) keep(state *datapath.PolicyState) error {
	named := map[datapath.RuleID]bool{}
	for _, set := range state.Sets {
		named[set.DefaultRule] = true
		if set.Audit != nil {
			named[set.Audit.Rule] = true
		}
		for _, rule := range set.Rules {
			named[rule.ID] = true
		}
	}
	var errs []error
	for rule, slot := range c.slots {
		if named[rule] {
			continue
		}
		errs = append(errs, c.maps.RuleSlot.Remove(uint32(rule)))
		c.space.rest(run{slot.Slot, 1})
		delete(c.slots, rule)
	}
	return errors.Join(errs...)
}
