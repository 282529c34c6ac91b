// SPDX-License-Identifier: Apache-2.0

// Package check holds the checks of fields that many kinds have.
//
// Paths, reasons and messages are what clients of the Kubernetes API expect, to the letter.
package check

import (
	"strings"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Invalid makes one error of each message.
func Invalid(path *field.Path, value any, messages []string) field.ErrorList {
	var errs field.ErrorList
	for _, message := range messages {
		errs = append(errs, field.Invalid(path, value, message))
	}
	return errs
}

// OneOf checks a required field with a closed set of values.
func OneOf[T ~string](path *field.Path, value T, allowed ...T) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	for _, a := range allowed {
		if value == a {
			return nil
		}
	}
	return field.ErrorList{field.NotSupported(path, value, allowed)}
}

// Selector checks a label selector; nil is valid.
func Selector(selector *metav1.LabelSelector, path *field.Path) field.ErrorList {
	return metav1validation.ValidateLabelSelector(selector, metav1validation.LabelSelectorValidationOptions{}, path)
}

// Port checks a port number.
func Port(path *field.Path, port int32) field.ErrorList {
	return Invalid(path, port, validation.IsValidPortNum(int(port)))
}

// PortOrName checks a port that may be given by the name it has in a container.
func PortOrName(path *field.Path, port intstr.IntOrString) field.ErrorList {
	if port.Type == intstr.Int {
		return Invalid(path, port.IntValue(), validation.IsValidPortNum(port.IntValue()))
	}
	return Invalid(path, port.StrVal, validation.IsValidPortName(port.StrVal))
}

// NotNegative checks a count or a duration; nil is valid.
func NotNegative[N int32 | int64](path *field.Path, n *N) field.ErrorList {
	if n == nil {
		return nil
	}
	return apivalidation.ValidateNonnegativeField(int64(*n), path)
}

// CountOrPercent checks a value such as 3 or 25%; nil is valid.
func CountOrPercent(path *field.Path, v *intstr.IntOrString) field.ErrorList {
	switch {
	case v == nil:
		return nil
	case v.Type == intstr.String:
		return Invalid(path, *v, validation.IsValidPercent(v.StrVal))
	}
	return apivalidation.ValidateNonnegativeField(int64(v.IntValue()), path)
}

// AtMostAll refuses more than 100%.
func AtMostAll(path *field.Path, v *intstr.IntOrString) field.ErrorList {
	if percent, ok := percentOf(v); ok && percent > 100 {
		return field.ErrorList{field.Invalid(path, *v, "must not be greater than 100%")}
	}
	return nil
}

// IsZero reports whether v is 0 or 0%.
func IsZero(v *intstr.IntOrString) bool {
	if percent, ok := percentOf(v); ok {
		return percent == 0
	}
	return v == nil || v.Type == intstr.Int && v.IntVal == 0
}

func percentOf(v *intstr.IntOrString) (int, bool) {
	if v == nil || v.Type != intstr.String || len(validation.IsValidPercent(v.StrVal)) > 0 {
		return 0, false
	}
	percent, err := intstr.GetScaledValueFromIntOrPercent(v, 100, false)
	return percent, err == nil
}

// PathSegment is a name that can stand between the slashes of a URL, such as system:node; with prefix set, the beginning
// of one.
func PathSegment(name string, prefix bool) []string {
	var messages []string
	if !prefix && (name == "." || name == "..") {
		messages = append(messages, "may not be '"+name+"'")
	}
	for _, illegal := range []string{"/", "%"} {
		if strings.Contains(name, illegal) {
			messages = append(messages, "may not contain '"+illegal+"'")
		}
	}
	return messages
}
