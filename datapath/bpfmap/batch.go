// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// batchSize is how many entries are read with one system call.
const batchSize = 1024

// Read reads the map, or about its first limit entries if limit is not negative, many at a time where the kernel can (hashes and arrays
// since 5.6, prefixes later). Entries that change meanwhile may or may not be seen.
func (t Table[K, V]) Read(limit int) ([]K, []V, error) {
	keys, values, err := t.readBatches(limit)
	if err == nil {
		return keys, values, nil
	}
	// Whatever a kernel has against batches: one by one always works.
	return t.readSingly(limit)
}

func (t Table[K, V]) readBatches(limit int) ([]K, []V, error) {
	var keys []K
	var values []V
	var cursor ebpf.MapBatchCursor
	size := batchSize
	for limit < 0 || len(keys) < limit {
		someKeys, someValues := make([]K, size), make([]V, size)
		n, err := t.BatchLookup(&cursor, someKeys, someValues, nil)
		if errors.Is(err, unix.ENOSPC) && size < int(t.MaxEntries()) {
			size *= 2 // a bucket of a hash is longer
			continue
		}
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, nil, fmt.Errorf("list %s: %w", t.Name, err)
		}
		keys, values = append(keys, someKeys[:n]...), append(values, someValues[:n]...)
		if err != nil {
			break // that was the end
		}
	}
	return keys, values, nil
}

func (t Table[K, V]) readSingly(limit int) ([]K, []V, error) {
	var keys []K
	var values []V
	var key K
	var value V
	iterator := t.Iterate()
	for (limit < 0 || len(keys) < limit) && iterator.Next(&key, &value) {
		keys, values = append(keys, key), append(values, value)
	}
	if err := iterator.Err(); err != nil {
		return nil, nil, fmt.Errorf("list %s: %w", t.Name, err)
	}
	return keys, values, nil
}

// PutAll writes entries, all with one system call where the kernel can. After an error any of them may be there.
func (t Table[K, V]) PutAll(keys []K, values []V) error {
	if len(keys) > 1 {
		if _, err := t.BatchUpdate(keys, values, nil); err == nil {
			return nil
		}
	}
	for i := range keys {
		if err := t.Put(keys[i], values[i]); err != nil {
			return err
		}
	}
	return nil
}

// RemoveAll deletes entries like PutAll writes them; absence is not an error.
func (t Table[K, V]) RemoveAll(keys []K) error {
	if len(keys) > 1 {
		// A batch ends at the first key that is absent.
		if _, err := t.BatchDelete(keys, nil); err == nil {
			return nil
		}
	}
	for _, key := range keys {
		if err := t.Remove(key); err != nil {
			return err
		}
	}
	return nil
}
