// SPDX-License-Identifier: Apache-2.0

// Package taintevict ends pods on nodes with a NoExecute taint that they do not tolerate, or not for so long.
package taintevict

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
)

// verdict says when a pod must go.
type verdict struct {
	evict bool
	at    time.Time // not before; in the past means now
}

// decide looks at each taint that would end the pod. added gives the time from which a taint counts. The pod goes at the
// earliest of the times that its tolerations give it; a taint that nothing tolerates gives it none.
func decide(pod *corev1.Pod, taints []corev1.Taint, added func(corev1.Taint) time.Time) verdict {
	var v verdict
	for _, t := range taints {
		if t.Effect != corev1.TaintEffectNoExecute {
			continue
		}
		stay, limited := tolerated(pod.Spec.Tolerations, &t)
		if !limited {
			continue
		}
		if at := added(t).Add(stay); !v.evict || at.Before(v.at) {
			v = verdict{evict: true, at: at}
		}
	}
	return v
}

// tolerated is how long the pod may stay in spite of one taint; limited is false when that is for ever. Of several
// tolerations for the same taint the shortest counts.
func tolerated(tolerations []corev1.Toleration, t *corev1.Taint) (stay time.Duration, limited bool) {
	found := false
	for i := range tolerations {
		if !tolerations[i].ToleratesTaint(klog.Logger{}, t, false) {
			continue
		}
		found = true
		seconds := tolerations[i].TolerationSeconds
		if seconds == nil {
			continue
		}
		d := time.Duration(max(*seconds, 0)) * time.Second
		if !limited || d < stay {
			stay, limited = d, true
		}
	}
	return stay, limited || !found
}
