// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"skep.dev/skep/controlplane/kinds"
)

// ValidatingAdmissionPolicy is the kind ValidatingAdmissionPolicy.
func ValidatingAdmissionPolicy() kinds.Kind {
	return kinds.Define(&admissionregistrationv1.ValidatingAdmissionPolicyList{}, kinds.Def[*admissionregistrationv1.ValidatingAdmissionPolicy]{
		GroupVersion:           admissionregistrationv1.SchemeGroupVersion,
		Kind:                   "ValidatingAdmissionPolicy",
		Resource:               "validatingadmissionpolicies",
		Categories:             []string{"api-extensions"},
		ClusterScoped:          true,
		HasStatus:              true,
		RequireResourceVersion: true,
	})
}
