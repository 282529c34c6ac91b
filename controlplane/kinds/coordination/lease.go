// SPDX-License-Identifier: Apache-2.0

package coordination

import (
	coordinationv1 "k8s.io/api/coordination/v1"

	"skep.dev/skep/controlplane/kinds"
)

// Lease is the kind Lease.
func Lease() kinds.Kind {
	return kinds.Define(&coordinationv1.LeaseList{}, kinds.Def[*coordinationv1.Lease]{
		GroupVersion:           coordinationv1.SchemeGroupVersion,
		Kind:                   "Lease",
		Resource:               "leases",
		NoGeneration:           true,
		AllowCreateOnUpdate:    true,
		RequireResourceVersion: true,
	})
}
