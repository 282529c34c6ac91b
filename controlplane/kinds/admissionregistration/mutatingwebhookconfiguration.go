// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"skep.dev/skep/controlplane/kinds"
)

// MutatingWebhookConfiguration is the kind MutatingWebhookConfiguration.
func MutatingWebhookConfiguration() kinds.Kind {
	return kinds.Define(&admissionregistrationv1.MutatingWebhookConfigurationList{}, kinds.Def[*admissionregistrationv1.MutatingWebhookConfiguration]{
		GroupVersion:           admissionregistrationv1.SchemeGroupVersion,
		Kind:                   "MutatingWebhookConfiguration",
		Resource:               "mutatingwebhookconfigurations",
		Categories:             []string{"api-extensions"},
		ClusterScoped:          true,
		RequireResourceVersion: true,
	})
}
