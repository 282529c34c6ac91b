// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	"testing"

	v1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/utils/ptr"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/kindtest"
)

// The server creates these objects itself at start; it must accept them.
func TestWhatTheServerCreatesIsValid(t *testing.T) {
	for _, l := range append(bootstrap.SuggestedPriorityLevelConfigurations, bootstrap.MandatoryPriorityLevelConfigurations...) {
		checkValid(t, PriorityLevelConfiguration(), l.DeepCopy())
	}
	for _, f := range append(bootstrap.SuggestedFlowSchemas, bootstrap.MandatoryFlowSchemas...) {
		checkValid(t, FlowSchema(), f.DeepCopy())
	}
}

func checkValid(t *testing.T, k kinds.Kind, o kinds.Object) {
	t.Helper()
	kindtest.DefaultsOnce(t, k, o)
	if errs := k.Validate(o); len(errs) > 0 {
		t.Errorf("%s %s: %v", k.Resource, o.GetName(), errs.ToAggregate())
	}
}

func TestLevelsAreChecked(t *testing.T) {
	type l = *v1.PriorityLevelConfiguration
	valid := func() l {
		return &v1.PriorityLevelConfiguration{Spec: v1.PriorityLevelConfigurationSpec{Type: "Limited", Limited: &v1.LimitedPriorityLevelConfiguration{
			LimitResponse: v1.LimitResponse{Type: "Queue", Queuing: &v1.QueuingConfiguration{}}}}}
	}
	kindtest.Create(t, PriorityLevelConfiguration(), valid, []struct {
		Name   string
		Change func(l)
		Want   []string
	}{
		{"a valid one", func(l) {}, nil},
		{"no limit", func(x l) { x.Spec.Limited = nil }, []string{"spec.limited: Required value: must not be empty when type is Limited"}},
		{"an unknown type", func(x l) { x.Spec.Type = "Some" }, []string{`spec.type: Unsupported value: "Some": supported values: "Exempt", "Limited"`}},
		{"a hand larger than the deck", func(x l) { x.Spec.Limited.LimitResponse.Queuing.HandSize = 65 }, []string{"spec.limited.limitResponse.queuing.handSize: Invalid value: 65: should not be greater than queues (64)"}},
		{"negative shares", func(x l) { x.Spec.Limited.NominalConcurrencyShares = ptr.To[int32](-1) }, []string{"spec.limited.nominalConcurrencyShares: Invalid value: -1: must be greater than or equal to 0"}},
		{"another level that is exempt", func(x l) { x.Spec = v1.PriorityLevelConfigurationSpec{Type: "Exempt"} }, []string{`spec.type: Invalid value: "Exempt": must be 'Exempt' if and only if ` + "`name`" + ` is 'exempt'`}},
	})
}

func TestSchemasAreChecked(t *testing.T) {
	type f = *v1.FlowSchema
	valid := func() f {
		return &v1.FlowSchema{Spec: v1.FlowSchemaSpec{PriorityLevelConfiguration: v1.PriorityLevelConfigurationReference{Name: "global-default"},
			Rules: []v1.PolicyRulesWithSubjects{{Subjects: []v1.Subject{{Kind: "Group", Group: &v1.GroupSubject{Name: "g"}}},
				NonResourceRules: []v1.NonResourcePolicyRule{{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}}}}}}
	}
	kindtest.Create(t, FlowSchema(), valid, []struct {
		Name   string
		Change func(f)
		Want   []string
	}{
		{"a valid one", func(f) {}, nil},
		{"no level", func(x f) { x.Spec.PriorityLevelConfiguration.Name = "" }, []string{"spec.priorityLevelConfiguration.name: Required value: must reference a priority level"}},
		{"too late", func(x f) { x.Spec.MatchingPrecedence = 10001 }, []string{"spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000"}},
		{"first of all", func(x f) { x.Spec.MatchingPrecedence = 1 }, []string{"spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1"}},
		{"nobody", func(x f) { x.Spec.Rules[0].Subjects = nil }, []string{"spec.rules[0].subjects: Required value: subjects must contain at least one value"}},
		{"nothing", func(x f) { x.Spec.Rules[0].NonResourceRules = nil }, []string{"spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty"}},
	})
}
