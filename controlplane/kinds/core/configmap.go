// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/check"
)

// ConfigMap is the kind ConfigMap.
func ConfigMap() kinds.Kind {
	return kinds.Define(&corev1.ConfigMapList{}, kinds.Def[*corev1.ConfigMap]{
		GroupVersion:   corev1.SchemeGroupVersion,
		Kind:           "ConfigMap",
		Resource:       "configmaps",
		ShortNames:     []string{"cm"},
		NoGeneration:   true,
		Validate:       validateConfigMap,
		ValidateUpdate: validateConfigMapUpdate,
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(),
			kinds.Column("Data", "string", corev1.ConfigMap{}.SwaggerDoc()["data"]),
			kinds.AgeColumn(),
		},
		Row: func(c *corev1.ConfigMap) []any {
			return []any{c.Name, int64(len(c.Data) + len(c.BinaryData)), kinds.Age(c.CreationTimestamp)}
		},
	})
}

func validateConfigMap(c *corev1.ConfigMap) field.ErrorList {
	var errs field.ErrorList
	size := 0
	for key, value := range c.Data {
		errs = append(errs, check.Invalid(field.NewPath("data").Key(key), key, validation.IsConfigMapKey(key))...)
		if _, both := c.BinaryData[key]; both {
			errs = append(errs, field.Invalid(field.NewPath("data").Key(key), key, "duplicate of key present in binaryData"))
		}
		size += len(value)
	}
	for key, value := range c.BinaryData {
		errs = append(errs, check.Invalid(field.NewPath("binaryData").Key(key), key, validation.IsConfigMapKey(key))...)
		size += len(value)
	}
	if size > corev1.MaxSecretSize {
		errs = append(errs, field.TooLong(field.NewPath(""), "", corev1.MaxSecretSize))
	}
	return errs
}

func validateConfigMapUpdate(c, old *corev1.ConfigMap) field.ErrorList {
	return append(validateSealed(c.Immutable, old.Immutable, []sealed{
		{"data", c.Data, old.Data},
		{"binaryData", c.BinaryData, old.BinaryData},
	}), validateConfigMap(c)...)
}

// sealed is a field that `immutable` freezes.
type sealed struct {
	name     string
	now, was any
}

// validateSealed: once an object says it is immutable, neither that nor what it holds can change.
func validateSealed(immutable, was *bool, contents []sealed) field.ErrorList {
	if was == nil || !*was {
		return nil
	}
	var errs field.ErrorList
	if immutable == nil || !*immutable {
		errs = append(errs, field.Forbidden(field.NewPath("immutable"), sealedMessage))
	}
	for _, s := range contents {
		if !equality.Semantic.DeepEqual(s.now, s.was) {
			errs = append(errs, field.Forbidden(field.NewPath(s.name), sealedMessage))
		}
	}
	return errs
}

const sealedMessage = "field is immutable when `immutable` is set"
