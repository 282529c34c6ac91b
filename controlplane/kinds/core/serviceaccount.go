// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"

	"skep.dev/skep/controlplane/kinds"
)

// ServiceAccount is the kind ServiceAccount.
func ServiceAccount() kinds.Kind {
	return kinds.Define(&corev1.ServiceAccountList{}, kinds.Def[*corev1.ServiceAccount]{
		GroupVersion: corev1.SchemeGroupVersion,
		Kind:         "ServiceAccount",
		Resource:     "serviceaccounts",
		ShortNames:   []string{"sa"},
		NoGeneration: true,
	})
}
