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
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"skep.dev/skep/nodeagent/intent"
)

// clusterPolicies are the ClusterNetworkPolicies of the API. The server installs the custom resource; one that does not serve it
// (an older server, or somebody deleted the definition and every policy with it) has no policies.
type clusterPolicies struct {
	cache.SharedIndexInformer
	api *optional
}

func newClusterPolicies(cfg *rest.Config) (*clusterPolicies, error) {
	scheme := apiruntime.NewScheme()
	scheme.AddKnownTypeWithName(policyv1alpha2.SchemeGroupVersion.WithKind("ClusterNetworkPolicy"), &policyObject{})
	scheme.AddKnownTypeWithName(policyv1alpha2.SchemeGroupVersion.WithKind("ClusterNetworkPolicyList"), &policyObjectList{})
	metav1.AddToGroupVersion(scheme, policyv1alpha2.SchemeGroupVersion)
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
	informer := cache.NewSharedIndexInformer(api, &policyObject{}, 0, cache.Indexers{})
	return &clusterPolicies{informer, api}, informer.SetTransform(unwrap)
}

// policyObject is a ClusterNetworkPolicy as the API gives it. The server hands out what is in the store without looking at its types, and one
// object that does not have them must not take all others of a list with it, nor end a watch.
type policyObject struct {
	policyv1alpha2.ClusterNetworkPolicy
}

type policyObjectList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []policyObject `json:"items"`
}

func (p *policyObject) DeepCopyObject() apiruntime.Object {
	return &policyObject{*p.DeepCopy()}
}

func (l *policyObjectList) DeepCopyObject() apiruntime.Object {
	out := &policyObjectList{TypeMeta: l.TypeMeta, ListMeta: *l.ListMeta.DeepCopy()}
	for _, p := range l.Items {
		out.Items = append(out.Items, policyObject{*p.DeepCopy()})
	}
	return out
}

// UnmarshalJSON leaves an object that cannot be read without a spec, and says why in an annotation. Metadata can always be read: the server
// drops what of it has another type.
func (p *policyObject) UnmarshalJSON(data []byte) error {
	unreadable := json.Unmarshal(data, &p.ClusterNetworkPolicy)
	if unreadable == nil {
		delete(p.Annotations, intent.Unreadable)
		return nil
	}
	var known metav1.PartialObjectMetadata
	if err := json.Unmarshal(data, &known); err != nil {
		return err
	}
	p.ClusterNetworkPolicy = policyv1alpha2.ClusterNetworkPolicy{TypeMeta: known.TypeMeta, ObjectMeta: known.ObjectMeta}
	metav1.SetMetaDataAnnotation(&p.ObjectMeta, intent.Unreadable, unreadable.Error())
	return nil
}

// unwrap makes what is kept of a policyObject.
func unwrap(obj any) (any, error) {
	if p, ok := obj.(*policyObject); ok {
		obj = &p.ClusterNetworkPolicy
	}
	return trim(obj)
}

// list reads from the API.
func (c *clusterPolicies) list(ctx context.Context, options metav1.ListOptions) (*policyv1alpha2.ClusterNetworkPolicyList, error) {
	list, err := c.api.ListWithContext(ctx, options)
	if err != nil {
		return nil, err
	}
	objects := list.(*policyObjectList)
	out := &policyv1alpha2.ClusterNetworkPolicyList{ListMeta: objects.ListMeta}
	for _, p := range objects.Items {
		out.Items = append(out.Items, p.ClusterNetworkPolicy)
	}
	return out, nil
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
		return &policyObjectList{}, nil
	}
	return list, err
}
