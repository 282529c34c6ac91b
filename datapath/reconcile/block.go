// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/bpfobj"
	"skep.dev/skep/datapath/compile"
)

// rowStore keeps rows in skep_block, equal ones once.
type rowStore struct {
	table  bpfmap.Table[uint32, bpfobj.SkepBlock]
	blocks *extents
	rows   map[string]*storedRow
}

type storedRow struct {
	row  bpfobj.SkepRow
	key  string
	refs int
}

// acquire stores a row, or finds it stored, and takes a reference.
func (s *rowStore) acquire(row compile.Row) (*storedRow, error) {
	key := row.Key()
	if stored, ok := s.rows[key]; ok {
		stored.refs++
		return stored, nil
	}
	first, err := s.blocks.take(uint32(len(row.Blocks)))
	if err != nil {
		return nil, err
	}
	for i, block := range row.Blocks {
		if err := s.table.Put(first+uint32(i), bpfobj.SkepBlock{Words: block}); err != nil {
			s.blocks.give(run{first, uint32(len(row.Blocks))})
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
	s.blocks.rest(runOf(stored.row))
}
