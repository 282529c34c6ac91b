// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"

	"skep.dev/skep/controlplane/kinds"
)

// Service is the kind Service.
func Service() kinds.Kind {
	return kinds.Define(&corev1.ServiceList{}, kinds.Def[*corev1.Service]{
		GroupVersion:        corev1.SchemeGroupVersion,
		Kind:                "Service",
		Resource:            "services",
		ShortNames:          []string{"svc"},
		Categories:          []string{"all"},
		HasStatus:           true,
		StoragePrefix:       "services/specs",
		NoGeneration:        true,
		AllowCreateOnUpdate: true,
	})
}
