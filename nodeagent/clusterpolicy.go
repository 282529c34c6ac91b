// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// clusterPolicies are the ClusterNetworkPolicies of the API. The server installs the custom resource; one that does not serve it
// (an older server, or somebody deleted the definition and every policy with it) has no policies.
type clusterPolicies struct {
	cache.SharedIndexInformer
	api *optional
}

func newClusterPolicies(cfg *rest.Config) (*clusterPolicies, error) {
	scheme := apiruntime.NewScheme()
	if err := policyv1alpha2.Install(scheme); err != nil {
		return nil, fmt.Errorf("register cluster network policies: %w", err)
	}
	metav1.AddToGroupVersion(scheme, metav1.Unversioned)
	rc := rest.CopyConfig(cfg)
	rc.GroupVersion = &schema.GroupVersion{Group: policyv1alpha2.GroupName, Version: policyv1alpha2.GroupVersion.Version}
	rc.APIPath = "/apis"
	rc.ContentType, rc.AcceptContentTypes = apiruntime.ContentTypeJSON, "" // custom resources know no protobuf
	rc.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.RESTClientFor(rc)
	if err != nil {
		return nil, fmt.Errorf("make a client of cluster network policies: %w", err)
	}
	api := &optional{cache.NewListWatchFromClient(client, "clusternetworkpolicies", metav1.NamespaceAll, fields.Everything())}
	informer := cache.NewSharedIndexInformer(api, &policyv1alpha2.ClusterNetworkPolicy{}, 0, cache.Indexers{})
	return &clusterPolicies{informer, api}, informer.SetTransform(trim)
}

// list reads from the API.
func (c *clusterPolicies) list(ctx context.Context, options metav1.ListOptions) (*policyv1alpha2.ClusterNetworkPolicyList, error) {
	list, err := c.api.ListWithContext(ctx, options)
	if err != nil {
		return nil, err
	}
	return list.(*policyv1alpha2.ClusterNetworkPolicyList), nil
}

// optional lists a resource that is not served as empty.
type optional struct{ *cache.ListWatch }

// IsWatchListSemanticsUnSupported asks for a list before the watch: a watch cannot say that there is nothing.
func (*optional) IsWatchListSemanticsUnSupported() bool { return true }

func (o *optional) List(options metav1.ListOptions) (apiruntime.Object, error) {
	return o.ListWithContext(context.Background(), options)
}

func (o *optional) ListWithContext(ctx context.Context, options metav1.ListOptions) (apiruntime.Object, error) {
	list, err := o.ListWatch.ListWithContext(ctx, options)
	if apierrors.IsNotFound(err) {
		return &policyv1alpha2.ClusterNetworkPolicyList{}, nil
	}
	return list, err
}
