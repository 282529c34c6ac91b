// SPDX-License-Identifier: Apache-2.0

package podsync

import v1 "k8s.io/api/core/v1"

// QOSClass is the class that Kubernetes documents for a pod's requests and limits of cpu and memory: Guaranteed when every container
// has limits of both equal to its requests, BestEffort when no container has any, Burstable otherwise.
func QOSClass(pod *v1.Pod) v1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	any, guaranteed := false, true
	for _, c := range allContainers(pod) {
		for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
			request, hasRequest := c.Resources.Requests[name]
			limit, hasLimit := c.Resources.Limits[name]
			hasRequest = hasRequest && !request.IsZero()
			hasLimit = hasLimit && !limit.IsZero()
			any = any || hasRequest || hasLimit
			if !hasLimit || hasRequest && request.Cmp(limit) != 0 {
				guaranteed = false
			}
		}
	}
	switch {
	case !any:
		return v1.PodQOSBestEffort
	case guaranteed:
		return v1.PodQOSGuaranteed
	default:
		return v1.PodQOSBurstable
	}
}
