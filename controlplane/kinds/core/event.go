// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"

	"skep.dev/skep/controlplane/kinds"
)

// Event is the kind Event.
func Event() kinds.Kind {
	return kinds.Define(&corev1.EventList{}, kinds.Def[*corev1.Event]{
		GroupVersion:        corev1.SchemeGroupVersion,
		Kind:                "Event",
		Resource:            "events",
		ShortNames:          []string{"ev"},
		NoGeneration:        true,
		AllowCreateOnUpdate: true,
	})
}
