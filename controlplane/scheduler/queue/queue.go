// SPDX-License-Identifier: Apache-2.0

// Package queue orders the pods that wait for a node: by priority, then by age. A pod that found no node waits until the
// cluster changes, and never less than a back-off that doubles with each try.
package queue

import (
	"container/heap"
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
)

const (
	firstBackoff = time.Second
	lastBackoff  = 10 * time.Second
	// parkedAtMost bounds the wait for an event, in case one was misjudged as being of no help.
	parkedAtMost = 5 * time.Minute
)

// Item is a pod that was taken out to be placed. Hand it back with Park, Retry or Done.
type Item struct {
	Pod      *corev1.Pod
	Attempts int
	moves    uint64
}

// place says in which list an entry is.
type place uint8

const (
	active place = iota // waits for its turn
	later               // waits for its back-off, or for an event
	out                 // being placed
)

type entry struct {
	pod      *corev1.Pod
	added    time.Time
	attempts int
	in       place
	index    int // in the heap of its list
	// due is when an entry of later becomes active; parked means that an event makes it due after its back-off.
	due, backoffEnd time.Time
	parked          bool
}

// Queue is safe for concurrent use.
type Queue struct {
	now  func() time.Time
	wake chan struct{} // size one: the lists changed

	mu      sync.Mutex // guards what follows
	entries map[types.UID]*entry
	active  ordered
	later   ordered
	// moves counts events. One that comes while a pod is being placed was not seen by that decision.
	moves uint64
}

// New makes an empty Queue.
func New(now func() time.Time) *Queue {
	return &Queue{
		now:     now,
		wake:    make(chan struct{}, 1),
		entries: map[types.UID]*entry{},
		active:  ordered{less: urgent},
		later:   ordered{less: func(a, b *entry) bool { return a.due.Before(b.due) }},
	}
}

func urgent(a, b *entry) bool {
	if x, y := priority(a.pod), priority(b.pod); x != y {
		return x > y
	}
	return a.added.Before(b.added)
}

func priority(pod *corev1.Pod) int32 {
	if pod.Spec.Priority == nil {
		return 0
	}
	return *pod.Spec.Priority
}

// Put adds a pod, or takes note of its new state. A change that could matter makes a parked pod due.
func (q *Queue) Put(pod *corev1.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.entries[pod.UID]
	if e == nil {
		e = &entry{pod: pod, added: q.now()}
		q.entries[pod.UID] = e
		q.push(e, active)
		return
	}
	matters := !apiequality.Semantic.DeepEqual(e.pod.Spec, pod.Spec) || !apiequality.Semantic.DeepEqual(e.pod.Labels, pod.Labels)
	e.pod = pod
	switch {
	case e.in == active:
		heap.Fix(&q.active, e.index)
	case e.in == later && e.parked && matters:
		q.unpark(e)
	}
}

// Remove forgets a pod: it is gone, or has a node.
func (q *Queue) Remove(uid types.UID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e := q.entries[uid]; e != nil {
		q.take(e)
		delete(q.entries, uid)
	}
}

// Wake says that the cluster changed in a way that may give parked pods a node.
func (q *Queue) Wake() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.moves++
	var parked []*entry
	for _, e := range q.later.entries {
		if e.parked {
			parked = append(parked, e)
		}
	}
	for _, e := range parked {
		q.unpark(e)
	}
}

// unpark makes an entry active when its back-off has ended, or due at that time.
func (q *Queue) unpark(e *entry) {
	e.parked = false
	q.take(e)
	if !e.backoffEnd.After(q.now()) {
		q.push(e, active)
		return
	}
	e.due = e.backoffEnd
	q.push(e, later)
}

// Next takes the most urgent pod out, waiting for one if there is none. It returns nil when the context ends.
func (q *Queue) Next(ctx context.Context) *Item {
	for {
		item, wait := q.try()
		if item != nil {
			return item
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-q.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// try returns the next item, or how long to wait for one at most.
func (q *Queue) try() (*Item, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.now()
	for q.later.Len() > 0 && !q.later.entries[0].due.After(now) {
		e := q.later.entries[0]
		q.take(e)
		e.parked = false
		q.push(e, active)
	}
	if q.active.Len() > 0 {
		e := q.active.entries[0]
		q.take(e)
		e.in = out
		e.attempts++
		return &Item{Pod: e.pod, Attempts: e.attempts, moves: q.moves}, 0
	}
	if q.later.Len() > 0 {
		return nil, q.later.entries[0].due.Sub(now)
	}
	return nil, parkedAtMost
}

// Park puts back a pod that no node fits.
func (q *Queue) Park(item *Item) { q.back(item, true) }

// Retry puts back a pod whose placing failed for a reason that may be gone at the next try.
func (q *Queue) Retry(item *Item) { q.back(item, false) }

func (q *Queue) back(item *Item, park bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.entries[item.Pod.UID]
	if e == nil || e.in != out {
		return // removed meanwhile
	}
	now := q.now()
	e.backoffEnd = now.Add(backoff(e.attempts))
	e.due = e.backoffEnd
	if park && item.moves == q.moves {
		e.parked = true
		e.due = now.Add(parkedAtMost)
	}
	q.push(e, later)
}

func backoff(attempts int) time.Duration {
	d := firstBackoff
	for range attempts - 1 {
		if d *= 2; d >= lastBackoff {
			return lastBackoff
		}
	}
	return d
}

// Len counts the pods that wait, those being placed included.
func (q *Queue) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.entries)
}

func (q *Queue) push(e *entry, in place) {
	e.in = in
	if in == active {
		heap.Push(&q.active, e)
	} else {
		heap.Push(&q.later, e)
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take removes an entry from its list.
func (q *Queue) take(e *entry) {
	switch e.in {
	case active:
		heap.Remove(&q.active, e.index)
	case later:
		heap.Remove(&q.later, e.index)
	}
}

// ordered is a heap of entries that know their place in it.
type ordered struct {
	less    func(a, b *entry) bool
	entries []*entry
}

func (o *ordered) Len() int           { return len(o.entries) }
func (o *ordered) Less(i, j int) bool { return o.less(o.entries[i], o.entries[j]) }

func (o *ordered) Swap(i, j int) {
	o.entries[i], o.entries[j] = o.entries[j], o.entries[i]
	o.entries[i].index, o.entries[j].index = i, j
}

// Push is for package heap.
func (o *ordered) Push(x any) {
	e := x.(*entry)
	e.index = len(o.entries)
	o.entries = append(o.entries, e)
}

// Pop is for package heap.
func (o *ordered) Pop() any {
	last := len(o.entries) - 1
	e := o.entries[last]
	o.entries[last] = nil
	o.entries = o.entries[:last]
	return e
}
