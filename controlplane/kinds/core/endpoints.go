// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"

	"skep.dev/skep/controlplane/kinds"
)

// Endpoints is the kind Endpoints.
func Endpoints() kinds.Kind {
	return kinds.Define(&corev1.EndpointsList{}, kinds.Def[*corev1.Endpoints]{
		GroupVersion:        corev1.SchemeGroupVersion,
		Kind:                "Endpoints",
		Resource:            "endpoints",
		ShortNames:          []string{"ep"},
		StoragePrefix:       "services/endpoints",
		NoGeneration:        true,
		AllowCreateOnUpdate: true,
	})
}
