// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"

	"skep.dev/skep/controlplane/kinds"
)

// Node is the kind Node.
func Node() kinds.Kind {
	return kinds.Define(&corev1.NodeList{}, kinds.Def[*corev1.Node]{
		GroupVersion:  corev1.SchemeGroupVersion,
		Kind:          "Node",
		Resource:      "nodes",
		ShortNames:    []string{"no"},
		ClusterScoped: true,
		HasStatus:     true,
		StoragePrefix: "minions",
		NoGeneration:  true,
	})
}
