// SPDX-License-Identifier: Apache-2.0

package apps

import (
	appsv1 "k8s.io/api/apps/v1"

	"skep.dev/skep/controlplane/kinds"
)

// Deployment is the kind Deployment.
func Deployment() kinds.Kind {
	return kinds.Define(&appsv1.DeploymentList{}, kinds.Def[*appsv1.Deployment]{
		GroupVersion: appsv1.SchemeGroupVersion,
		Kind:         "Deployment",
		Resource:     "deployments",
		ShortNames:   []string{"deploy"},
		Categories:   []string{"all"},
		HasStatus:    true,
	})
}
