// SPDX-License-Identifier: Apache-2.0

package networking

import (
	networkingv1 "k8s.io/api/networking/v1"

	"skep.dev/skep/controlplane/kinds"
)

// NetworkPolicy is the kind NetworkPolicy.
func NetworkPolicy() kinds.Kind {
	return kinds.Define(&networkingv1.NetworkPolicyList{}, kinds.Def[*networkingv1.NetworkPolicy]{
		GroupVersion: networkingv1.SchemeGroupVersion,
		Kind:         "NetworkPolicy",
		Resource:     "networkpolicies",
		ShortNames:   []string{"netpol"},
	})
}
