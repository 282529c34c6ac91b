// SPDX-License-Identifier: Apache-2.0

// Package expect remembers what a controller has asked for and not yet seen, so that a cache which lags behind never
// makes it ask twice.
//
// A controller chooses the names of the objects it creates, so each wish is a name or a UID and seeing it twice does
// no harm; counters would drift.
package expect

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Timeout bounds how long an unseen wish blocks its owner: a watch that was cut and re-listed may never show an object
// that came and went in between.
const Timeout = 5 * time.Minute

// Tracker holds the open wishes of the owners of one controller. It is safe for concurrent use.
type Tracker struct {
	now func() time.Time

	mu     sync.Mutex // guards owners
	owners map[string]*wishes
}

type wishes struct {
	since   time.Time
	created map[string]struct{}
	deleted map[types.UID]struct{}
}

// New makes an empty Tracker.
func New(now func() time.Time) *Tracker {
	return &Tracker{now: now, owners: map[string]*wishes{}}
}

// Create notes that owner is about to create name. Call it before the request is sent.
func (t *Tracker) Create(owner, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.of(owner).created[name] = struct{}{}
}

// Delete notes that owner is about to delete the object with this UID. Call it before the request is sent.
func (t *Tracker) Delete(owner string, uid types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.of(owner).deleted[uid] = struct{}{}
}

func (t *Tracker) of(owner string) *wishes {
	w := t.owners[owner]
	if w == nil {
		w = &wishes{created: map[string]struct{}{}, deleted: map[types.UID]struct{}{}}
		t.owners[owner] = w
	}
	w.since = t.now()
	return w
}

// Created settles a creation: the object was seen, or the request was refused.
func (t *Tracker) Created(owner, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w := t.owners[owner]; w != nil {
		delete(w.created, name)
		t.drop(owner, w)
	}
}

// Deleted settles a deletion: the object was seen to end, or the request was refused.
func (t *Tracker) Deleted(owner string, uid types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w := t.owners[owner]; w != nil {
		delete(w.deleted, uid)
		t.drop(owner, w)
	}
}

func (t *Tracker) drop(owner string, w *wishes) {
	if len(w.created) == 0 && len(w.deleted) == 0 {
		delete(t.owners, owner)
	}
}

// Settled reports whether everything that owner asked for has been seen, or has been waited for too long.
func (t *Tracker) Settled(owner string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.owners[owner]
	return w == nil || t.now().Sub(w.since) > Timeout
}

// Forget drops the wishes of an owner that is gone.
func (t *Tracker) Forget(owner string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.owners, owner)
}
