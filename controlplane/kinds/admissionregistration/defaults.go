// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	v1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skep.dev/skep/controlplane/kinds/fill"
)

// The admission plugins read these objects as they are stored and take an absent selector for a fault, which makes them
// refuse every request of the cluster. So each absent field gets the value that means "everything".

func defaultMatch(m *v1.MatchResources) {
	if m == nil {
		return
	}
	fill.Nil(&m.MatchPolicy, v1.Equivalent)
	fill.Nil(&m.NamespaceSelector, metav1.LabelSelector{})
	fill.Nil(&m.ObjectSelector, metav1.LabelSelector{})
	for i := range m.ResourceRules {
		fill.Nil(&m.ResourceRules[i].Scope, v1.AllScopes)
	}
	for i := range m.ExcludeResourceRules {
		fill.Nil(&m.ExcludeResourceRules[i].Scope, v1.AllScopes)
	}
}

func defaultRules(rules []v1.RuleWithOperations) {
	for i := range rules {
		fill.Nil(&rules[i].Scope, v1.AllScopes)
	}
}

func defaultClient(c *v1.WebhookClientConfig) {
	if c.Service != nil {
		fill.Nil(&c.Service.Port, 443)
	}
}
