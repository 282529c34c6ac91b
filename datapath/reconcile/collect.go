// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"skep.dev/skep/datapath/compile"
)

// tidy removes what the last change left, once no program can be reading it any more. A processor of a virtual machine may stand still
// for longer than a change takes, with a packet half judged: the class that it has read, or the set, must still have its rows.
func (p *policy) tidy() error {
	c := p.uncollected
	if c == nil {
		return nil
	}
	p.node.await(p.flipped)
	p.uncollected = nil
	if err := p.collect(c); err != nil {
		return fmt.Errorf("remove what the last policy left: %w", err)
	}
	return nil
}

// await returns when every program that ran at a time has ended.
func (n *Node) await(then time.Time) {
	now := n.clock.Now()
	if now.Sub(then) >= grace || n.settled.After(then) {
		return
	}
	awaitPrograms(n.clock)
	n.settled = now
}

// awaitPrograms returns when every program that runs now has ended. The kernel's global memory barrier is an RCU grace period, and
// programs run inside of RCU; where processors are shielded from it, time has to do.
func awaitPrograms(clock Clock) {
	if clock.Settle != nil {
		clock.Settle()
		return
	}
	const global = 1 // MEMBARRIER_CMD_GLOBAL, linux/membarrier.h
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0); errno != 0 {
		clock.Sleep(grace)
	}
}

// collect deletes sets and classes that are no longer in use.
func (p *policy) collect(c *change) error {
	var errs []error
	if c.all || len(c.newSets)+len(p.leaving) > 0 {
		errs = append(errs, p.counters.keep(c.state))
	}
	errs = append(errs, p.dropRows(p.passing))
	p.passing = nil
	for _, set := range p.leaving {
		p.unname(set)
		errs = append(errs, p.removeSet(set))
	}
	p.leaving = nil
	for _, key := range c.unused {
		if in, known := p.classes[key]; known && key != compile.NoClass && !p.computed.Used(key) {
			p.left = append(p.left, in)
			delete(p.classes, key)
		}
	}
	errs = append(errs, p.dropClasses(p.left))
	p.left = nil
	if p.inherited != nil {
		errs = append(errs, p.inherited.remove(p))
		p.inherited = nil
	}
	return errors.Join(errs...)
}
