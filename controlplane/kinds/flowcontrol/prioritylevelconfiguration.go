// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	"fmt"

	v1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/check"
	"skep.dev/skep/controlplane/kinds/fill"
)

// PriorityLevelConfiguration is the kind PriorityLevelConfiguration.
func PriorityLevelConfiguration() kinds.Kind {
	return kinds.Define(&v1.PriorityLevelConfigurationList{}, kinds.Def[*v1.PriorityLevelConfiguration]{
		GroupVersion:  v1.SchemeGroupVersion,
		Kind:          "PriorityLevelConfiguration",
		Resource:      "prioritylevelconfigurations",
		ClusterScoped: true,
		HasStatus:     true,
		Default:       defaultLevel,
		Validate:      validateLevel,
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(),
			kinds.Column("Type", "string", v1.PriorityLevelConfigurationSpec{}.SwaggerDoc()["type"]),
			kinds.Column("NominalConcurrencyShares", "string", v1.LimitedPriorityLevelConfiguration{}.SwaggerDoc()["nominalConcurrencyShares"]),
			kinds.Column("Queues", "string", v1.QueuingConfiguration{}.SwaggerDoc()["queues"]),
			kinds.Column("HandSize", "string", v1.QueuingConfiguration{}.SwaggerDoc()["handSize"]),
			kinds.Column("QueueLengthLimit", "string", v1.QueuingConfiguration{}.SwaggerDoc()["queueLengthLimit"]),
			kinds.AgeColumn(),
		},
		Row: levelRow,
	})
}

func defaultLevel(l *v1.PriorityLevelConfiguration) {
	const shares, queues, handSize, queueLength = 30, 64, 8, 50
	if l.Spec.Type == v1.PriorityLevelEnablementExempt {
		fill.Nil(&l.Spec.Exempt, v1.ExemptPriorityLevelConfiguration{})
	}
	if e := l.Spec.Exempt; e != nil {
		fill.Nil(&e.NominalConcurrencyShares, 0)
		fill.Nil(&e.LendablePercent, 0)
	}
	if limited := l.Spec.Limited; limited != nil {
		fill.Nil(&limited.NominalConcurrencyShares, shares)
		fill.Nil(&limited.LendablePercent, 0)
		if q := limited.LimitResponse.Queuing; q != nil {
			fill.Zero(&q.Queues, queues)
			fill.Zero(&q.HandSize, handSize)
			fill.Zero(&q.QueueLengthLimit, queueLength)
		}
	}
}

func validateLevel(l *v1.PriorityLevelConfiguration) field.ErrorList {
	path, spec := field.NewPath("spec"), &l.Spec
	errs := validateMandatoryLevel(l, path)
	switch spec.Type {
	case v1.PriorityLevelEnablementExempt:
		if spec.Limited != nil {
			errs = append(errs, field.Forbidden(path.Child("limited"), "must be nil if the type is not Limited"))
		}
		if e := spec.Exempt; e != nil {
			errs = append(errs, check.NotNegative(path.Child("exempt", "nominalConcurrencyShares"), e.NominalConcurrencyShares)...)
			errs = append(errs, validatePercent(e.LendablePercent, path.Child("exempt", "lendablePercent"))...)
		}
	case v1.PriorityLevelEnablementLimited:
		if spec.Exempt != nil {
			errs = append(errs, field.Forbidden(path.Child("exempt"), "must be nil if the type is Limited"))
		}
		if spec.Limited == nil {
			return append(errs, field.Required(path.Child("limited"), "must not be empty when type is Limited"))
		}
		errs = append(errs, validateLimited(spec.Limited, path.Child("limited"))...)
	default:
		errs = append(errs, field.NotSupported(path.Child("type"), spec.Type,
			[]v1.PriorityLevelEnablement{v1.PriorityLevelEnablementExempt, v1.PriorityLevelEnablementLimited}))
	}
	return errs
}

// validateMandatoryLevel guards the two levels that the server falls back on.
func validateMandatoryLevel(l *v1.PriorityLevelConfiguration, path *field.Path) field.ErrorList {
	exempt := l.Spec.Type == v1.PriorityLevelEnablementExempt
	switch {
	case exempt != (l.Name == v1.PriorityLevelConfigurationNameExempt):
		return field.ErrorList{field.Invalid(path.Child("type"), l.Spec.Type, "must be 'Exempt' if and only if `name` is 'exempt'")}
	case l.Name == v1.PriorityLevelConfigurationNameCatchAll &&
		!equality.Semantic.DeepEqual(l.Spec, bootstrap.MandatoryPriorityLevelConfigurationCatchAll.Spec):
		return field.ErrorList{field.Invalid(path, l.Spec, fmt.Sprintf("spec of '%s' must equal the fixed value", l.Name))}
	}
	return nil
}

func validatePercent(n *int32, path *field.Path) field.ErrorList {
	if n != nil && (*n < 0 || *n > 100) {
		return field.ErrorList{field.Invalid(path, *n, "must be between 0 and 100, inclusive")}
	}
	return nil
}

func validateLimited(l *v1.LimitedPriorityLevelConfiguration, path *field.Path) field.ErrorList {
	errs := check.NotNegative(path.Child("nominalConcurrencyShares"), l.NominalConcurrencyShares)
	errs = append(errs, validatePercent(l.LendablePercent, path.Child("lendablePercent"))...)
	errs = append(errs, check.NotNegative(path.Child("borrowingLimitPercent"), l.BorrowingLimitPercent)...)
	path = path.Child("limitResponse")
	q := l.LimitResponse.Queuing
	switch l.LimitResponse.Type {
	case v1.LimitResponseTypeReject:
		if q != nil {
			errs = append(errs, field.Forbidden(path.Child("queuing"), "must be nil if limited.limitResponse.type is not Limited"))
		}
	case v1.LimitResponseTypeQueue:
		if q == nil {
			return append(errs, field.Required(path.Child("queuing"), "must not be empty if limited.limitResponse.type is Limited"))
		}
		errs = append(errs, validateQueuing(q, path.Child("queuing"))...)
	default:
		errs = append(errs, field.NotSupported(path.Child("type"), l.LimitResponse.Type,
			[]v1.LimitResponseType{v1.LimitResponseTypeQueue, v1.LimitResponseTypeReject}))
	}
	return errs
}

func validateQueuing(q *v1.QueuingConfiguration, path *field.Path) field.ErrorList {
	const maxQueues = 10 * 1000 * 1000
	var errs field.ErrorList
	if q.QueueLengthLimit <= 0 {
		errs = append(errs, field.Invalid(path.Child("queueLengthLimit"), q.QueueLengthLimit, "must be positive"))
	}
	if q.Queues <= 0 {
		errs = append(errs, field.Invalid(path.Child("queues"), q.Queues, "must be positive"))
	} else if q.Queues > maxQueues {
		errs = append(errs, field.Invalid(path.Child("queues"), q.Queues, fmt.Sprintf("must not be greater than %d", maxQueues)))
	}
	if q.HandSize <= 0 {
		errs = append(errs, field.Invalid(path.Child("handSize"), q.HandSize, "must be positive"))
	} else if q.HandSize > q.Queues {
		errs = append(errs, field.Invalid(path.Child("handSize"), q.HandSize,
			fmt.Sprintf("should not be greater than queues (%d)", q.Queues)))
	}
	return errs
}

func levelRow(l *v1.PriorityLevelConfiguration) []any {
	const none = "<none>"
	var shares, queues, hand, length any = none, none, none, none
	if limited := l.Spec.Limited; limited != nil {
		if limited.NominalConcurrencyShares != nil {
			shares = *limited.NominalConcurrencyShares
		}
		if q := limited.LimitResponse.Queuing; q != nil {
			queues, hand, length = q.Queues, q.HandSize, q.QueueLengthLimit
		}
	} else if e := l.Spec.Exempt; e != nil && e.NominalConcurrencyShares != nil {
		shares = *e.NominalConcurrencyShares
	}
	return []any{l.Name, string(l.Spec.Type), shares, queues, hand, length, kinds.Age(l.CreationTimestamp)}
}
