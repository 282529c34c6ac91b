// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/token/cache"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"skep.dev/skep/controlplane/token"
)

const (
	// tokenCacheTTL is how long a check of a token is believed, and so how late a deleted pod's token ends.
	tokenCacheTTL = 10 * time.Second

	defaultTokenSeconds = 3600
	minTokenSeconds     = 600
	maxTokenSeconds     = 1 << 32
)

var serviceAccounts = schema.GroupResource{Resource: "serviceaccounts"}

// newIssuer names the issuer after the API's own address inside the cluster, where its keys are served.
func (s *Server) newIssuer() (*token.Issuer, error) {
	return token.NewIssuer("https://kubernetes.default.svc."+s.config.ClusterDomain, s.config.Authority.SigningKey())
}

// tokenAuthenticator checks bearer tokens. The objects that they are bound to are read from the stores, which
// exist by the time of the first request.
func (s *Server) tokenAuthenticator() authenticator.Token {
	check := token.NewAuthenticator(s.issuer, boundObjects{s}, s.issuer.Audiences())
	return cache.New(check, false, tokenCacheTTL, tokenCacheTTL)
}

// boundObjects reads single objects from the stores.
type boundObjects struct{ server *Server }

func read[T runtime.Object](ctx context.Context, o boundObjects, resource, namespace, name string) (T, error) {
	var none T
	gr := schema.GroupResource{Resource: resource}
	if o.server.registrar == nil || o.server.registrar.resources[gr] == nil {
		return none, fmt.Errorf("%s are not served", gr)
	}
	// Errors name the resource that the request is about; make it this one.
	ctx = genericrequest.WithRequestInfo(genericrequest.WithNamespace(ctx, namespace), &genericrequest.RequestInfo{Resource: resource})
	obj, err := o.server.registrar.resources[gr].Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return none, err
	}
	return obj.(T), nil
}

func (o boundObjects) ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	return read[*corev1.ServiceAccount](ctx, o, "serviceaccounts", namespace, name)
}

func (o boundObjects) Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	return read[*corev1.Pod](ctx, o, "pods", namespace, name)
}

func (o boundObjects) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return read[*corev1.Secret](ctx, o, "secrets", namespace, name)
}

func (o boundObjects) Node(ctx context.Context, name string) (*corev1.Node, error) {
	return read[*corev1.Node](ctx, o, "nodes", metav1.NamespaceNone, name)
}

// tokenRequests serves serviceaccounts/token.
type tokenRequests struct {
	issuer  *token.Issuer
	objects boundObjects
}

var (
	_ rest.NamedCreater             = (*tokenRequests)(nil)
	_ rest.GroupVersionKindProvider = (*tokenRequests)(nil)
)

func serveTokens(r *registrar, res *resource) error {
	r.add(res, "token", &tokenRequests{issuer: r.server.issuer, objects: boundObjects{r.server}})
	return nil
}

func (t *tokenRequests) New() runtime.Object { return &authenticationv1.TokenRequest{} }

// Destroy has nothing to free.
func (t *tokenRequests) Destroy() {}

func (t *tokenRequests) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")
}

func (t *tokenRequests) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	req := obj.(*authenticationv1.TokenRequest)
	namespace := genericrequest.NamespaceValue(ctx)
	account, err := t.objects.ServiceAccount(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	if req.Name != "" && req.Name != name {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", req.Name, name))
	}
	req.Name, req.Namespace = name, namespace
	if req.CreationTimestamp.IsZero() {
		req.CreationTimestamp = metav1.Now()
	}
	if errs := completeTokenRequest(req, t.issuer.Audiences()); len(errs) > 0 {
		return nil, apierrors.NewInvalid(authenticationv1.SchemeGroupVersion.WithKind("TokenRequest").GroupKind(), "", errs)
	}
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	binding, err := t.bind(ctx, account, req.Spec.BoundObjectRef)
	if err != nil {
		return nil, err
	}
	lifetime := time.Duration(*req.Spec.ExpirationSeconds) * time.Second
	signed, expires, err := t.issuer.Issue(binding, req.Spec.Audiences, lifetime)
	if err != nil {
		return nil, err
	}
	req.Status = authenticationv1.TokenRequestStatus{Token: signed, ExpirationTimestamp: metav1.NewTime(expires)}
	return req, nil
}

func completeTokenRequest(req *authenticationv1.TokenRequest, audiences authenticator.Audiences) field.ErrorList {
	if len(req.Spec.Audiences) == 0 {
		req.Spec.Audiences = audiences
	}
	if req.Spec.ExpirationSeconds == nil {
		seconds := int64(defaultTokenSeconds)
		req.Spec.ExpirationSeconds = &seconds
	}
	path := field.NewPath("spec", "expirationSeconds")
	switch seconds := *req.Spec.ExpirationSeconds; {
	case seconds < minTokenSeconds:
		return field.ErrorList{field.Invalid(path, seconds, "may not specify a duration less than 10 minutes")}
	case seconds > maxTokenSeconds:
		return field.ErrorList{field.Invalid(path, seconds, "may not specify a duration larger than 2^32 seconds")}
	}
	return nil
}

// bind looks the bound object up, so that a token names an object that exists, by its UID.
func (t *tokenRequests) bind(ctx context.Context, account *corev1.ServiceAccount, ref *authenticationv1.BoundObjectReference) (token.Binding, error) {
	b := token.Binding{Namespace: account.Namespace, ServiceAccount: token.Ref{Name: account.Name, UID: account.UID}}
	if ref == nil {
		return b, nil
	}
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	var bound metav1.Object
	switch gvk {
	case corev1.SchemeGroupVersion.WithKind("Pod"):
		pod, err := t.objects.Pod(ctx, account.Namespace, ref.Name)
		if err != nil {
			return b, err
		}
		if pod.Spec.ServiceAccountName != account.Name {
			return b, apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", account.Name))
		}
		bound, b.Pod = pod, &token.Ref{Name: pod.Name, UID: pod.UID}
		b.Node = t.nodeOf(ctx, pod)
	case corev1.SchemeGroupVersion.WithKind("Secret"):
		secret, err := t.objects.Secret(ctx, account.Namespace, ref.Name)
		if err != nil {
			return b, err
		}
		bound, b.Secret = secret, &token.Ref{Name: secret.Name, UID: secret.UID}
	case corev1.SchemeGroupVersion.WithKind("Node"):
		node, err := t.objects.Node(ctx, ref.Name)
		if err != nil {
			return b, err
		}
		bound, b.Node = node, &token.Ref{Name: node.Name, UID: node.UID}
	default:
		return b, apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", gvk))
	}
	if ref.UID != "" && ref.UID != bound.GetUID() {
		return b, apierrors.NewConflict(schema.GroupResource{Group: gvk.Group, Resource: gvk.Kind}, ref.Name,
			fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	return b, nil
}

// nodeOf tells where the pod runs; a node that is gone is left out, the pod's own binding decides then.
func (t *tokenRequests) nodeOf(ctx context.Context, pod *corev1.Pod) *token.Ref {
	if pod.Spec.NodeName == "" {
		return nil
	}
	ref := &token.Ref{Name: pod.Spec.NodeName}
	if node, err := t.objects.Node(ctx, pod.Spec.NodeName); err == nil {
		ref.UID = node.UID
	}
	return ref
}

const jwksPath = "/openid/v1/jwks"

// serveDiscovery publishes issuer and keys for verifiers outside the API (OpenID Connect Discovery).
func (s *Server) serveDiscovery(server *genericapiserver.GenericAPIServer) error {
	metadata, err := s.issuer.Discovery(s.issuer.URL() + jwksPath)
	if err != nil {
		return fmt.Errorf("describe the token issuer: %w", err)
	}
	keys, err := s.issuer.Keys()
	if err != nil {
		return fmt.Errorf("publish the token key: %w", err)
	}
	server.Handler.NonGoRestfulMux.Handle("/.well-known/openid-configuration", document("application/json", metadata))
	server.Handler.NonGoRestfulMux.Handle(jwksPath, document("application/jwk-set+json", keys))
	return nil
}

func document(contentType string, body []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "public, max-age=3600")
		// A client that went away is nobody's problem here.
		_, _ = w.Write(body)
	})
}
