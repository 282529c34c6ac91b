// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skep.dev/skep/controlplane/kinds"
)

// ServiceAccount is the kind ServiceAccount.
func ServiceAccount() kinds.Kind {
	return kinds.Define(&corev1.ServiceAccountList{}, kinds.Def[*corev1.ServiceAccount]{
		GroupVersion:     corev1.SchemeGroupVersion,
		Kind:             "ServiceAccount",
		Resource:         "serviceaccounts",
		ShortNames:       []string{"sa"},
		NoGeneration:     true,
		PrepareForCreate: func(_ context.Context, a *corev1.ServiceAccount) { nameSecretsOnly(a) },
		PrepareForUpdate: func(_ context.Context, a, _ *corev1.ServiceAccount) { nameSecretsOnly(a) },
		Columns: []metav1.TableColumnDefinition{
			kinds.NameColumn(),
			kinds.Column("Secrets", "string", corev1.ServiceAccount{}.SwaggerDoc()["secrets"]),
			kinds.AgeColumn(),
		},
		Row: func(a *corev1.ServiceAccount) []any {
			return []any{a.Name, int64(len(a.Secrets)), kinds.Age(a.CreationTimestamp)}
		},
	})
}

// nameSecretsOnly: the list refers to Secrets of the account's own namespace, so only their names mean anything.
func nameSecretsOnly(a *corev1.ServiceAccount) {
	for i := range a.Secrets {
		a.Secrets[i] = corev1.ObjectReference{Name: a.Secrets[i].Name}
	}
}
