// SPDX-License-Identifier: Apache-2.0

package scheduling

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	v1 "k8s.io/api/scheduling/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/check"
	"skep.dev/skep/controlplane/kinds/fill"
)

const (
	highestUser  = int32(1000000000)
	systemPrefix = "system-"
)

// systemClasses are the only names with the system prefix, and what they are worth.
var systemClasses = map[string]int32{"system-cluster-critical": 2 * highestUser, "system-node-critical": 2*highestUser + 1000}

// PriorityClass is the kind PriorityClass.
func PriorityClass() kinds.Kind {
	return kinds.Define(&v1.PriorityClassList{}, kinds.Def[*v1.PriorityClass]{
		GroupVersion:  v1.SchemeGroupVersion,
		Kind:          "PriorityClass",
		Resource:      "priorityclasses",
		ShortNames:    []string{"pc"},
		ClusterScoped: true,
		Default:       func(c *v1.PriorityClass) { fill.Nil(&c.PreemptionPolicy, corev1.PreemptLowerPriority) },
		Validate:      validateClass,
		ValidateUpdate: func(c, old *v1.PriorityClass) field.ErrorList {
			errs := apivalidation.ValidateImmutableField(c.PreemptionPolicy, old.PreemptionPolicy, field.NewPath("preemptionPolicy"))
			if c.Value != old.Value {
				errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
			}
			return errs
		},
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(),
			kinds.Column("Value", "integer", v1.PriorityClass{}.SwaggerDoc()["value"]),
			kinds.Column("Global-Default", "boolean", v1.PriorityClass{}.SwaggerDoc()["globalDefault"]),
			kinds.AgeColumn(),
			kinds.Column("PreemptionPolicy", "string", v1.PriorityClass{}.SwaggerDoc()["preemptionPolicy"]),
		},
		Row: func(c *v1.PriorityClass) []any {
			policy := ""
			if c.PreemptionPolicy != nil {
				policy = string(*c.PreemptionPolicy)
			}
			return []any{c.Name, int64(c.Value), c.GlobalDefault, kinds.Age(c.CreationTimestamp), policy}
		},
	})
}

func validateClass(c *v1.PriorityClass) field.ErrorList {
	var errs field.ErrorList
	if strings.HasPrefix(c.Name, systemPrefix) {
		value, known := systemClasses[c.Name]
		switch {
		case !known:
			errs = append(errs, field.Forbidden(field.NewPath("metadata", "name"),
				"priority class names with '"+systemPrefix+"' prefix are reserved for system use only. error: "+c.Name+" is not a known system priority class"))
		case c.Value != value || c.GlobalDefault:
			errs = append(errs, field.Forbidden(field.NewPath("metadata", "name"),
				fmt.Sprintf("priority class names with '%s' prefix are reserved for system use only. error: value of %s PriorityClass must be %d", systemPrefix, c.Name, value)))
		}
	} else if c.Value > highestUser {
		errs = append(errs, field.Forbidden(field.NewPath("value"), fmt.Sprintf("maximum allowed value of a user defined priority is %v", highestUser)))
	}
	if p := c.PreemptionPolicy; p != nil {
		errs = append(errs, check.OneOf(field.NewPath("preemptionPolicy"), *p, corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	return errs
}
