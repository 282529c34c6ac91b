// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	v1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/fill"
)

// ValidatingWebhookConfiguration is the kind ValidatingWebhookConfiguration.
func ValidatingWebhookConfiguration() kinds.Kind {
	return kinds.Define(&v1.ValidatingWebhookConfigurationList{}, kinds.Def[*v1.ValidatingWebhookConfiguration]{
		GroupVersion:           v1.SchemeGroupVersion,
		Kind:                   "ValidatingWebhookConfiguration",
		Resource:               "validatingwebhookconfigurations",
		Categories:             []string{"api-extensions"},
		ClusterScoped:          true,
		RequireResourceVersion: true,
		Default: func(c *v1.ValidatingWebhookConfiguration) {
			for i := range c.Webhooks {
				defaultValidatingWebhook(&c.Webhooks[i])
			}
		},
		Validate: validateValidatingWebhooks,
		Columns:  webhookColumns(v1.ValidatingWebhookConfiguration{}.SwaggerDoc()),
		Row: func(c *v1.ValidatingWebhookConfiguration) []any {
			return []any{c.Name, int64(len(c.Webhooks)), kinds.Age(c.CreationTimestamp)}
		},
	})
}

func defaultValidatingWebhook(w *v1.ValidatingWebhook) {
	fill.Nil(&w.FailurePolicy, v1.Fail)
	fill.Nil(&w.MatchPolicy, v1.Equivalent)
	fill.Nil(&w.NamespaceSelector, metav1.LabelSelector{})
	fill.Nil(&w.ObjectSelector, metav1.LabelSelector{})
	fill.Nil(&w.TimeoutSeconds, 10)
	defaultRules(w.Rules)
	defaultClient(&w.ClientConfig)
}

func validateValidatingWebhooks(c *v1.ValidatingWebhookConfiguration) field.ErrorList {
	hooks := make([]hook, len(c.Webhooks))
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		hooks[i] = hook{name: w.Name, client: &w.ClientConfig, rules: w.Rules, failurePolicy: w.FailurePolicy, matchPolicy: w.MatchPolicy,
			namespaceSelector: w.NamespaceSelector, objectSelector: w.ObjectSelector, sideEffects: w.SideEffects,
			timeoutSeconds: w.TimeoutSeconds, admissionReviewVersions: w.AdmissionReviewVersions, matchConditions: w.MatchConditions}
	}
	return validateHooks(hooks)
}
