// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"
	"net/url"
	"reflect"
	"slices"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metainternal "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"

	"skep.dev/skep/controlplane/kinds"
)

// groups are the API packages whose types are known to the server, served or not.
var groups = runtime.NewSchemeBuilder(
	corev1.AddToScheme, admissionregistrationv1.AddToScheme, appsv1.AddToScheme, authenticationv1.AddToScheme,
	authorizationv1.AddToScheme, autoscalingv1.AddToScheme, autoscalingv2.AddToScheme, batchv1.AddToScheme,
	certificatesv1.AddToScheme, coordinationv1.AddToScheme, discoveryv1.AddToScheme, eventsv1.AddToScheme,
	flowcontrolv1.AddToScheme, networkingv1.AddToScheme, nodev1.AddToScheme, policyv1.AddToScheme, rbacv1.AddToScheme,
	resourcev1.AddToScheme, schedulingv1.AddToScheme, storagev1.AddToScheme, storagemigrationv1.AddToScheme,
)

// types is what the server needs to know about Go types: encodings, conversions, defaults.
type types struct {
	scheme *runtime.Scheme
	codecs serializer.CodecFactory
	params runtime.ParameterCodec
}

// newTypes registers the published types, each of them also as its group's internal version.
//
// The handlers of the library decode into the internal version and store from it. With one Go type for both
// there is nothing to convert and no second tree of types; a kind with a View is the exception and brings
// its conversions.
func newTypes(list []kinds.Kind) (*types, error) {
	s := runtime.NewScheme()
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	s.AddUnversionedTypes(schema.GroupVersion{Version: "v1"}, &metav1.Status{}, &metav1.APIVersions{},
		&metav1.APIGroupList{}, &metav1.APIGroup{}, &metav1.APIResourceList{})
	if err := groups.AddToScheme(s); err != nil {
		return nil, fmt.Errorf("register API types: %w", err)
	}
	if err := metainternal.AddToScheme(s); err != nil {
		return nil, fmt.Errorf("register meta types: %w", err)
	}
	// The newer version holds everything the older one can say.
	if err := s.SetVersionPriority(autoscalingv2.SchemeGroupVersion, autoscalingv1.SchemeGroupVersion); err != nil {
		return nil, fmt.Errorf("register API types: %w", err)
	}
	if err := addViews(s, list); err != nil {
		return nil, err
	}
	addInternal(s)
	for _, k := range list {
		addDefaults(s, k)
		if err := addFieldLabels(s, k); err != nil {
			return nil, err
		}
	}
	if err := addQueryOptions(s); err != nil {
		return nil, err
	}
	return &types{scheme: s, codecs: serializer.NewCodecFactory(s), params: runtime.NewParameterCodec(s)}, nil
}

func addViews(s *runtime.Scheme, list []kinds.Kind) error {
	for _, k := range list {
		if k.View == nil {
			continue
		}
		internal := schema.GroupVersion{Group: k.GroupVersionKind.Group, Version: runtime.APIVersionInternal}
		s.AddKnownTypeWithName(internal.WithKind(k.GroupVersionKind.Kind), k.New())
		s.AddKnownTypeWithName(internal.WithKind(k.GroupVersionKind.Kind+"List"), k.NewList())
		if err := k.View.AddConversions(s); err != nil {
			return fmt.Errorf("conversions of %s: %w", k.GroupVersionKind, err)
		}
	}
	return nil
}

var metaPackage = reflect.TypeFor[metav1.ObjectMeta]().PkgPath()

// addInternal registers each type also as internal, the preferred version's where a group has several.
func addInternal(s *runtime.Scheme) {
	for _, gv := range s.PrioritizedVersionsAllGroups() {
		internal := schema.GroupVersion{Group: gv.Group, Version: runtime.APIVersionInternal}
		for kind, t := range s.KnownTypes(gv) {
			if t.PkgPath() == metaPackage || s.Recognizes(internal.WithKind(kind)) {
				continue
			}
			s.AddKnownTypeWithName(internal.WithKind(kind), reflect.New(t).Interface().(runtime.Object))
		}
	}
}

// addDefaults makes every decode of the kind, alone or in a list, fill what is absent.
func addDefaults(s *runtime.Scheme, k kinds.Kind) {
	if k.Default == nil || k.View != nil {
		return
	}
	s.AddTypeDefaultingFunc(k.New(), func(o any) { k.Default(o.(kinds.Object)) })
	s.AddTypeDefaultingFunc(k.NewList(), func(l any) {
		// The only error is a type that is no list, which NewList rules out.
		_ = meta.EachListItem(l.(runtime.Object), func(o runtime.Object) error {
			k.Default(o.(kinds.Object))
			return nil
		})
	})
}

// addFieldLabels refuses field selectors that the kind cannot answer.
func addFieldLabels(s *runtime.Scheme, k kinds.Kind) error {
	if len(k.FieldNames) == 0 {
		return nil
	}
	known := slices.Concat([]string{"metadata.name"}, k.FieldNames)
	if k.Namespaced {
		known = append(known, "metadata.namespace")
	}
	return s.AddFieldLabelConversionFunc(k.GroupVersionKind, func(label, value string) (string, string, error) {
		if !slices.Contains(known, label) {
			return "", "", fmt.Errorf("field label not supported: %s", label)
		}
		return label, value, nil
	})
}

// addQueryOptions lets the options of pod subresources be read from a URL's query.
func addQueryOptions(s *runtime.Scheme) error {
	for _, o := range []any{&corev1.PodLogOptions{}, &corev1.PodExecOptions{}, &corev1.PodAttachOptions{},
		&corev1.PodPortForwardOptions{}, &corev1.PodProxyOptions{}, &corev1.NodeProxyOptions{}, &corev1.ServiceProxyOptions{}} {
		err := s.AddConversionFunc((*url.Values)(nil), o, func(a, b any, _ conversion.Scope) error {
			return decodeQuery(*a.(*url.Values), b)
		})
		if err != nil {
			return fmt.Errorf("register query options: %w", err)
		}
	}
	return nil
}
