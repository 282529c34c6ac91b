// SPDX-License-Identifier: Apache-2.0

package deployment

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
)

// Annotations on ReplicaSets by which a Deployment that was scaled in the middle of a rollout finds each set's share.
const (
	desiredKey = "deployment.kubernetes.io/desired-replicas"
	maximumKey = "deployment.kubernetes.io/max-replicas"
)

// annotateSize notes for how large a Deployment the set's size was worked out, and reports whether that was news.
func (v view) annotateSize(set *appsv1.ReplicaSet) bool {
	b := boundsOf(v.deployment)
	changed := annotate(set, desiredKey, strconv.Itoa(int(b.want)))
	return annotate(set, maximumKey, strconv.Itoa(int(b.want+b.maxSurge))) || changed
}

func annotate(set *appsv1.ReplicaSet, key, value string) bool {
	if set.Annotations[key] == value {
		return false
	}
	if set.Annotations == nil {
		set.Annotations = map[string]string{}
	}
	set.Annotations[key] = value
	return true
}

// number reads a size annotation; ok is false without a readable one.
func number(set *appsv1.ReplicaSet, key string) (n int32, ok bool) {
	v, err := strconv.ParseInt(set.Annotations[key], 10, 32)
	return int32(v), err == nil
}

// active are the sets with replicas, oldest first.
func (v view) active() []*appsv1.ReplicaSet {
	var out []*appsv1.ReplicaSet
	for _, set := range v.sets {
		if replicas(set) > 0 {
			out = append(out, set)
		}
	}
	slices.SortFunc(out, byAge)
	return out
}

// resized reports whether somebody changed spec.replicas since the sets were sized.
func (v view) resized() bool {
	for _, set := range v.active() {
		if desired, ok := number(set, desiredKey); ok && desired != wanted(v.deployment) {
			return true
		}
	}
	return false
}

// resize gives each set its share of a Deployment whose size changed, without moving the rollout forward.
func (v view) resize() []change {
	active := v.active()
	want := wanted(v.deployment)
	if only := v.onlySet(active); only != nil {
		return v.fit(nil, only, want)
	}
	var out []change
	switch {
	case v.saturated():
		for _, set := range v.old {
			out = v.fit(out, set, 0)
		}
	case v.deployment.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		for _, set := range active {
			out = v.fit(out, set, replicas(set)) // all old ones are about to go to zero anyway
		}
	default:
		out = v.shares(active)
	}
	return out
}

// fit appends the change that gives set its size and notes what it was worked out for, if that changes anything.
func (v view) fit(out []change, set *appsv1.ReplicaSet, to int32) []change {
	c := v.scale(set, to)
	if !c.scaled() && (to == 0 || maps.Equal(c.set.Annotations, set.Annotations)) {
		return out
	}
	return append(out, c)
}

// onlySet is the one set that takes all replicas: the only active one, or the newest when none is.
func (v view) onlySet(active []*appsv1.ReplicaSet) *appsv1.ReplicaSet {
	switch {
	case len(active) == 1:
		return active[0]
	case len(active) > 1:
		return nil
	case v.current != nil:
		return v.current
	case len(v.old) > 0:
		return v.old[len(v.old)-1]
	}
	return nil
}

// saturated reports whether the current set alone already is the whole Deployment.
func (v view) saturated() bool {
	if v.current == nil {
		return false
	}
	desired, ok := number(v.current, desiredKey)
	want := wanted(v.deployment)
	return ok && desired == want && replicas(v.current) == want && v.current.Status.AvailableReplicas == want
}

// shares splits the Deployment's new size among the active sets in proportion to their present sizes.
func (v view) shares(active []*appsv1.ReplicaSet) []change {
	b := boundsOf(v.deployment)
	allowed := int32(0)
	if b.want > 0 {
		allowed = b.want + b.maxSurge
	}
	left := allowed - total(active)
	largestFirst(active, left > 0)
	to := make([]int32, len(active))
	for i, set := range active {
		to[i] = replicas(set)
		if left != 0 {
			n := share(set, b, allowed, left)
			to[i] += n
			left -= n
		}
	}
	if len(to) > 0 {
		to[0] = max(to[0]+left, 0) // what rounding left over
	}
	var out []change
	for i, set := range active {
		out = v.fit(out, set, to[i])
	}
	return out
}

// largestFirst sorts by size. Among equals the newest grows first and the oldest shrinks first.
func largestFirst(sets []*appsv1.ReplicaSet, grow bool) {
	slices.SortFunc(sets, func(a, b *appsv1.ReplicaSet) int {
		if c := cmp.Compare(replicas(b), replicas(a)); c != 0 {
			return c
		}
		if grow {
			return byAge(b, a)
		}
		return byAge(a, b)
	})
}

// share is the number of replicas to add to set (negative: to take away), at most what is left.
func share(set *appsv1.ReplicaSet, b bounds, allowed, left int32) int32 {
	size := replicas(set)
	before, ok := number(set, maximumKey)
	if !ok || before <= 0 {
		// Not sized by us: take its size as a share of the status' whole.
		before = b.want
	}
	if before <= 0 {
		return 0
	}
	after := int32(math.Round(float64(size) * float64(allowed) / float64(before)))
	n := after - size
	if left > 0 {
		return min(max(n, 0), left)
	}
	return max(min(n, 0), left, -size)
}
