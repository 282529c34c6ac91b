// SPDX-License-Identifier: Apache-2.0

package deployment

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// bounds are the numbers a rolling update must keep to.
type bounds struct {
	want           int32 // spec.replicas
	maxSurge       int32 // pods above want
	maxUnavailable int32 // pods below want
}

// boundsOf resolves percentages: surge rounds up, unavailable down. Both zero would allow no step at all, so one may then
// be unavailable; the API refuses zeros but not percentages that round to them.
func boundsOf(d *appsv1.Deployment) bounds {
	b := bounds{want: wanted(d)}
	r := d.Spec.Strategy.RollingUpdate
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType || r == nil {
		return b
	}
	b.maxSurge = resolve(r.MaxSurge, b.want, true)
	b.maxUnavailable = resolve(r.MaxUnavailable, b.want, false)
	if b.maxSurge == 0 && b.maxUnavailable == 0 {
		b.maxUnavailable = 1
	}
	b.maxUnavailable = min(b.maxUnavailable, b.want)
	return b
}

func resolve(v *intstr.IntOrString, of int32, up bool) int32 {
	if v == nil {
		return 0
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(v, int(of), up)
	if err != nil {
		return 0 // refused by the API's validation
	}
	return int32(n)
}

// room is the size that the current set may have now, when its size is at.
func (b bounds) room(at int32, old []*appsv1.ReplicaSet) int32 {
	free := b.want + b.maxSurge - at - total(old)
	if free <= 0 {
		return at
	}
	return at + min(free, b.want-at)
}

// newReplicas is the size that the current set should have.
func (b bounds) newReplicas(current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) int32 {
	at := replicas(current)
	if at >= b.want {
		return b.want
	}
	return b.room(at, old)
}

// resized is a set and the size it should get.
type resized struct {
	set *appsv1.ReplicaSet
	to  int32
}

// shrinkOld takes from the old sets as many pods as can be missed. Pods that do not serve go first, whichever old set
// they are in, because ending them costs nothing; then healthy ones, oldest set first.
func (b bounds) shrinkOld(current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) []resized {
	minAvailable := b.want - b.maxUnavailable
	newNotServing := max(replicas(current)-current.Status.AvailableReplicas, 0)
	spare := replicas(current) + total(old) - minAvailable - newNotServing
	if spare <= 0 {
		return nil
	}
	to := make([]int32, len(old))
	available := current.Status.AvailableReplicas
	for i, set := range old {
		to[i] = replicas(set)
		available += set.Status.AvailableReplicas
		unhealthy := min(max(to[i]-set.Status.AvailableReplicas, 0), spare)
		to[i] -= unhealthy
		spare -= unhealthy
	}
	healthySpare := available - minAvailable
	for i := range old {
		take := max(min(to[i], healthySpare, spare), 0)
		to[i] -= take
		healthySpare -= take
		spare -= take
	}
	var out []resized
	for i, set := range old {
		if to[i] != replicas(set) {
			out = append(out, resized{set, to[i]})
		}
	}
	return out
}

func replicas(set *appsv1.ReplicaSet) int32 {
	if set == nil {
		return 0
	}
	if set.Spec.Replicas == nil {
		return 1
	}
	return *set.Spec.Replicas
}

func wanted(d *appsv1.Deployment) int32 {
	if d.Spec.Replicas == nil {
		return 1
	}
	return *d.Spec.Replicas
}

func total(sets []*appsv1.ReplicaSet) int32 {
	var n int32
	for _, set := range sets {
		n += replicas(set)
	}
	return n
}
