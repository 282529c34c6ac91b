// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	v1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/check"
	"skep.dev/skep/controlplane/kinds/fill"
)

// MutatingWebhookConfiguration is the kind MutatingWebhookConfiguration.
func MutatingWebhookConfiguration() kinds.Kind {
	return kinds.Define(&v1.MutatingWebhookConfigurationList{}, kinds.Def[*v1.MutatingWebhookConfiguration]{
		GroupVersion:           v1.SchemeGroupVersion,
		Kind:                   "MutatingWebhookConfiguration",
		Resource:               "mutatingwebhookconfigurations",
		Categories:             []string{"api-extensions"},
		ClusterScoped:          true,
		RequireResourceVersion: true,
		Default: func(c *v1.MutatingWebhookConfiguration) {
			for i := range c.Webhooks {
				defaultMutatingWebhook(&c.Webhooks[i])
			}
		},
		Validate: validateMutatingWebhooks,
		Columns:  webhookColumns(v1.MutatingWebhookConfiguration{}.SwaggerDoc()),
		Row: func(c *v1.MutatingWebhookConfiguration) []any {
			return []any{c.Name, int64(len(c.Webhooks)), kinds.Age(c.CreationTimestamp)}
		},
	})
}

func defaultMutatingWebhook(w *v1.MutatingWebhook) {
	fill.Nil(&w.FailurePolicy, v1.Fail)
	fill.Nil(&w.MatchPolicy, v1.Equivalent)
	fill.Nil(&w.NamespaceSelector, metav1.LabelSelector{})
	fill.Nil(&w.ObjectSelector, metav1.LabelSelector{})
	fill.Nil(&w.TimeoutSeconds, 10)
	fill.Nil(&w.ReinvocationPolicy, v1.NeverReinvocationPolicy)
	defaultRules(w.Rules)
	defaultClient(&w.ClientConfig)
}

func validateMutatingWebhooks(c *v1.MutatingWebhookConfiguration) field.ErrorList {
	hooks := make([]hook, len(c.Webhooks))
	var errs field.ErrorList
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		hooks[i] = hook{name: w.Name, client: &w.ClientConfig, rules: w.Rules, failurePolicy: w.FailurePolicy, matchPolicy: w.MatchPolicy,
			namespaceSelector: w.NamespaceSelector, objectSelector: w.ObjectSelector, sideEffects: w.SideEffects,
			timeoutSeconds: w.TimeoutSeconds, admissionReviewVersions: w.AdmissionReviewVersions, matchConditions: w.MatchConditions}
		if p := w.ReinvocationPolicy; p != nil {
			errs = append(errs, check.OneOf(field.NewPath("webhooks").Index(i).Child("reinvocationPolicy"), *p,
				v1.IfNeededReinvocationPolicy, v1.NeverReinvocationPolicy)...)
		}
	}
	return append(validateHooks(hooks), errs...)
}
