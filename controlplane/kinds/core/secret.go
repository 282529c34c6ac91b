// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/check"
	"skep.dev/skep/controlplane/kinds/fill"
)

// Secret is the kind Secret.
func Secret() kinds.Kind {
	return kinds.Define(&corev1.SecretList{}, kinds.Def[*corev1.Secret]{
		GroupVersion:     corev1.SchemeGroupVersion,
		Kind:             "Secret",
		Resource:         "secrets",
		NoGeneration:     true,
		Default:          defaultSecret,
		PrepareForCreate: func(_ context.Context, s *corev1.Secret) { mergeStringData(s) },
		PrepareForUpdate: prepareSecretForUpdate,
		Validate:         validateSecret,
		ValidateUpdate:   validateSecretUpdate,
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(),
			kinds.Column("Type", "string", corev1.Secret{}.SwaggerDoc()["type"]),
			kinds.Column("Data", "string", corev1.Secret{}.SwaggerDoc()["data"]),
			kinds.AgeColumn(),
		},
		Row: func(s *corev1.Secret) []any {
			return []any{s.Name, string(s.Type), int64(len(s.Data)), kinds.Age(s.CreationTimestamp)}
		},
		Fields:     func(s *corev1.Secret) fields.Set { return fields.Set{"type": string(s.Type)} },
		FieldNames: []string{"type"},
	})
}

// defaultSecret also moves stringData into data: it is a convenience of requests and never stored or shown.
func defaultSecret(s *corev1.Secret) {
	fill.Zero(&s.Type, corev1.SecretTypeOpaque)
	mergeStringData(s)
}

func mergeStringData(s *corev1.Secret) {
	if len(s.StringData) > 0 && s.Data == nil {
		s.Data = make(map[string][]byte, len(s.StringData))
	}
	for key, value := range s.StringData {
		s.Data[key] = []byte(value)
	}
	s.StringData = nil
}

func prepareSecretForUpdate(_ context.Context, s, old *corev1.Secret) {
	// A client that leaves the type out means the one it has: it cannot change.
	if s.Type == "" {
		s.Type = old.Type
	}
	mergeStringData(s)
}

func validateSecret(s *corev1.Secret) field.ErrorList {
	var errs field.ErrorList
	data := field.NewPath("data")
	size := 0
	for key, value := range s.Data {
		errs = append(errs, check.Invalid(data.Key(key), key, validation.IsConfigMapKey(key))...)
		size += len(value)
	}
	if size > corev1.MaxSecretSize {
		errs = append(errs, field.TooLong(data, "", corev1.MaxSecretSize))
	}
	require := func(keys ...string) {
		for _, key := range keys {
			if _, ok := s.Data[key]; !ok {
				errs = append(errs, field.Required(data.Key(key), ""))
			}
		}
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		if s.Annotations[corev1.ServiceAccountNameKey] == "" {
			errs = append(errs, field.Required(field.NewPath("metadata", "annotations").Key(corev1.ServiceAccountNameKey), ""))
		}
	case corev1.SecretTypeDockercfg:
		require(corev1.DockerConfigKey)
		errs = append(errs, secretJSON(s, corev1.DockerConfigKey)...)
	case corev1.SecretTypeDockerConfigJson:
		require(corev1.DockerConfigJsonKey)
		errs = append(errs, secretJSON(s, corev1.DockerConfigJsonKey)...)
	case corev1.SecretTypeBasicAuth:
		_, user := s.Data[corev1.BasicAuthUsernameKey]
		_, password := s.Data[corev1.BasicAuthPasswordKey]
		if !user && !password {
			require(corev1.BasicAuthUsernameKey, corev1.BasicAuthPasswordKey)
		}
	case corev1.SecretTypeSSHAuth:
		if len(s.Data[corev1.SSHAuthPrivateKey]) == 0 {
			errs = append(errs, field.Required(data.Key(corev1.SSHAuthPrivateKey), ""))
		}
	case corev1.SecretTypeTLS:
		require(corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
	}
	return errs
}

func secretJSON(s *corev1.Secret, key string) field.ErrorList {
	value, ok := s.Data[key]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(value, &map[string]any{}); err != nil {
		return field.ErrorList{field.Invalid(field.NewPath("data").Key(key), "<secret contents redacted>", err.Error())}
	}
	return nil
}

func validateSecretUpdate(s, old *corev1.Secret) field.ErrorList {
	errs := apivalidation.ValidateImmutableField(s.Type, old.Type, field.NewPath("type"))
	errs = append(errs, validateSealed(s.Immutable, old.Immutable, []sealed{{"data", s.Data, old.Data}})...)
	return append(errs, validateSecret(s)...)
}
