// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"

	"skep.dev/skep/datapath/bpfmap"
)

// TestAFullTableIsReadWhileItChanges has entries replace each other as flows do in a table that is full. A walk from key to key starts
// again whenever the key that it stands on has gone, and may never come to an end.
func TestAFullTableIsReadWhileItChanges(t *testing.T) {
	const room = 1024
	raw, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.LRUHash, KeySize: 8, ValueSize: 8, MaxEntries: room})
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	table := bpfmap.Table[uint64, uint64]{Map: raw, Name: "flows"}
	var next atomic.Uint64
	insert := func() {
		i := next.Add(1)
		if err := table.Put(i, i); err != nil {
			t.Error(err)
		}
	}
	for range 2 * room {
		insert()
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				insert()
			}
		}
	}()
	for range 200 {
		entries, err := table.All()
		if err != nil {
			t.Error(err)
			break
		}
		if len(entries) < room/4 {
			t.Errorf("%d entries of a full table are seen", len(entries))
			break
		}
	}
	close(stop)
	<-stopped
}
