// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"

	"skep.dev/skep/controlplane/kinds"
)

// Pod is the kind Pod.
func Pod() kinds.Kind {
	return kinds.Define(&corev1.PodList{}, kinds.Def[*corev1.Pod]{
		GroupVersion: corev1.SchemeGroupVersion,
		Kind:         "Pod",
		Resource:     "pods",
		ShortNames:   []string{"po"},
		Categories:   []string{"all"},
		HasStatus:    true,
	})
}
