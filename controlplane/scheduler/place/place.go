// SPDX-License-Identifier: Apache-2.0

// Package place decides on which node a pod should run. It sees an immutable snapshot of the cluster and has no client, no
// clock and no state.
package place

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"sync"
)

const maxScore = 100

// check says why a pod cannot run on a node, the snapshot's i-th; nothing when it can.
type check func(i int, n *Node) []string

// filter prepares its check for one pod; nil means that it does not concern this pod. A filter that can already tell
// that no node will do returns a check that says so for each.
type filter func(*Snapshot, *Pod) check

// filters in the order in which they are asked; the first that refuses a node names the reason.
var filters = []filter{
	unschedulable,
	nodeName,
	taints,
	nodeAffinity,
	hostPorts,
	func(_ *Snapshot, p *Pod) check { return func(_ int, n *Node) []string { return fits(p, n) } },
	topologySpread,
	podAffinity,
}

// scorer rates all nodes that passed, each from 0 to maxScore.
type scorer interface {
	score(s *Snapshot, p *Pod, nodes []*Node, out []int64)
}

var scorers = []struct {
	scorer
	weight int64
}{
	{taintPreference{}, 3},
	{nodePreference{}, 2},
	{spreadPreference{}, 2},
	{podPreference{}, 2},
	{leastAllocated{}, 1},
	{balanced{}, 1},
}

// Unfit says why no node will do. It is an error whose text is what people see in the pod's condition and event.
type Unfit struct {
	Nodes int
	// Reasons counts the nodes that gave each reason.
	Reasons map[string]int
}

func (u *Unfit) Error() string {
	if u.Nodes == 0 {
		return "no nodes available to schedule pods"
	}
	parts := make([]string, 0, len(u.Reasons))
	for reason, n := range u.Reasons {
		parts = append(parts, fmt.Sprintf("%d %s", n, reason))
	}
	sort.Strings(parts)
	return fmt.Sprintf("0/%d nodes are available: %s.", u.Nodes, strings.Join(parts, ", "))
}

// Decide picks the best node for p. Ties are broken by random, so that equal nodes share the load. The error is *Unfit.
func Decide(s *Snapshot, p *Pod, random *rand.Rand) (*Node, error) {
	s.memo.mu.Lock()
	defer s.memo.mu.Unlock()
	room := rooms.Get().(*room)
	defer rooms.Put(room)
	feasible, unfit := filterNodes(s, p, room.nodes[:0])
	room.nodes = feasible
	if len(feasible) == 0 {
		return nil, unfit
	}
	if len(feasible) == 1 {
		return feasible[0], nil
	}
	total := grown(&room.total, len(feasible))
	one := grown(&room.one, len(feasible))
	for _, sc := range scorers {
		clear(one)
		sc.score(s, p, feasible, one)
		for i, v := range one {
			total[i] += v * sc.weight
		}
	}
	return feasible[best(total, random)], nil
}

// room is working space that decisions hand on, because at a thousand nodes clearing it is cheaper than collecting it.
type room struct {
	nodes      []*Node
	total, one []int64
}

var rooms = sync.Pool{New: func() any { return new(room) }}

// grown returns *space with n zeros.
func grown(space *[]int64, n int) []int64 {
	*space = slices.Grow((*space)[:0], n)[:n]
	clear(*space)
	return *space
}

// filterNodes appends the nodes that pass to feasible.
func filterNodes(s *Snapshot, p *Pod, feasible []*Node) ([]*Node, *Unfit) {
	checks := make([]check, 0, len(filters))
	for _, f := range filters {
		if c := f(s, p); c != nil {
			checks = append(checks, c)
		}
	}
	var unfit *Unfit
	for i, n := range s.Nodes {
		why := refused(checks, i, n)
		if why == nil {
			feasible = append(feasible, n)
			continue
		}
		if unfit == nil {
			unfit = &Unfit{Nodes: len(s.Nodes), Reasons: map[string]int{}}
		}
		for _, reason := range why {
			unfit.Reasons[reason]++
		}
	}
	if unfit == nil {
		unfit = &Unfit{Nodes: len(s.Nodes)}
	}
	return feasible, unfit
}

func refused(checks []check, i int, n *Node) []string {
	for _, c := range checks {
		if why := c(i, n); len(why) > 0 {
			return why
		}
	}
	return nil
}

// best is the index of a highest total, each of equals with the same chance.
func best(total []int64, random *rand.Rand) int {
	at, equals := 0, 1
	for i := 1; i < len(total); i++ {
		switch {
		case total[i] > total[at]:
			at, equals = i, 1
		case total[i] == total[at]:
			equals++
			if random.IntN(equals) == 0 {
				at = i
			}
		}
	}
	return at
}

// normalize spreads raw ratings over 0..maxScore. With reverse the lowest raw value is the best.
func normalize(out []int64, reverse bool) {
	var highest int64
	for _, v := range out {
		highest = max(highest, v)
	}
	for i, v := range out {
		switch {
		case highest == 0 && reverse:
			out[i] = maxScore
		case highest == 0:
			out[i] = 0
		case reverse:
			out[i] = maxScore - v*maxScore/highest
		default:
			out[i] = v * maxScore / highest
		}
	}
}
