// SPDX-License-Identifier: Apache-2.0

package policy

import (
	policyv1 "k8s.io/api/policy/v1"

	"skep.dev/skep/controlplane/kinds"
)

// PodDisruptionBudget is the kind PodDisruptionBudget.
func PodDisruptionBudget() kinds.Kind {
	return kinds.Define(&policyv1.PodDisruptionBudgetList{}, kinds.Def[*policyv1.PodDisruptionBudget]{
		GroupVersion:           policyv1.SchemeGroupVersion,
		Kind:                   "PodDisruptionBudget",
		Resource:               "poddisruptionbudgets",
		ShortNames:             []string{"pdb"},
		HasStatus:              true,
		RequireResourceVersion: true,
	})
}
