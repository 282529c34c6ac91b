// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"skep.dev/skep/controlplane/kinds"
)

// MutatingAdmissionPolicy is the kind MutatingAdmissionPolicy.
func MutatingAdmissionPolicy() kinds.Kind {
	return kinds.Define(&admissionregistrationv1.MutatingAdmissionPolicyList{}, kinds.Def[*admissionregistrationv1.MutatingAdmissionPolicy]{
		GroupVersion:           admissionregistrationv1.SchemeGroupVersion,
		Kind:                   "MutatingAdmissionPolicy",
		Resource:               "mutatingadmissionpolicies",
		Categories:             []string{"api-extensions"},
		ClusterScoped:          true,
		RequireResourceVersion: true,
	})
}
