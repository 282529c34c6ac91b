// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

// review is a virtual resource: what is created is a question, what comes back is the answer, nothing is stored.
type review struct {
	singular   string
	namespaced bool
	object     func() runtime.Object
	answer     func(context.Context, runtime.Object) error
}

var (
	_ rest.Creater              = (*review)(nil)
	_ rest.Scoper               = (*review)(nil)
	_ rest.SingularNameProvider = (*review)(nil)
)

func (r *review) New() runtime.Object { return r.object() }

// Destroy has nothing to free.
func (r *review) Destroy() {}

func (r *review) NamespaceScoped() bool { return r.namespaced }

func (r *review) GetSingularName() string { return r.singular }

func (r *review) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	return obj, r.answer(ctx, obj)
}

// addReviews serves the questions of authentication.k8s.io and authorization.k8s.io.
func (s *Server) addReviews(r *registrar, authn authenticator.Request, authz *authorizationReviews) {
	gv := authenticationv1.SchemeGroupVersion
	r.addVirtual(gv, "tokenreviews", &review{
		singular: "tokenreview",
		object:   func() runtime.Object { return &authenticationv1.TokenReview{} },
		answer: func(ctx context.Context, obj runtime.Object) error {
			return reviewToken(ctx, authn, s.issuer.Audiences(), obj.(*authenticationv1.TokenReview))
		},
	})
	r.addVirtual(gv, "selfsubjectreviews", &review{
		singular: "selfsubjectreview",
		object:   func() runtime.Object { return &authenticationv1.SelfSubjectReview{} },
		answer: func(ctx context.Context, obj runtime.Object) error {
			return reviewSelf(ctx, obj.(*authenticationv1.SelfSubjectReview))
		},
	})
	authz.add(r)
}

func reviewToken(ctx context.Context, authn authenticator.Request, own authenticator.Audiences, t *authenticationv1.TokenReview) error {
	if t.Spec.Token == "" {
		return apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	// The authenticators of the server are asked by a request that carries only the token in question.
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, loopbackHost, http.NoBody)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	req.Header.Set("Authorization", "Bearer "+t.Spec.Token)
	wanted := authenticator.Audiences(t.Spec.Audiences)
	if len(wanted) == 0 {
		wanted = own
	}
	response, ok, err := authn.AuthenticateRequest(req.WithContext(authenticator.WithAudiences(ctx, wanted)))
	t.Status = authenticationv1.TokenReviewStatus{Authenticated: ok}
	if err != nil {
		t.Status.Error = err.Error()
	}
	if !ok {
		return nil
	}
	if len(t.Spec.Audiences) > 0 && len(response.Audiences) == 0 {
		response.Audiences = wanted.Intersect(own)
		if len(response.Audiences) == 0 {
			t.Status = authenticationv1.TokenReviewStatus{}
			return nil
		}
	}
	t.Status.User = userInfo(response.User)
	t.Status.Audiences = response.Audiences
	return nil
}

func reviewSelf(ctx context.Context, r *authenticationv1.SelfSubjectReview) error {
	u, ok := genericrequest.UserFrom(ctx)
	if !ok {
		return apierrors.NewBadRequest("no user present on request")
	}
	if r.CreationTimestamp.IsZero() {
		r.CreationTimestamp = metav1.Now()
	}
	r.Status.UserInfo = userInfo(u)
	return nil
}

func userInfo(u user.Info) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for k, v := range u.GetExtra() {
		if info.Extra == nil {
			info.Extra = map[string]authenticationv1.ExtraValue{}
		}
		info.Extra[k] = v
	}
	return info
}
