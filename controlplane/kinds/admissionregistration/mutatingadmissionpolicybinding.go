// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"skep.dev/skep/controlplane/kinds"
)

// MutatingAdmissionPolicyBinding is the kind MutatingAdmissionPolicyBinding.
func MutatingAdmissionPolicyBinding() kinds.Kind {
	return kinds.Define(&admissionregistrationv1.MutatingAdmissionPolicyBindingList{}, kinds.Def[*admissionregistrationv1.MutatingAdmissionPolicyBinding]{
		GroupVersion:           admissionregistrationv1.SchemeGroupVersion,
		Kind:                   "MutatingAdmissionPolicyBinding",
		Resource:               "mutatingadmissionpolicybindings",
		Categories:             []string{"api-extensions"},
		ClusterScoped:          true,
		RequireResourceVersion: true,
	})
}
