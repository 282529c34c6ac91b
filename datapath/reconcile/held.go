// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"time"

	"skep.dev/skep/datapath/bpfmap"
)

/*
held is a hash whose entries programs look up and then use for as long as they run.

The kernel gives the memory of an entry that was replaced or deleted to the next one that is made, at once (since 6.1, and always where
entries are allocated before): a program that holds it then reads what is said of another key. So

	an entry that exists is changed where it is, if there is a program that can
	before an entry is made, all programs that may hold one that was replaced or deleted have ended

An entry that is changed in place cannot be missed either: a look-up that walks a bucket while an entry in it is replaced may find neither.
*/
type held[K, V comparable] struct {
	table  bpfmap.Table[K, V]
	change bpfmap.Changer[K, V]
	// inPlace says whether the program can make one value of the other.
	inPlace func(from, to V) bool
	// await returns when the programs that ran at some time have ended.
	await func(time.Time)
	now   func() time.Time
	// freed is when an entry was replaced or deleted last.
	freed time.Time
}

// set makes an entry say something, whatever is there.
func (h *held[K, V]) set(key K, value V) error {
	before, there, err := h.table.Get(key)
	switch {
	case err != nil || there && before == value:
		return err
	case !there:
		return h.insert(key, value)
	case h.inPlace(before, value):
		return h.changeAll([]K{key}, []V{value})
	default:
		return h.replace(key, value)
	}
}

// changeAll changes entries that are there and can be changed in place, bpfmap.ChangeBatch of them at most.
func (h *held[K, V]) changeAll(keys []K, values []V) error {
	n, err := h.change.Change(keys, values)
	if err != nil || n == len(keys) {
		return err
	}
	// Somebody else has deleted some.
	for i, key := range keys {
		if err := h.set(key, values[i]); err != nil {
			return err
		}
	}
	return nil
}

// insert makes an entry that is not there.
func (h *held[K, V]) insert(key K, value V) error {
	h.await(h.freed)
	return h.table.Put(key, value)
}

func (h *held[K, V]) replace(key K, value V) error {
	err := h.insert(key, value)
	h.freed = h.now()
	return err
}

// remove deletes an entry; absence is not an error.
func (h *held[K, V]) remove(key K) error {
	err := h.table.Remove(key)
	h.freed = h.now()
	return err
}
