// SPDX-License-Identifier: Apache-2.0

package place

import (
	"sync"
	"sync/atomic"
)

// version tells one state of a node from all others. A Node never changes, so what was worked out about a version stays
// true of it. Unlike a pointer it keeps nothing alive. Zero is no version.
type version uint64

var versions atomic.Uint64

func nextVersion() version { return version(versions.Add(1)) }

// column holds one fact about each node of a snapshot. Between two decisions one node of a thousand changes, and only
// for that one is the fact worked out again.
type column[T any] struct {
	of     []version
	values []T
}

// fill returns the fact of each node. The result is good until the next call.
func (c *column[T]) fill(nodes []*Node, work func(*Node) T) []T {
	if len(c.of) != len(nodes) {
		c.of, c.values = make([]version, len(nodes)), make([]T, len(nodes))
	}
	for i, n := range nodes {
		if c.of[i] != n.version {
			c.of[i], c.values[i] = n.version, work(n)
		}
	}
	return c.values
}

// unlabelled is the domain of a node that lacks the label.
const unlabelled = -1

// topology numbers the values of one node label.
type topology struct {
	numbers map[string]int32
	// values are the labels by number.
	values []string
	column column[int32]
}

func (t *topology) number(value string) int32 {
	n, ok := t.numbers[value]
	if !ok {
		n = int32(len(t.values))
		t.numbers[value] = n
		t.values = append(t.values, value)
	}
	return n
}

// memo keeps the columns that decisions asked for. All snapshots that are made of each other share one.
type memo struct {
	mu         sync.Mutex // held during a decision
	topologies map[string]*topology
	tallies    map[string]*column[int32]
	refusals   map[string]*column[[]string]
}

// memoLimit is how many columns of a sort are kept: those of the apps that are being rolled out. When there are more, all
// are dropped, which costs no more than not to have them.
const memoLimit = 128

func newMemo() *memo {
	return &memo{topologies: map[string]*topology{}, tallies: map[string]*column[int32]{}, refusals: map[string]*column[[]string]{}}
}

// recall returns what is kept under the key, or keeps what make makes.
func recall[T any](kept map[string]T, key string, make func() T) T {
	v, ok := kept[key]
	if !ok {
		if len(kept) >= memoLimit {
			clear(kept)
		}
		v = make()
		kept[key] = v
	}
	return v
}

// topology returns the domains of a key, and the number of each node's domain.
func (s *Snapshot) topology(key string) (*topology, []int32) {
	t := recall(s.memo.topologies, key, func() *topology { return &topology{numbers: map[string]int32{}} })
	if len(t.values) > 2*len(s.Nodes) { // most of them are gone
		*t = topology{numbers: map[string]int32{}}
	}
	return t, t.column.fill(s.Nodes, func(n *Node) int32 {
		value, ok := n.API.Labels[key]
		if !ok {
			return unlabelled
		}
		return t.number(value)
	})
}

// tally counts pods on each node. The query must say all that count depends on but the node; without one, nothing is kept.
func (s *Snapshot) tally(query string, count func(*Node) int32) []int32 {
	if query == "" {
		return new(column[int32]).fill(s.Nodes, count)
	}
	return recall(s.memo.tallies, query, func() *column[int32] { return new(column[int32]) }).fill(s.Nodes, count)
}
