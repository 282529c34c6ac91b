// SPDX-License-Identifier: Apache-2.0

// Package event reads what the programs tell user space at once. Events are detail: what finds no room in their ring is counted and
// gone, while the counters of rules miss nothing.
package event

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/cilium/ebpf/ringbuf"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/bpfobj"
)

// Reader takes events out of the ring. Of several readers each event reaches one. It is not safe for concurrent use.
type Reader struct {
	ring *ringbuf.Reader
}

// NewReader reads the ring of loaded maps.
func NewReader(maps *bpfmap.Maps) (*Reader, error) {
	ring, err := ringbuf.NewReader(maps.Events)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return &Reader{ring}, nil
}

// Drain hands over the events that are there and returns when there are none left. Programs wake nobody: it is called as often as
// events should arrive.
func (r *Reader) Drain(take func(datapath.AuditEvent)) error {
	offset, err := wallOffset()
	if err != nil {
		return err
	}
	r.ring.SetDeadline(time.Unix(1, 0))
	var record ringbuf.Record
	for {
		err := r.ring.ReadInto(&record)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		var e bpfobj.SkepEvent
		if err := binary.Read(bytes.NewReader(record.RawSample), binary.NativeEndian, &e); err != nil {
			return fmt.Errorf("read an event of %d bytes: %w", len(record.RawSample), err)
		}
		if bpfobj.SkepEventType(e.Type) == bpfobj.SkepEventTypeEVENT_AUDIT {
			take(auditEvent(e, offset))
		}
	}
}

// Lost counts the events that found no room since the maps were made.
func Lost(maps *bpfmap.Maps) (uint64, error) {
	var perCPU []uint64
	if err := maps.EventsLost.Lookup(uint32(0), &perCPU); err != nil {
		return 0, fmt.Errorf("read lost events: %w", err)
	}
	var sum uint64
	for _, n := range perCPU {
		sum += n
	}
	return sum, nil
}

// Close gives up the ring. What is in it stays for the next reader.
func (r *Reader) Close() error { return r.ring.Close() }

func auditEvent(e bpfobj.SkepEvent, offset time.Duration) datapath.AuditEvent {
	return datapath.AuditEvent{
		Time:      time.Unix(0, int64(e.Time)).Add(offset),
		Direction: datapath.Direction(e.Direction),
		Protocol:  datapath.Protocol(e.Proto),
		Src:       netip.AddrPortFrom(bpfmap.Addr(bpfobj.SkepAddr(e.Src)), bpfmap.PortOf(e.Sport)),
		Dst:       netip.AddrPortFrom(bpfmap.Addr(bpfobj.SkepAddr(e.Dst)), bpfmap.PortOf(e.Dport)),
		Rule:      datapath.RuleID(e.Rule), WouldRule: datapath.RuleID(e.WouldRule),
		WouldAllow: bpfobj.SkepAction(e.Would) == bpfobj.SkepActionACTION_ALLOW,
	}
}

// wallOffset is what the programs' clock lacks to the time of day.
func wallOffset() (time.Duration, error) {
	now, err := bpfmap.Now()
	return time.Duration(time.Now().UnixNano()) - now, err
}
