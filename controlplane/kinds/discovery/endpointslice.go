// SPDX-License-Identifier: Apache-2.0

package discovery

import (
	discoveryv1 "k8s.io/api/discovery/v1"

	"skep.dev/skep/controlplane/kinds"
)

// EndpointSlice is the kind EndpointSlice.
func EndpointSlice() kinds.Kind {
	return kinds.Define(&discoveryv1.EndpointSliceList{}, kinds.Def[*discoveryv1.EndpointSlice]{
		GroupVersion: discoveryv1.SchemeGroupVersion,
		Kind:         "EndpointSlice",
		Resource:     "endpointslices",
		NoGeneration: true,
	})
}
