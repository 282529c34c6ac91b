// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"

	"skep.dev/skep/controlplane/kinds"
)

// Secret is the kind Secret.
func Secret() kinds.Kind {
	return kinds.Define(&corev1.SecretList{}, kinds.Def[*corev1.Secret]{
		GroupVersion: corev1.SchemeGroupVersion,
		Kind:         "Secret",
		Resource:     "secrets",
		NoGeneration: true,
	})
}
