// SPDX-License-Identifier: Apache-2.0

// Package gc deletes objects whose owners are gone, and carries out the three ways of deleting an owner: in the
// background, in the foreground (dependents first) and orphaning.
//
// The graph of owners is built from watches on the metadata of every resource that can be deleted. It only says what to look
// at: before anything is deleted, the object and the owners that the graph does not know are read from the server.
package gc

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// object is what the graph knows of one object. It is replaced, never changed.
type object struct {
	uid        types.UID
	resource   schema.GroupVersionResource
	namespace  string
	name       string
	owners     []metav1.OwnerReference
	deleting   bool
	foreground bool // waits for its blocking dependents
	orphaning  bool // waits for its dependents to be let go
}

func newObject(resource schema.GroupVersionResource, m metav1.Object) *object {
	deleting := m.GetDeletionTimestamp() != nil
	finalizers := m.GetFinalizers()
	return &object{
		uid:        m.GetUID(),
		resource:   resource,
		namespace:  m.GetNamespace(),
		name:       m.GetName(),
		owners:     m.GetOwnerReferences(),
		deleting:   deleting,
		foreground: deleting && slices.Contains(finalizers, metav1.FinalizerDeleteDependents),
		orphaning:  deleting && slices.Contains(finalizers, metav1.FinalizerOrphanDependents),
	}
}

func (o *object) blocks(owner types.UID) bool {
	for _, ref := range o.owners {
		if ref.UID == owner {
			return ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
		}
	}
	return false
}

// graph is who owns whom. It is not safe for concurrent use.
type graph struct {
	objects    map[types.UID]*object
	dependents map[types.UID]map[types.UID]struct{} // by owner, also owners that are not in objects
	gone       *memory
}

func newGraph() *graph {
	return &graph{
		objects:    map[types.UID]*object{},
		dependents: map[types.UID]map[types.UID]struct{}{},
		gone:       newMemory(goneSize),
	}
}

// set takes over an object's new state and returns the UIDs of the objects to look at because of it.
func (g *graph) set(o *object) []types.UID {
	var wake []types.UID
	old := g.objects[o.uid]
	g.objects[o.uid] = o
	if old != nil {
		for _, ref := range old.owners {
			g.unlink(ref.UID, o.uid)
			wake = append(wake, g.waiting(ref.UID)...)
		}
	}
	for _, ref := range o.owners {
		if g.dependents[ref.UID] == nil {
			g.dependents[ref.UID] = map[types.UID]struct{}{}
		}
		g.dependents[ref.UID][o.uid] = struct{}{}
		owner := g.objects[ref.UID]
		if owner == nil || owner.deleting {
			wake = append(wake, o.uid) // its owner may be gone
		}
	}
	if o.orphaning || o.foreground {
		wake = append(wake, o.uid)
	}
	if o.foreground && (old == nil || !old.foreground) {
		wake = append(wake, g.dependentsOf(o.uid)...)
	}
	return wake
}

// drop remembers that an object was deleted and returns the UIDs of the objects to look at because of it.
func (g *graph) drop(uid types.UID) []types.UID {
	g.gone.add(uid)
	return g.forget(uid)
}

// forget takes an object out without saying that it is gone: whoever asks must ask the server.
func (g *graph) forget(uid types.UID) []types.UID {
	o := g.objects[uid]
	if o == nil {
		return nil
	}
	delete(g.objects, uid)
	var wake []types.UID
	for _, ref := range o.owners {
		g.unlink(ref.UID, uid)
		wake = append(wake, g.waiting(ref.UID)...)
	}
	return append(wake, g.dependentsOf(uid)...)
}

func (g *graph) unlink(owner, dependent types.UID) {
	delete(g.dependents[owner], dependent)
	if len(g.dependents[owner]) == 0 {
		delete(g.dependents, owner)
	}
}

// waiting is uid itself if it waits for dependents to go.
func (g *graph) waiting(uid types.UID) []types.UID {
	if o := g.objects[uid]; o != nil && (o.foreground || o.orphaning) {
		return []types.UID{uid}
	}
	return nil
}

func (g *graph) dependentsOf(uid types.UID) []types.UID {
	out := make([]types.UID, 0, len(g.dependents[uid]))
	for d := range g.dependents[uid] {
		out = append(out, d)
	}
	return out
}

// children are the known dependents themselves.
func (g *graph) children(uid types.UID) []*object {
	var out []*object
	for d := range g.dependents[uid] {
		if o := g.objects[d]; o != nil {
			out = append(out, o)
		}
	}
	return out
}

// ofResource lists all objects of one resource.
func (g *graph) ofResource(resource schema.GroupVersionResource) []types.UID {
	var out []types.UID
	for uid, o := range g.objects {
		if o.resource == resource {
			out = append(out, uid)
		}
	}
	return out
}

// goneSize bounds the memory of deleted owners; a forgotten one costs a read from the server.
const goneSize = 10000

// memory is a set that forgets its oldest members.
type memory struct {
	members map[types.UID]struct{}
	order   []types.UID // a ring once it is full
	next    int
}

func newMemory(size int) *memory {
	return &memory{members: make(map[types.UID]struct{}), order: make([]types.UID, 0, size)}
}

func (m *memory) add(uid types.UID) {
	if _, known := m.members[uid]; known {
		return
	}
	m.members[uid] = struct{}{}
	if len(m.order) < cap(m.order) {
		m.order = append(m.order, uid)
		return
	}
	delete(m.members, m.order[m.next])
	m.order[m.next] = uid
	m.next = (m.next + 1) % len(m.order)
}

func (m *memory) has(uid types.UID) bool {
	_, ok := m.members[uid]
	return ok
}
