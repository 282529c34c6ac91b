// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"fmt"
	"slices"
	"sort"
	"time"

	"skep.dev/skep/datapath/bpfmap"
)

// grace is how long freed entries rest before they are written again: far longer than any program runs that may still
// be reading them.
const grace = 100 * time.Millisecond

// run is a stretch of entries.
type run struct{ first, length uint32 }

// extents gives out stretches of an array map. What is given back rests before it is given out again.
type extents struct {
	name string
	max  uint32
	now  func() time.Time
	// free is sorted and has no two runs that touch.
	free    []run
	resting []restingRun
}

type restingRun struct {
	run
	until time.Time
}

// newExtents starts with everything free but what is in use.
func newExtents(name string, size uint32, now func() time.Time, inUse []run) *extents {
	e := &extents{name: name, max: size, now: now}
	slices.SortFunc(inUse, func(a, b run) int { return int(a.first) - int(b.first) })
	next := uint32(0)
	for _, used := range inUse {
		if used.first > next {
			e.free = append(e.free, run{next, used.first - next})
		}
		next = max(next, used.first+used.length)
	}
	if next < size {
		e.free = append(e.free, run{next, size - next})
	}
	return e
}

// rest frees a run after the grace period.
func (e *extents) rest(r run) {
	if r.length > 0 {
		e.resting = append(e.resting, restingRun{r, e.now().Add(grace)})
	}
}

func (e *extents) take(length uint32) (uint32, error) {
	if length == 0 {
		return 0, nil
	}
	now := e.now()
	e.resting = slices.DeleteFunc(e.resting, func(r restingRun) bool {
		if now.Before(r.until) {
			return false
		}
		e.give(r.run)
		return true
	})
	for i := range e.free {
		if e.free[i].length < length {
			continue
		}
		first := e.free[i].first
		e.free[i].first += length
		if e.free[i].length -= length; e.free[i].length == 0 {
			e.free = slices.Delete(e.free, i, i+1)
		}
		return first, nil
	}
	return 0, fmt.Errorf("no %d adjoining entries are free in %s (%d in all): %w", length, e.name, e.max, bpfmap.ErrFull)
}

func (e *extents) give(r run) {
	i := sort.Search(len(e.free), func(i int) bool { return e.free[i].first > r.first })
	e.free = slices.Insert(e.free, i, r)
	if i+1 < len(e.free) && e.free[i].first+e.free[i].length == e.free[i+1].first {
		e.free[i].length += e.free[i+1].length
		e.free = slices.Delete(e.free, i+1, i+2)
	}
	if i > 0 && e.free[i-1].first+e.free[i-1].length == e.free[i].first {
		e.free[i-1].length += e.free[i].length
		e.free = slices.Delete(e.free, i, i+1)
	}
}
