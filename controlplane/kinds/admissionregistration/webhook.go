// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/util/webhook"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/check"
)

// hook is what both kinds of webhook have in common.
type hook struct {
	name                    string
	client                  *v1.WebhookClientConfig
	rules                   []v1.RuleWithOperations
	failurePolicy           *v1.FailurePolicyType
	matchPolicy             *v1.MatchPolicyType
	namespaceSelector       *metav1.LabelSelector
	objectSelector          *metav1.LabelSelector
	sideEffects             *v1.SideEffectClass
	timeoutSeconds          *int32
	admissionReviewVersions []string
	matchConditions         []v1.MatchCondition
}

func validateHooks(hooks []hook) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, h := range hooks {
		at := field.NewPath("webhooks").Index(i)
		errs = append(errs, validateHook(&h, at)...)
		if h.name != "" && names.Has(h.name) {
			errs = append(errs, field.Duplicate(at.Child("name"), h.name))
		}
		names.Insert(h.name)
	}
	return errs
}

func validateHook(h *hook, path *field.Path) field.ErrorList {
	errs := validation.IsFullyQualifiedName(path.Child("name"), h.name)
	errs = append(errs, check.Selector(h.namespaceSelector, path.Child("namespaceSelector"))...)
	errs = append(errs, check.Selector(h.objectSelector, path.Child("objectSelector"))...)
	for i := range h.rules {
		errs = append(errs, validateRule(&h.rules[i], path.Child("rules").Index(i))...)
	}
	errs = append(errs, validateFailurePolicy(h.failurePolicy, path.Child("failurePolicy"))...)
	if h.matchPolicy != nil {
		errs = append(errs, check.OneOf(path.Child("matchPolicy"), *h.matchPolicy, v1.Equivalent, v1.Exact)...)
	}
	if h.sideEffects == nil {
		errs = append(errs, field.Required(path.Child("sideEffects"),
			fmt.Sprintf("must specify one of %s", strings.Join([]string{string(v1.SideEffectClassNone), string(v1.SideEffectClassNoneOnDryRun)}, ", "))))
	} else {
		errs = append(errs, check.OneOf(path.Child("sideEffects"), *h.sideEffects, v1.SideEffectClassNone, v1.SideEffectClassNoneOnDryRun)...)
	}
	if s := h.timeoutSeconds; s != nil && (*s < 1 || *s > 30) {
		errs = append(errs, field.Invalid(path.Child("timeoutSeconds"), *s, "the timeout value must be between 1 and 30 seconds"))
	}
	errs = append(errs, validateReviewVersions(h.admissionReviewVersions, path.Child("admissionReviewVersions"))...)
	errs = append(errs, validateClient(h.client, path.Child("clientConfig"))...)
	if len(h.matchConditions) > 0 {
		c, err := newCompiler(false)
		if err != nil {
			return append(errs, field.InternalError(path.Child("matchConditions"), err))
		}
		errs = append(errs, c.matchConditions(h.matchConditions, path.Child("matchConditions"))...)
	}
	return errs
}

func validateReviewVersions(versions []string, path *field.Path) field.ErrorList {
	understood := []string{"v1", "v1beta1"}
	if len(versions) == 0 {
		return field.ErrorList{field.Required(path, "must specify one of "+strings.Join(understood, ", "))}
	}
	var errs field.ErrorList
	seen := sets.New[string]()
	ours := false
	for i, version := range versions {
		if seen.Has(version) {
			errs = append(errs, field.Invalid(path.Index(i), version, "duplicate version"))
			continue
		}
		seen.Insert(version)
		errs = append(errs, check.Invalid(path.Index(i), version, validation.IsDNS1035Label(version))...)
		ours = ours || slices.Contains(understood, version)
	}
	if !ours && len(errs) == 0 {
		errs = append(errs, field.Invalid(path, versions, "must include at least one of "+strings.Join(understood, ", ")))
	}
	return errs
}

func validateClient(c *v1.WebhookClientConfig, path *field.Path) field.ErrorList {
	switch {
	case (c.URL == nil) == (c.Service == nil):
		return field.ErrorList{field.Required(path, "exactly one of url or service is required")}
	case c.URL != nil:
		return webhook.ValidateWebhookURL(path.Child("url"), *c.URL, true)
	}
	port := int32(443)
	if c.Service.Port != nil {
		port = *c.Service.Port
	}
	return webhook.ValidateWebhookService(path.Child("service"), c.Service.Namespace, c.Service.Name, c.Service.Path, port)
}

func webhookColumns(doc map[string]string) []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		kinds.NameColumn(),
		kinds.Column("Webhooks", "integer", doc["webhooks"]),
		kinds.AgeColumn(),
	}
}
