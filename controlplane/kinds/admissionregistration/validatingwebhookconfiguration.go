// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"skep.dev/skep/controlplane/kinds"
)

// ValidatingWebhookConfiguration is the kind ValidatingWebhookConfiguration.
func ValidatingWebhookConfiguration() kinds.Kind {
	return kinds.Define(&admissionregistrationv1.ValidatingWebhookConfigurationList{}, kinds.Def[*admissionregistrationv1.ValidatingWebhookConfiguration]{
		GroupVersion:           admissionregistrationv1.SchemeGroupVersion,
		Kind:                   "ValidatingWebhookConfiguration",
		Resource:               "validatingwebhookconfigurations",
		Categories:             []string{"api-extensions"},
		ClusterScoped:          true,
		RequireResourceVersion: true,
	})
}
