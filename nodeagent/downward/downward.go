// SPDX-License-Identifier: Apache-2.0

// Package downward evaluates what a container may be told about its own pod: fields and resources. It is pure.
package downward

import (
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Field is the value of a fieldRef path of the pod.
func Field(pod *v1.Pod, path string) (string, error) {
	if base, key, ok := subscript(path); ok {
		switch base {
		case "metadata.annotations":
			return pod.Annotations[key], nil
		case "metadata.labels":
			return pod.Labels[key], nil
		}
		return "", fmt.Errorf("fieldPath %q does not support subscript", path)
	}
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return format(pod.Labels), nil
	case "metadata.annotations":
		return format(pod.Annotations), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return pod.Status.HostIP, nil
	case "status.hostIPs":
		return join(pod.Status.HostIPs, func(ip v1.HostIP) string { return ip.IP }), nil
	case "status.podIP":
		return pod.Status.PodIP, nil
	case "status.podIPs":
		return join(pod.Status.PodIPs, func(ip v1.PodIP) string { return ip.IP }), nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %v", path)
}

func subscript(path string) (base, key string, ok bool) {
	base, rest, ok := strings.Cut(path, "['")
	if !ok || !strings.HasSuffix(rest, "']") {
		return "", "", false
	}
	return base, strings.TrimSuffix(rest, "']"), true
}

func join[T any](list []T, text func(T) string) string {
	parts := make([]string, 0, len(list))
	for _, e := range list {
		parts = append(parts, text(e))
	}
	return strings.Join(parts, ",")
}

// format writes one key="value" per line, sorted, as the API documents for whole maps.
func format(m map[string]string) string {
	lines := make([]string, 0, len(m))
	for k, v := range m {
		lines = append(lines, k+"="+strconv.Quote(v))
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

// Resource is the value of a resourceFieldRef, in units of its divisor, rounded up. A limit that is not set is not known here: the
// caller has put the node's allocatable into the pod that it passes (see Allocatable).
func Resource(pod *v1.Pod, ref *v1.ResourceFieldSelector, container string) (string, error) {
	c := find(pod, container)
	if c == nil {
		return "", fmt.Errorf("container %q not found", container)
	}
	kind, name, ok := strings.Cut(ref.Resource, ".")
	if !ok || kind != "limits" && kind != "requests" {
		return "", fmt.Errorf("unsupported container resource: %v", ref.Resource)
	}
	list := c.Resources.Limits
	if kind == "requests" {
		list = c.Resources.Requests
	}
	q := list[v1.ResourceName(name)]
	return divide(q, ref.Divisor, name == string(v1.ResourceCPU)), nil
}

func divide(q, divisor resource.Quantity, cpu bool) string {
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if cpu {
		return strconv.FormatInt(int64(math.Ceil(float64(q.MilliValue())/float64(divisor.MilliValue()))), 10)
	}
	return strconv.FormatInt(int64(math.Ceil(float64(q.Value())/float64(divisor.Value()))), 10)
}

func find(pod *v1.Pod, name string) *v1.Container {
	for _, list := range [][]v1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// WithAllocatable returns the pod with unset limits of cpu, memory and ephemeral storage replaced by what the node can give, which
// is what the API documents for references to them.
func WithAllocatable(pod *v1.Pod, allocatable v1.ResourceList) *v1.Pod {
	out := pod.DeepCopy()
	for _, list := range [][]v1.Container{out.Spec.Containers, out.Spec.InitContainers} {
		for i := range list {
			if list[i].Resources.Limits == nil {
				list[i].Resources.Limits = v1.ResourceList{}
			}
			for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage} {
				if _, ok := list[i].Resources.Limits[name]; ok {
					continue
				}
				if q, ok := allocatable[name]; ok {
					list[i].Resources.Limits[name] = q
				}
			}
		}
	}
	return out
}
