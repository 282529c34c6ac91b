// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"

	"skep.dev/skep/controlplane/kinds"
)

// ConfigMap is the kind ConfigMap.
func ConfigMap() kinds.Kind {
	return kinds.Define(&corev1.ConfigMapList{}, kinds.Def[*corev1.ConfigMap]{
		GroupVersion: corev1.SchemeGroupVersion,
		Kind:         "ConfigMap",
		Resource:     "configmaps",
		ShortNames:   []string{"cm"},
		NoGeneration: true,
	})
}
