// SPDX-License-Identifier: Apache-2.0

package apps

import (
	appsv1 "k8s.io/api/apps/v1"

	"skep.dev/skep/controlplane/kinds"
)

// ReplicaSet is the kind ReplicaSet.
func ReplicaSet() kinds.Kind {
	return kinds.Define(&appsv1.ReplicaSetList{}, kinds.Def[*appsv1.ReplicaSet]{
		GroupVersion: appsv1.SchemeGroupVersion,
		Kind:         "ReplicaSet",
		Resource:     "replicasets",
		ShortNames:   []string{"rs"},
		Categories:   []string{"all"},
		HasStatus:    true,
	})
}
