// SPDX-License-Identifier: Apache-2.0

// Package audit remembers and tells what the policies in audit mode would change.
package audit

import (
	"cmp"
	"container/list"
	"net/netip"
	"slices"
	"sync"
	"time"

	"skep.dev/skep/datapath"
)

// Kept is how many different connections a Log remembers.
const Kept = 1024

// Connection is what is remembered of connections about which the answers differ: all but the initiator's port.
type Connection struct {
	Direction datapath.Direction
	Protocol  datapath.Protocol
	From, To  netip.Addr
	// Port is the responder's, 0 where the protocol has none.
	Port uint16
	// Rule decided, WouldRule would have; WouldAllow says which way.
	Rule, WouldRule datapath.RuleID
	WouldAllow      bool
}

// Seen is a Connection with how often and when it was heard of.
type Seen struct {
	Connection
	Count       uint64
	First, Last time.Time
}

// Log remembers the connections that were heard of last, equal ones once. It is safe for concurrent use.
type Log struct {
	mu     sync.Mutex // guards all below
	byKey  map[Connection]*list.Element
	recent *list.List // of *Seen, the last one heard of in front
	forgot uint64
}

// NewLog returns an empty one.
func NewLog() *Log {
	return &Log{byKey: map[Connection]*list.Element{}, recent: list.New()}
}

// Add remembers an event. When there is no room, what was not heard of for the longest time goes.
func (l *Log) Add(e datapath.AuditEvent) {
	key := Connection{
		Direction: e.Direction, Protocol: e.Protocol, From: e.Src.Addr(), To: e.Dst.Addr(), Port: e.Dst.Port(),
		Rule: e.Rule, WouldRule: e.WouldRule, WouldAllow: e.WouldAllow,
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if known := l.byKey[key]; known != nil {
		seen := known.Value.(*Seen)
		seen.Count++
		seen.Last = e.Time
		l.recent.MoveToFront(known)
		return
	}
	if l.recent.Len() >= Kept {
		oldest := l.recent.Remove(l.recent.Back()).(*Seen)
		delete(l.byKey, oldest.Connection)
		l.forgot++
	}
	l.byKey[key] = l.recent.PushFront(&Seen{Connection: key, Count: 1, First: e.Time, Last: e.Time})
}

// Last lists what is remembered, the last one heard of first, and how many connections were forgotten for want of room.
func (l *Log) Last() (seen []Seen, forgot uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for e := l.recent.Front(); e != nil; e = e.Next() {
		seen = append(seen, *e.Value.(*Seen))
	}
	// Those of one moment were read in the order of the ring, which is none between processors.
	slices.SortStableFunc(seen, func(a, b Seen) int { return cmp.Compare(b.Last.UnixNano(), a.Last.UnixNano()) })
	return seen, l.forgot
}
