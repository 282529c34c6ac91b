// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"

	"skep.dev/skep/controlplane/kinds"
)

// Namespace is the kind Namespace.
func Namespace() kinds.Kind {
	return kinds.Define(&corev1.NamespaceList{}, kinds.Def[*corev1.Namespace]{
		GroupVersion:  corev1.SchemeGroupVersion,
		Kind:          "Namespace",
		Resource:      "namespaces",
		ShortNames:    []string{"ns"},
		ClusterScoped: true,
		HasStatus:     true,
		NoGeneration:  true,
	})
}
