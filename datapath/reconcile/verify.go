// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"slices"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/bpfobj"
)

// slice is about how many entries are compared before the node's lock is given up for a moment: some tenths of a millisecond's work.
const slice = 1024

/*
Verify compares the maps with what this process wrote, and writes again what differs. Whoever changed it (a person with a tool, another
program, a fault of ours) left no other trace.

Each map is read without the lock, so what it was read to hold is compared with what it should hold by now; what differs then is read
once more, under the lock, and only that counts. Entries that are missing or changed are written from the bottom up (blocks, what refers
to blocks, sets, addresses, endpoints), then what should not be there is deleted from the top down.

Nothing is compared before the first policy of this process: until then what an earlier one left is in force, and this one does not know
what that was.
*/
func (n *Node) Verify(ctx context.Context) ([]datapath.Repair, error) {
	n.mu.Lock()
	inherited := n.policy.inherited != nil
	n.mu.Unlock()
	if inherited {
		return nil, nil
	}
	v := &verification{ctx: ctx, n: n}
	checks := slices.Concat(n.policyChecks(), n.plainChecks())
	var errs []error
	for _, c := range checks {
		errs = append(errs, c.compare(v))
	}
	for _, c := range slices.Backward(checks) {
		errs = append(errs, c.prune(v))
	}
	var out []datapath.Repair
	policy := false
	for _, c := range checks {
		if found := c.found(); found.Entries() > 0 {
			out = append(out, found)
			policy = policy || found.Policy
		}
	}
	if policy {
		n.mu.Lock()
		errs = append(errs, n.bump())
		n.mu.Unlock()
	}
	return out, errors.Join(errs...)
}

// check looks after one map. All of its maps together are in the order in which they are written.
type check interface {
	// compare writes what is missing or differs.
	compare(v *verification) error
	// prune deletes what compare found and nobody wants.
	prune(v *verification) error
	found() datapath.Repair
}

// verification is one run of Verify.
type verification struct {
	ctx context.Context
	n   *Node
}

// locked visits items under the node's lock, which it gives up after about slice entries. begin is called whenever it has the lock anew.
func locked[T any](v *verification, items []T, size func(T) int, begin func(), visit func(T) error) error {
	var errs []error
	for len(items) > 0 {
		if err := v.ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		v.n.mu.Lock()
		begin()
		for done := 0; len(items) > 0 && done < slice; items = items[1:] {
			errs = append(errs, visit(items[0]))
			done += size(items[0])
		}
		v.n.mu.Unlock()
	}
	return errors.Join(errs...)
}

func one[T any](T) int { return 1 }

// keyed is the check of a map whose entries are found by key.
type keyed[K, V comparable] struct {
	datapath.Repair
	table bpfmap.Table[K, V]
	// begin prepares wanted and lookup for the time until the lock is given up.
	begin func()
	// keys lists what should be there, wanted says what an entry should be, lookup what it is. They are called under the lock.
	keys   func() []K
	wanted func(K) (V, bool)
	lookup func(K) (V, bool, error)
	// put and remove change an entry.
	put    func(K, V) error
	remove func(K) error

	surplus []K
}

func checkKeyed[K, V comparable](table bpfmap.Table[K, V], policy bool, keys func() []K, wanted func(K) (V, bool)) *keyed[K, V] {
	return &keyed[K, V]{
		Repair: datapath.Repair{Map: table.Name, Policy: policy},
		table:  table, begin: func() {}, keys: keys, wanted: wanted, lookup: table.Get, put: table.Put, remove: table.Remove,
	}
}

// checkHeld is the check of a map whose entries programs hold.
func checkHeld[K, V comparable](h *held[K, V], policy bool, keys func() []K, wanted func(K) (V, bool)) *keyed[K, V] {
	c := checkKeyed(h.table, policy, keys, wanted)
	c.put, c.remove = h.set, h.remove
	return c
}

func (c *keyed[K, V]) found() datapath.Repair { return c.Repair }

func (c *keyed[K, V]) compare(v *verification) error {
	keys, values, err := c.table.Read(-1)
	if err != nil {
		return err
	}
	v.n.mu.Lock()
	wanted := c.keys()
	v.n.mu.Unlock()
	there := make(map[K]struct{}, len(keys))
	places := make([]int, len(keys))
	for i, key := range keys {
		there[key] = struct{}{}
		places[i] = i
	}
	differing := locked(v, places, one, c.begin, func(i int) error {
		if want, ok := c.wanted(keys[i]); ok && want == values[i] {
			return nil
		}
		return c.settle(keys[i])
	})
	missing := slices.DeleteFunc(wanted, func(key K) bool { _, ok := there[key]; return ok })
	return errors.Join(differing, locked(v, missing, one, c.begin, c.settle))
}

// settle looks at an entry again and makes it what it should be, but leaves it if nobody wants it.
func (c *keyed[K, V]) settle(key K) error {
	want, wanted := c.wanted(key)
	got, there, err := c.lookup(key)
	switch {
	case err != nil || there == wanted && got == want:
		return err
	case !wanted && there:
		c.surplus = append(c.surplus, key)
		return nil
	case !wanted:
		return nil
	case there:
		c.Changed++
	default:
		c.Missing++
	}
	return c.put(key, want)
}

func (c *keyed[K, V]) prune(v *verification) error {
	return locked(v, c.surplus, one, c.begin, func(key K) error {
		if _, wanted := c.wanted(key); wanted {
			return nil
		}
		c.Surplus++
		return c.remove(key)
	})
}

// placed is the check of an array, of which some stretches are in use.
type placed[V comparable] struct {
	datapath.Repair
	table bpfmap.Table[uint32, V]
	// parts lists the stretches, under the lock.
	parts func() []part[V]
	// write puts an entry into its place.
	write func(uint32, V) error
}

// part is a stretch of an array.
type part[V comparable] struct {
	run
	// entries are what should be there, nothing when the stretch has been given up. It is called under the lock.
	entries func() []V
}

func checkPlaced[V comparable](table bpfmap.Table[uint32, V], parts func() []part[V]) *placed[V] {
	return &placed[V]{Repair: datapath.Repair{Map: table.Name, Policy: true}, table: table, parts: parts, write: table.Put}
}

func (c *placed[V]) found() datapath.Repair { return c.Repair }

func (c *placed[V]) compare(v *verification) error {
	v.n.mu.Lock()
	parts := c.parts()
	v.n.mu.Unlock()
	end := uint32(0)
	for _, p := range parts {
		end = max(end, p.first+p.length)
	}
	_, values, err := c.table.Read(int(end))
	if err != nil {
		return err
	}
	size := func(p part[V]) int { return int(p.length) }
	return locked(v, parts, size, func() {}, func(p part[V]) error {
		var errs []error
		for i, want := range p.entries() {
			if at := p.first + uint32(i); int(at) >= len(values) || values[at] != want {
				errs = append(errs, c.settle(at, want))
			}
		}
		return errors.Join(errs...)
	})
}

func (c *placed[V]) settle(at uint32, want V) error {
	got, _, err := c.table.Get(at)
	if err != nil || got == want {
		return err
	}
	c.Changed++
	return c.write(at, want)
}

// prune has nothing to do: nobody looks at entries outside the stretches.
func (c *placed[V]) prune(*verification) error { return nil }

// whole is the check of the one entry of skep_state.
type whole struct{ datapath.Repair }

func (c *whole) found() datapath.Repair { return c.Repair }

func (c *whole) compare(v *verification) error {
	v.n.mu.Lock()
	defer v.n.mu.Unlock()
	got, _, err := v.n.maps.State.Get(0)
	if err != nil || got == v.n.state {
		return err
	}
	c.Changed++
	return v.n.saveState()
}

func (c *whole) prune(*verification) error { return nil }

// hideFirst writes a set as a new one is written: in one piece only as far as programs can tell.
func (n *Node) hideFirst(number uint32, header bpfobj.SkepSet) error {
	hidden := header
	hidden.Flags = 0
	return errors.Join(n.maps.Set.Put(number, hidden), n.maps.Set.Put(number, header))
}
