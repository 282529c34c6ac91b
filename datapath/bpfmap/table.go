// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"skep.dev/skep/datapath"
)

// ErrFull is returned when an entry does not fit into its map. What is in the map stays as it was.
var ErrFull = datapath.ErrFull

// Table is one hash, array or prefix map with keys K and values V. It adds nothing to the map but types and errors that name it.
type Table[K comparable, V any] struct {
	*ebpf.Map
	Name string
}

// Put writes one entry.
func (t Table[K, V]) Put(key K, value V) error {
	err := t.Update(&key, &value, ebpf.UpdateAny)
	if errors.Is(err, ebpf.ErrKeyNotExist) || err == nil {
		return err
	}
	return fmt.Errorf("write %s (%d entries at most): %w", t.Name, t.MaxEntries(), full(err))
}

// Get reads one entry; false when it is absent.
func (t Table[K, V]) Get(key K) (V, bool, error) {
	var value V
	err := t.Lookup(&key, &value)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return value, false, nil
	}
	if err != nil {
		return value, false, fmt.Errorf("read %s: %w", t.Name, err)
	}
	return value, true, nil
}

// Remove deletes one entry; absence is not an error.
func (t Table[K, V]) Remove(key K) error {
	if err := t.Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete from %s: %w", t.Name, err)
	}
	return nil
}

// All reads the whole map. Entries that change meanwhile may or may not be seen.
func (t Table[K, V]) All() (map[K]V, error) {
	keys, values, err := t.Read(-1)
	if err != nil {
		return nil, err
	}
	out := make(map[K]V, len(keys))
	for i, key := range keys {
		out[key] = values[i]
	}
	return out, nil
}

// Keys reads the keys of the whole map.
func (t Table[K, V]) Keys() ([]K, error) {
	keys, _, err := t.Read(-1)
	return keys, err
}

// full recognises the two ways in which the kernel says that a map has no room.
func full(err error) error {
	if errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}
