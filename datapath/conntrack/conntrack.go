// SPDX-License-Identifier: Apache-2.0

// Package conntrack ages flows: a sweep reads the connection table, decides which entries are too old and has the expiry program
// delete those that nobody has touched meanwhile.
package conntrack

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
)

// Timeouts are how long flows may be idle.
type Timeouts struct {
	// Established is for TCP connections that carried data; RFC 5382 asks for at least 2 h 4 min.
	Established time.Duration
	// Opening is for TCP connections without an answer, or whose handshake did not end.
	Opening time.Duration
	// Closing is for TCP connections that have ended.
	Closing time.Duration
	// Answered and Unanswered are for everything else; RFC 4787 asks for at least 2 min for UDP.
	Answered, Unanswered time.Duration
}

// DefaultTimeouts are used unless configured.
var DefaultTimeouts = Timeouts{
	Established: 3 * time.Hour,
	Opening:     time.Minute,
	Closing:     10 * time.Second,
	Answered:    3 * time.Minute,
	Unanswered:  time.Minute,
}

// Flow is what a sweep looks at. An index is looked at only when the flow that it belongs to is gone: otherwise it lives and dies with
// that.
type Flow struct {
	TCP                                  bool
	Answered, Established, Closed, Index bool
	Idle                                 time.Duration
}

// Expired decides whether a flow has been idle for too long.
func (t Timeouts) Expired(f Flow) bool {
	switch {
	case f.Index && f.TCP:
		// The flow was evicted. The next packet of its connection still finds its backend.
		return f.Idle > t.Established
	case f.Index:
		return f.Idle > t.Answered
	case f.TCP && f.Closed:
		return f.Idle > t.Closing
	case f.TCP && f.Established:
		return f.Idle > t.Established
	case f.TCP:
		return f.Idle > t.Opening
	case f.Answered:
		return f.Idle > t.Answered
	default:
		return f.Idle > t.Unanswered
	}
}

func flowOf(protocol uint8, entry bpfmap.FlowEntry, now time.Duration) Flow {
	return Flow{
		TCP: protocol == uint8(datapath.TCP), Answered: bpfmap.Answered(entry), Established: bpfmap.Established(entry),
		Closed: bpfmap.Closed(entry), Index: bpfmap.Index(entry), Idle: now - time.Duration(entry.LastSeen),
	}
}

// Sweeper deletes old flows.
type Sweeper struct {
	Maps     *bpfmap.Maps
	Expire   *ebpf.Program
	Timeouts Timeouts
	// Now is the clock of the programs, CLOCK_MONOTONIC.
	Now func() (time.Duration, error)
}

// Result is what one sweep did.
type Result struct {
	Entries, Expired, Deleted int
}

// batch is how many requests the program takes at a time, etherLen what precedes them.
const (
	batch    = 64
	etherLen = 14
)

// Sweep goes over the table once.
func (s *Sweeper) Sweep() (Result, error) {
	now, err := s.Now()
	if err != nil {
		return Result{}, fmt.Errorf("read the clock: %w", err)
	}
	flows, err := s.Maps.Flow.All()
	if err != nil {
		return Result{}, err
	}
	result := Result{Entries: len(flows)}
	var requests [][]byte
	for _, key := range s.Timeouts.old(flows, now) {
		request, err := bpfmap.ExpireRequest(key, flows[key])
		if err != nil {
			return result, err
		}
		requests = append(requests, request)
	}
	result.Expired = len(requests)
	var errs []error
	for len(requests) > 0 {
		n := min(batch, len(requests))
		deleted, err := s.delete(requests[:n])
		result.Deleted += deleted
		errs = append(errs, err)
		requests = requests[n:]
	}
	return result, errors.Join(errs...)
}

// old lists the entries to delete, each flow before its index: a packet between the two finds the index of no flow, which is harmless,
// where a flow without its index would be searched for.
func (t Timeouts) old(flows map[bpfmap.FlowID]bpfmap.FlowEntry, now time.Duration) []bpfmap.FlowID {
	var out, indexes []bpfmap.FlowID
	for key, entry := range flows {
		owner := key
		if bpfmap.Index(entry) {
			if flow, ok := bpfmap.IndexedFlow(flows, key, entry); ok {
				owner = flow
			}
		}
		if !t.Expired(flowOf(owner.Proto, flows[owner], now)) {
			continue
		}
		if owner != key {
			indexes = append(indexes, key)
		} else {
			out = append(out, key)
		}
	}
	return append(out, indexes...)
}

func (s *Sweeper) delete(requests [][]byte) (int, error) {
	frame := append(make([]byte, etherLen), bytes.Join(requests, nil)...)
	deleted, err := s.Expire.Run(&ebpf.RunOptions{Data: frame})
	if err != nil {
		return 0, fmt.Errorf("run the expiry program: %w", err)
	}
	return int(deleted), nil
}
