// SPDX-License-Identifier: Apache-2.0

// Package crd installs the custom resources that every cluster has.
package crd

import (
	"context"
	_ "embed"
	"fmt"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/typed/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/yaml"
)

//go:generate ./refresh.sh

// clusterNetworkPolicies is the definition that sigs.k8s.io/network-policy-api publishes, with the experimental fields: nodes
// as peers are among them.
//
//go:embed policy.networking.k8s.io_clusternetworkpolicies.yaml
var clusterNetworkPolicies []byte

// All returns the definitions.
func All() ([]*apiextensionsv1.CustomResourceDefinition, error) {
	definition := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict(clusterNetworkPolicies, definition); err != nil {
		return nil, fmt.Errorf("read the definition of ClusterNetworkPolicy: %w", err)
	}
	return []*apiextensionsv1.CustomResourceDefinition{definition}, nil
}

// Ensure makes the definitions, and brings older ones up to date. A newer one is left alone, whoever installed it: agents
// treat what they do not know as the API says.
func Ensure(ctx context.Context, client apiextensions.CustomResourceDefinitionInterface) error {
	all, err := All()
	if err != nil {
		return err
	}
	for _, want := range all {
		if err := ensure(ctx, client, want); err != nil {
			return fmt.Errorf("custom resource %s: %w", want.Name, err)
		}
	}
	return nil
}

const bundleVersion = "policy.networking.k8s.io/bundle-version"

func ensure(ctx context.Context, client apiextensions.CustomResourceDefinitionInterface, want *apiextensionsv1.CustomResourceDefinition) error {
	have, err := client.Get(ctx, want.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = client.Create(ctx, want, metav1.CreateOptions{})
		return err
	}
	if err != nil || !older(have.Annotations[bundleVersion], want.Annotations[bundleVersion]) {
		return err
	}
	have.Annotations, have.Spec = want.Annotations, want.Spec
	_, err = client.Update(ctx, have, metav1.UpdateOptions{})
	return err
}

// older compares versions; one that cannot be read is not ours to replace.
func older(have, want string) bool {
	h, err := version.ParseSemantic(have)
	if err != nil {
		return false
	}
	w, err := version.ParseSemantic(want)
	return err == nil && h.LessThan(w)
}

// establishedPoll is how often WaitEstablished looks.
const establishedPoll = 10 * time.Millisecond

// WaitEstablished returns when all definitions are served.
func WaitEstablished(ctx context.Context, client apiextensions.CustomResourceDefinitionInterface) error {
	all, err := All()
	if err != nil {
		return err
	}
	for _, want := range all {
		err := wait.PollUntilContextCancel(ctx, establishedPoll, true, func(ctx context.Context) (bool, error) {
			have, err := client.Get(ctx, want.Name, metav1.GetOptions{})
			return err == nil && established(have), err
		})
		if err != nil {
			return fmt.Errorf("wait for custom resource %s: %w", want.Name, err)
		}
	}
	return nil
}

func established(definition *apiextensionsv1.CustomResourceDefinition) bool {
	for _, c := range definition.Status.Conditions {
		if c.Type == apiextensionsv1.Established {
			return c.Status == apiextensionsv1.ConditionTrue
		}
	}
	return false
}
