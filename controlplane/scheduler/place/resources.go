// SPDX-License-Identifier: Apache-2.0

package place

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
)

// Resources is an amount of everything that nodes have and pods ask for.
type Resources struct {
	MilliCPU, Memory, Ephemeral int64
	// Other are extended resources and huge pages, in their own units.
	Other map[corev1.ResourceName]int64
}

func resources(list corev1.ResourceList) Resources {
	var r Resources
	for name, quantity := range list {
		switch name {
		case corev1.ResourceCPU:
			r.MilliCPU = quantity.MilliValue()
		case corev1.ResourceMemory:
			r.Memory = quantity.Value()
		case corev1.ResourceEphemeralStorage:
			r.Ephemeral = quantity.Value()
		case corev1.ResourcePods:
		default:
			if r.Other == nil {
				r.Other = map[corev1.ResourceName]int64{}
			}
			r.Other[name] = quantity.Value()
		}
	}
	return r
}

// plus returns r with o added (sign 1) or taken away (sign -1). Neither map is changed.
func (r Resources) plus(o Resources, sign int64) Resources {
	r.MilliCPU += sign * o.MilliCPU
	r.Memory += sign * o.Memory
	r.Ephemeral += sign * o.Ephemeral
	if len(o.Other) > 0 {
		sum := make(map[corev1.ResourceName]int64, len(r.Other)+len(o.Other))
		for name, n := range r.Other {
			sum[name] = n
		}
		for name, n := range o.Other {
			sum[name] += sign * n
		}
		r.Other = sum
	}
	return r
}

// What a container without a request is taken to use when nodes are compared, so that pods without requests still spread.
// They are not counted when asking whether a pod fits.
const (
	assumedMilliCPU = 100
	assumedMemory   = 200 << 20
)

// requests is what the pod needs: the larger of its init and its running phase, with overhead, and of what is granted
// and what is asked for while a resize is under way.
func requests(pod *corev1.Pod) Resources {
	return resources(resource.PodRequests(pod, resource.PodResourcesOptions{UseStatusResources: true}))
}

// expectedUse is the amount by which nodes are compared: requests, with the assumed use where a container has none.
func expectedUse(pod *corev1.Pod, r Resources) (milliCPU, memory int64) {
	milliCPU, memory = r.MilliCPU, r.Memory
	var addCPU, addMemory int64
	for _, c := range pod.Spec.Containers {
		if _, ok := c.Resources.Requests[corev1.ResourceCPU]; !ok {
			addCPU += assumedMilliCPU
		}
		if _, ok := c.Resources.Requests[corev1.ResourceMemory]; !ok {
			addMemory += assumedMemory
		}
	}
	if resource.IsPodLevelRequestsSet(pod) {
		return milliCPU, memory
	}
	return milliCPU + addCPU, memory + addMemory
}

// fits is the filter of resources: it reports every resource that is short.
func fits(p *Pod, n *Node) []string {
	var short []string
	if len(n.Pods)+1 > n.MaxPods {
		short = append(short, "Too many pods")
	}
	r, used, has := &p.Requests, &n.Used, &n.Allocatable
	if r.MilliCPU > 0 && r.MilliCPU > has.MilliCPU-used.MilliCPU {
		short = append(short, "Insufficient cpu")
	}
	if r.Memory > 0 && r.Memory > has.Memory-used.Memory {
		short = append(short, "Insufficient memory")
	}
	if r.Ephemeral > 0 && r.Ephemeral > has.Ephemeral-used.Ephemeral {
		short = append(short, "Insufficient ephemeral-storage")
	}
	for name, n := range r.Other {
		if n > 0 && n > has.Other[name]-used.Other[name] {
			short = append(short, "Insufficient "+string(name))
		}
	}
	return short
}

// leastAllocated prefers nodes on which more is left: the mean of the free shares of CPU and memory.
type leastAllocated struct{}

func (leastAllocated) score(_ *Snapshot, p *Pod, nodes []*Node, out []int64) {
	for i, n := range nodes {
		out[i] = (free(n.UseCPU+p.UseCPU, n.Allocatable.MilliCPU) + free(n.UseMemory+p.UseMemory, n.Allocatable.Memory)) / 2
	}
}

func free(used, has int64) int64 {
	if has <= 0 || used > has {
		return 0
	}
	return (has - used) * maxScore / has
}

// balanced prefers nodes whose CPU and memory would be used in equal shares, so that neither is left over alone. The
// deviation of two shares is half their difference.
type balanced struct{}

func (balanced) score(_ *Snapshot, p *Pod, nodes []*Node, out []int64) {
	for i, n := range nodes {
		cpu := portion(n.Used.MilliCPU+p.Requests.MilliCPU, n.Allocatable.MilliCPU)
		memory := portion(n.Used.Memory+p.Requests.Memory, n.Allocatable.Memory)
		out[i] = int64((1 - math.Abs(cpu-memory)/2) * maxScore)
	}
}

func portion(used, has int64) float64 {
	if has <= 0 {
		return 1
	}
	return min(float64(used)/float64(has), 1)
}
