// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"skep.dev/skep/controlplane/kinds"
)

// ValidatingAdmissionPolicyBinding is the kind ValidatingAdmissionPolicyBinding.
func ValidatingAdmissionPolicyBinding() kinds.Kind {
	return kinds.Define(&admissionregistrationv1.ValidatingAdmissionPolicyBindingList{}, kinds.Def[*admissionregistrationv1.ValidatingAdmissionPolicyBinding]{
		GroupVersion:           admissionregistrationv1.SchemeGroupVersion,
		Kind:                   "ValidatingAdmissionPolicyBinding",
		Resource:               "validatingadmissionpolicybindings",
		Categories:             []string{"api-extensions"},
		ClusterScoped:          true,
		RequireResourceVersion: true,
	})
}
