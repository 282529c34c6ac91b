// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"skep.dev/skep/controlplane/kinds/kindtest"
)

func parse[T any](text string) *T {
	o := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), o); err != nil {
		panic(err)
	}
	return o
}

func policy() *v1.ValidatingAdmissionPolicy {
	return parse[v1.ValidatingAdmissionPolicy](`
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [deployments]}
  variables:
  - {name: replicas, expression: "object.spec.replicas"}
  validations:
  - {expression: "variables.replicas <= 5", messageExpression: "'at most 5, not ' + string(variables.replicas)"}
  matchConditions:
  - {name: not-root, expression: "request.userInfo.username != 'root'"}
`)
}

func TestValidatingPoliciesAreChecked(t *testing.T) {
	type p = *v1.ValidatingAdmissionPolicy
	kindtest.Create(t, ValidatingAdmissionPolicy(), policy, []struct {
		Name   string
		Change func(p)
		Want   []string
	}{
		{"a valid one", func(p) {}, nil},
		{"no match", func(x p) { x.Spec.MatchConstraints = nil }, []string{"spec.matchConstraints: Required value"}},
		{"a match of nothing", func(x p) { x.Spec.MatchConstraints.ResourceRules = nil }, []string{"spec.matchConstraints.resourceRules: Required value"}},
		{"nothing to say", func(x p) { x.Spec.Validations = nil }, []string{"spec.auditAnnotations: Required value: validations or", "spec.validations: Required value: validations or"}},
		{"an expression that does not parse", func(x p) { x.Spec.Validations[0].Expression = "object." }, []string{`spec.validations[0].expression: Invalid value: "object.": compilation failed: ERROR:`}},
		{"a number for an answer", func(x p) { x.Spec.Validations[0].Expression = "1 + 1" }, []string{`spec.validations[0].expression: Invalid value: "1 + 1": must evaluate to bool`}},
		{"an unknown variable", func(x p) { x.Spec.Validations[0].Expression = "variables.nodes < 3" }, []string{`spec.validations[0].expression: Invalid value: "variables.nodes < 3": compilation failed: ERROR:`}},
		{"parameters without a kind", func(x p) { x.Spec.Validations[0].Expression = "params == null" }, []string{`spec.validations[0].expression: Invalid value: "params == null": compilation failed: ERROR:`}},
		{"an unknown operation", func(x p) { x.Spec.MatchConstraints.ResourceRules[0].Operations[0] = "MAKE" }, []string{`spec.matchConstraints.resourceRules[0].operations[0]: Unsupported value: "MAKE": supported values: "*", "CONNECT", "CREATE", "DELETE", "UPDATE"`}},
		{"all and one", func(x p) { x.Spec.MatchConstraints.ResourceRules[0].APIGroups = []string{"*", "apps"} }, []string{`spec.matchConstraints.resourceRules[0].apiGroups: Invalid value: ["*","apps"]: if '*' is present, must not specify other API groups`}},
		{"a failure policy of its own", func(x p) { x.Spec.FailurePolicy = ptr.To(v1.FailurePolicyType("Panic")) }, []string{`spec.failurePolicy: Unsupported value: "Panic": supported values: "Fail", "Ignore"`}},
	})
}

func TestPolicyDefaultsMatchEverything(t *testing.T) {
	p := policy()
	kindtest.DefaultsOnce(t, ValidatingAdmissionPolicy(), p)
	want := &v1.MatchResources{
		NamespaceSelector: &metav1.LabelSelector{}, ObjectSelector: &metav1.LabelSelector{}, MatchPolicy: ptr.To(v1.Equivalent),
		ResourceRules: []v1.NamedRuleWithOperations{{RuleWithOperations: v1.RuleWithOperations{
			Operations: []v1.OperationType{"CREATE", "UPDATE"},
			Rule:       v1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments"}, Scope: ptr.To(v1.AllScopes)},
		}}},
	}
	if d := cmp.Diff(want, p.Spec.MatchConstraints); d != "" || *p.Spec.FailurePolicy != v1.Fail {
		t.Errorf("failure policy %s, match (-want +got):\n%s", *p.Spec.FailurePolicy, d)
	}
	m := &v1.MutatingAdmissionPolicy{Spec: v1.MutatingAdmissionPolicySpec{MatchConstraints: &v1.MatchResources{}}}
	kindtest.DefaultsOnce(t, MutatingAdmissionPolicy(), m)
	if m.Spec.MatchConstraints.NamespaceSelector == nil || m.Spec.MatchConstraints.ObjectSelector == nil || m.Spec.ReinvocationPolicy != v1.NeverReinvocationPolicy {
		t.Errorf("mutating policy: %+v", m.Spec)
	}
	for _, b := range []*v1.MatchResources{
		func() *v1.MatchResources {
			b := &v1.ValidatingAdmissionPolicyBinding{Spec: v1.ValidatingAdmissionPolicyBindingSpec{MatchResources: &v1.MatchResources{}}}
			kindtest.DefaultsOnce(t, ValidatingAdmissionPolicyBinding(), b)
			return b.Spec.MatchResources
		}(),
		func() *v1.MatchResources {
			b := &v1.MutatingAdmissionPolicyBinding{Spec: v1.MutatingAdmissionPolicyBindingSpec{MatchResources: &v1.MatchResources{}}}
			kindtest.DefaultsOnce(t, MutatingAdmissionPolicyBinding(), b)
			return b.Spec.MatchResources
		}(),
	} {
		if b.NamespaceSelector == nil || b.ObjectSelector == nil || b.MatchPolicy == nil {
			t.Errorf("binding: %+v", b)
		}
	}
}

func TestMutatingPoliciesAreChecked(t *testing.T) {
	type p = *v1.MutatingAdmissionPolicy
	valid := func() p {
		return parse[v1.MutatingAdmissionPolicy](`
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration: {expression: "Object{metadata: Object.metadata{labels: {'a': 'b'}}}"}
  - patchType: JSONPatch
    jsonPatch: {expression: "[JSONPatch{op: 'add', path: '/metadata/labels/c', value: 'd'}]"}
`)
	}
	kindtest.Create(t, MutatingAdmissionPolicy(), valid, []struct {
		Name   string
		Change func(p)
		Want   []string
	}{
		{"a valid one", func(p) {}, nil},
		{"no mutations", func(x p) { x.Spec.Mutations = nil }, []string{"spec.mutations: Required value: mutations must contain at least one item"}},
		{"a patch of another type", func(x p) { x.Spec.Mutations[0].PatchType = "JSONPatch" }, []string{"spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch"}},
		{"a list that is no patch", func(x p) { x.Spec.Mutations[1].JSONPatch.Expression = "[1]" }, []string{`spec.mutations[1].jsonPatch.expression: Invalid value: "[1]": must evaluate to`}},
	})
}

func TestBindingsAreChecked(t *testing.T) {
	type b = *v1.ValidatingAdmissionPolicyBinding
	valid := func() b {
		return parse[v1.ValidatingAdmissionPolicyBinding](`spec: {policyName: few-replicas, validationActions: [Deny]}`)
	}
	kindtest.Create(t, ValidatingAdmissionPolicyBinding(), valid, []struct {
		Name   string
		Change func(b)
		Want   []string
	}{
		{"a valid one", func(b) {}, nil},
		{"no policy", func(x b) { x.Spec.PolicyName = "" }, []string{"spec.policyName: Required value"}},
		{"no action", func(x b) { x.Spec.ValidationActions = nil }, []string{"spec.validationActions: Required value"}},
		{"deny and warn", func(x b) { x.Spec.ValidationActions = []v1.ValidationAction{"Deny", "Warn"} }, []string{`spec.validationActions: Invalid value: ["Deny","Warn"]: must not contain both Deny and Warn`}},
		{"parameters by name and selector", func(x b) {
			x.Spec.ParamRef = &v1.ParamRef{Name: "p", Selector: &metav1.LabelSelector{}, ParameterNotFoundAction: ptr.To(v1.DenyAction)}
		}, []string{"spec.paramRef.name: Forbidden: name and selector are mutually exclusive"}},
	})
}

func TestWebhooksAreChecked(t *testing.T) {
	type c = *v1.ValidatingWebhookConfiguration
	valid := func() c {
		return parse[v1.ValidatingWebhookConfiguration](`
webhooks:
- name: pods.example.com
  clientConfig: {service: {namespace: web, name: hook}}
  admissionReviewVersions: [v1]
  sideEffects: None
  rules:
  - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods, pods/status]}
`)
	}
	kindtest.Create(t, ValidatingWebhookConfiguration(), valid, []struct {
		Name   string
		Change func(c)
		Want   []string
	}{
		{"a valid one", func(c) {}, nil},
		{"a short name", func(x c) { x.Webhooks[0].Name = "pods" }, []string{`webhooks[0].name: Invalid value: "pods": should be a domain with at least three segments separated by dots`}},
		{"a name twice", func(x c) { x.Webhooks = append(x.Webhooks, x.Webhooks[0]) }, []string{`webhooks[1].name: Duplicate value: "pods.example.com"`}},
		{"nowhere to go", func(x c) { x.Webhooks[0].ClientConfig = v1.WebhookClientConfig{} }, []string{"webhooks[0].clientConfig: Required value: exactly one of url or service is required"}},
		{"plain text", func(x c) { x.Webhooks[0].ClientConfig = v1.WebhookClientConfig{URL: ptr.To("http://example.com")} }, []string{`webhooks[0].clientConfig.url: Invalid value: "http": 'https' is the only allowed URL scheme`}},
		{"no versions", func(x c) { x.Webhooks[0].AdmissionReviewVersions = nil }, []string{"webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1"}},
		{"no word on side effects", func(x c) { x.Webhooks[0].SideEffects = nil }, []string{"webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun"}},
		{"a minute", func(x c) { x.Webhooks[0].TimeoutSeconds = ptr.To[int32](60) }, []string{"webhooks[0].timeoutSeconds: Invalid value: 60: the timeout value must be between 1 and 30 seconds"}},
		{"a condition that is no CEL", func(x c) { x.Webhooks[0].MatchConditions = []v1.MatchCondition{{Name: "a", Expression: "!"}} }, []string{`webhooks[0].matchConditions[0].expression: Invalid value: "!": compilation failed: ERROR:`}},
	})
	x := valid()
	kindtest.DefaultsOnce(t, ValidatingWebhookConfiguration(), x)
	w := x.Webhooks[0]
	if *w.FailurePolicy != v1.Fail || *w.MatchPolicy != v1.Equivalent || w.NamespaceSelector == nil || w.ObjectSelector == nil ||
		*w.TimeoutSeconds != 10 || *w.ClientConfig.Service.Port != 443 || *w.Rules[0].Scope != v1.AllScopes {
		t.Errorf("defaults: %+v", w)
	}
}
