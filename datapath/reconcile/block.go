// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"fmt"
	"slices"
	"sort"
	"time"

	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/bpfobj"
	"skep.dev/skep/datapath/compile"
)

// grace is how long freed blocks rest before they are written again: far longer than any program runs that may still
// be reading them.
const grace = 100 * time.Millisecond

// run is a stretch of blocks.
type run struct{ first, length uint32 }

// rowStore keeps rows in skep_block, equal ones once.
type rowStore struct {
	table bpfmap.Table[uint32, bpfobj.SkepBlock]
	now   func() time.Time
	rows  map[string]*storedRow
	// free is sorted and has no two runs that touch.
	free    []run
	resting []restingRun
}

type storedRow struct {
	row  bpfobj.SkepRow
	key  string
	refs int
}

type restingRun struct {
	run
	until time.Time
}

// newRowStore starts with all blocks free but those in use.
func newRowStore(table bpfmap.Table[uint32, bpfobj.SkepBlock], now func() time.Time, inUse []run) *rowStore {
	s := &rowStore{table: table, now: now, rows: map[string]*storedRow{}}
	slices.SortFunc(inUse, func(a, b run) int { return int(a.first) - int(b.first) })
	next := uint32(0)
	for _, used := range inUse {
		if used.first > next {
			s.free = append(s.free, run{next, used.first - next})
		}
		next = max(next, used.first+used.length)
	}
	if end := table.MaxEntries(); next < end {
		s.free = append(s.free, run{next, end - next})
	}
	return s
}

// acquire stores a row, or finds it stored, and takes a reference.
func (s *rowStore) acquire(row compile.Row) (*storedRow, error) {
	key := row.Key()
	if stored, ok := s.rows[key]; ok {
		stored.refs++
		return stored, nil
	}
	first, err := s.take(uint32(len(row.Blocks)))
	if err != nil {
		return nil, err
	}
	for i, block := range row.Blocks {
		if err := s.table.Put(first+uint32(i), bpfobj.SkepBlock{Words: block}); err != nil {
			s.give(run{first, uint32(len(row.Blocks))})
			return nil, err
		}
	}
	stored := &storedRow{row: bpfobj.SkepRow{First: first, Blocks: row.Present}, key: key, refs: 1}
	s.rows[key] = stored
	return stored, nil
}

func (s *rowStore) release(stored *storedRow) {
	if stored.refs--; stored.refs > 0 {
		return
	}
	delete(s.rows, stored.key)
	s.rest(runOf(stored.row))
}

// rest frees a run after the grace period.
func (s *rowStore) rest(r run) {
	if r.length > 0 {
		s.resting = append(s.resting, restingRun{r, s.now().Add(grace)})
	}
}

func (s *rowStore) take(length uint32) (uint32, error) {
	if length == 0 {
		return 0, nil
	}
	now := s.now()
	s.resting = slices.DeleteFunc(s.resting, func(r restingRun) bool {
		if now.Before(r.until) {
			return false
		}
		s.give(r.run)
		return true
	})
	for i := range s.free {
		if s.free[i].length < length {
			continue
		}
		first := s.free[i].first
		s.free[i].first += length
		if s.free[i].length -= length; s.free[i].length == 0 {
			s.free = slices.Delete(s.free, i, i+1)
		}
		return first, nil
	}
	return 0, fmt.Errorf("no %d adjoining blocks are free in %s (%d in all): %w", length, s.table.Name, s.table.MaxEntries(), bpfmap.ErrFull)
}

func (s *rowStore) give(r run) {
	i := sort.Search(len(s.free), func(i int) bool { return s.free[i].first > r.first })
	s.free = slices.Insert(s.free, i, r)
	if i+1 < len(s.free) && s.free[i].first+s.free[i].length == s.free[i+1].first {
		s.free[i].length += s.free[i+1].length
		s.free = slices.Delete(s.free, i+1, i+2)
	}
	if i > 0 && s.free[i-1].first+s.free[i-1].length == s.free[i].first {
		s.free[i-1].length += s.free[i].length
		s.free = slices.Delete(s.free, i, i+1)
	}
}
