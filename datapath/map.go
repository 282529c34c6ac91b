// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"hash/maphash"
	"iter"
	"maps"
)

// mapShards is how many parts a Map has. One change copies one part, and a comparison looks at those only that were copied.
const mapShards = 256

var mapSeed = maphash.MakeSeed()

// Map is a map that is a value: it never changes, and shares what is equal with the maps that it was made from. So a large one can be
// handed over with every change, and the receiver finds the change at the change's cost. The zero Map is empty.
type Map[K comparable, V any] struct {
	shards *[mapShards]*map[K]V
	length int
}

// MapOf returns a Map with the content of m.
func MapOf[K comparable, V any](m map[K]V) Map[K, V] {
	var e MapEditor[K, V]
	for k, v := range m {
		e.Put(k, v)
	}
	return e.Map()
}

// Len is the number of entries.
func (m Map[K, V]) Len() int { return m.length }

// Get returns the value of a key, and whether there is one.
func (m Map[K, V]) Get(k K) (v V, ok bool) {
	if m.shards == nil {
		return v, false
	}
	if shard := m.shards[shardOf(k)]; shard != nil {
		v, ok = (*shard)[k]
	}
	return v, ok
}

// All goes over the entries in no order.
func (m Map[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		if m.shards == nil {
			return
		}
		for _, shard := range m.shards {
			if shard == nil {
				continue
			}
			for k, v := range *shard {
				if !yield(k, v) {
					return
				}
			}
		}
	}
}

// Diff goes over the keys that only one of two maps has, or that have values in them which are not the same. It costs
// what has been changed since the younger was made from the older.
func (m Map[K, V]) Diff(o Map[K, V], same func(a, b V) bool) iter.Seq[K] {
	return func(yield func(K) bool) {
		if m.shards == o.shards {
			return
		}
		for i := range mapShards {
			mine, others := m.shard(i), o.shard(i)
			if mine == others {
				continue
			}
			for k, v := range content(mine) {
				if other, ok := content(others)[k]; (!ok || !same(v, other)) && !yield(k) {
					return
				}
			}
			for k := range content(others) {
				if _, ok := content(mine)[k]; !ok && !yield(k) {
					return
				}
			}
		}
	}
}

// Equal says that two maps have the same entries.
func (m Map[K, V]) Equal(o Map[K, V], same func(a, b V) bool) bool {
	for range m.Diff(o, same) {
		return false
	}
	return true
}

func (m Map[K, V]) shard(i int) *map[K]V {
	if m.shards == nil {
		return nil
	}
	return m.shards[i]
}

func content[K comparable, V any](shard *map[K]V) map[K]V {
	if shard == nil {
		return nil
	}
	return *shard
}

func shardOf[K comparable](k K) int {
	return int(maphash.Comparable(mapSeed, k) % mapShards)
}

// MapEditor makes Maps one after the other, each from the one before. The zero MapEditor starts with an empty one.
type MapEditor[K comparable, V any] struct {
	now Map[K, V]
	// own says which shards no Map that was handed out has; the array itself is our own if any is.
	own [mapShards]bool
	any bool
}

// Map is the map as edited so far.
func (e *MapEditor[K, V]) Map() Map[K, V] {
	if e.any {
		e.own, e.any = [mapShards]bool{}, false
	}
	return e.now
}

// Put sets the value of a key.
func (e *MapEditor[K, V]) Put(k K, v V) {
	shard := e.edit(shardOf(k))
	e.now.length -= len(shard)
	shard[k] = v
	e.now.length += len(shard)
}

// Delete removes a key; absence is no error.
func (e *MapEditor[K, V]) Delete(k K) {
	if _, ok := e.now.Get(k); ok {
		delete(e.edit(shardOf(k)), k)
		e.now.length--
	}
}

// edit returns a shard that may be changed.
func (e *MapEditor[K, V]) edit(i int) map[K]V {
	if !e.any {
		shards := new([mapShards]*map[K]V)
		if e.now.shards != nil {
			*shards = *e.now.shards
		}
		e.now.shards, e.any = shards, true
	}
	if !e.own[i] {
		shard := maps.Clone(content(e.now.shards[i]))
		if shard == nil {
			shard = map[K]V{}
		}
		e.now.shards[i], e.own[i] = &shard, true
	}
	return *e.now.shards[i]
}
