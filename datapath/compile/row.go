// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"encoding/binary"
	"math/bits"

	"skep.dev/skep/datapath"
)

// A row has room for all rules of a set, in blocks as long as a tier's step; bpf/skep/types.h says the same.
const (
	BlockBits  = datapath.TierStep
	BlockWords = BlockBits / 64
	MaxBlocks  = datapath.MaxRules / BlockBits
)

// Block is one piece of a row.
type Block [BlockWords]uint64

// Row is a bit-vector over the rules of a set. Only blocks with a bit set are kept.
type Row struct {
	// Present has bit i set when block i of the vector is kept.
	Present uint32
	// Blocks are the kept ones in order.
	Blocks []Block
}

// Key identifies equal rows.
func (r Row) Key() string {
	out := make([]byte, 0, 4+len(r.Blocks)*BlockWords*8)
	out = binary.LittleEndian.AppendUint32(out, r.Present)
	for _, block := range r.Blocks {
		for _, word := range block {
			out = binary.LittleEndian.AppendUint64(out, word)
		}
	}
	return string(out)
}

// vector is a dense bit-vector while rows are put together.
type vector []uint64

func (v *vector) set(bit int) {
	for len(*v) <= bit/64 {
		*v = append(*v, 0)
	}
	(*v)[bit/64] |= 1 << (bit % 64)
}

func (v *vector) or(other vector) {
	for len(*v) < len(other) {
		*v = append(*v, 0)
	}
	for i, word := range other {
		(*v)[i] |= word
	}
}

func (v vector) clear(bit int) {
	if bit/64 < len(v) {
		v[bit/64] &^= 1 << (bit % 64)
	}
}

func (v vector) row() Row {
	var r Row
	for first := 0; first < len(v); first += BlockWords {
		var block Block
		copy(block[:], v[first:])
		if block != (Block{}) {
			r.Present |= 1 << (first / BlockWords)
			r.Blocks = append(r.Blocks, block)
		}
	}
	return r
}

// Has reports whether a bit is set.
func (r Row) Has(bit int) bool {
	block := bit / BlockBits
	if r.Present&(1<<block) == 0 {
		return false
	}
	word := r.Blocks[bits.OnesCount32(r.Present&(1<<block-1))][bit%BlockBits/64]
	return word&(1<<(bit%64)) != 0
}

// RowOf is the row with a key.
func RowOf(key string) Row {
	b := []byte(key)
	r := Row{Present: binary.LittleEndian.Uint32(b)}
	for b = b[4:]; len(b) > 0; {
		var block Block
		for i := range block {
			block[i], b = binary.LittleEndian.Uint64(b), b[8:]
		}
		r.Blocks = append(r.Blocks, block)
	}
	return r
}
