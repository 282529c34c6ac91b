// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/http"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// nobody knows the server's CA and has no credentials.
func nobody() *rest.Config { return rest.AnonymousClientConfig(shared.config) }

func withToken(token string) *rest.Config {
	c := nobody()
	c.BearerToken = token
	return c
}

func TestNobodyMayOnlyAskForHealthAndVersion(t *testing.T) {
	for _, c := range []struct {
		path string
		want int
	}{
		{"/healthz", 200}, {"/livez", 200}, {"/readyz", 200}, {"/version", 200},
		{"/api", 401}, {"/apis", 401}, {"/api/v1/namespaces", 401}, {"/openapi/v2", 401}, {"/metrics", 401}, {"/debug/pprof/", 401},
	} {
		if code, _ := call(t, nobody(), http.MethodGet, c.path, nil, nil); code != c.want {
			t.Errorf("%s: %d, want %d", c.path, code, c.want)
		}
	}
	if code, _ := call(t, withToken("bad"), http.MethodGet, "/version", nil, nil); code != http.StatusUnauthorized {
		t.Errorf("a bad token is taken for nobody: %d", code)
	}
}

func requestToken(t *testing.T, ns, account string, request authenticationv1.TokenRequestSpec) (string, error) {
	t.Helper()
	response, err := shared.client.CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), account,
		&authenticationv1.TokenRequest{Spec: request}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return response.Status.Token, nil
}

func newAccount(t *testing.T, ns, name string) {
	t.Helper()
	_, err := shared.client.CoreV1().ServiceAccounts(ns).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func TestServiceAccountTokens(t *testing.T) {
	ns := namespace(t)
	newAccount(t, ns, "robot")
	token, err := requestToken(t, ns, "robot", authenticationv1.TokenRequestSpec{})
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(withToken(token))
	if err != nil {
		t.Fatal(err)
	}
	// Anybody may ask who he is once RBAC says so; the review by an administrator says the same.
	review, err := shared.client.AuthenticationV1().TokenReviews().Create(t.Context(),
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil || !review.Status.Authenticated || review.Status.User.Username != "system:serviceaccount:"+ns+":robot" {
		t.Fatalf("review: %+v, %v", review.Status, err)
	}
	_, err = client.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
	want := `configmaps is forbidden: User "system:serviceaccount:` + ns + `:robot" cannot list resource "configmaps" in API group "" in the namespace "` + ns + `"`
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("without rights: %v", err)
	}
	grant(t, ns, "robot")
	eventually(t, "the right to list", func() bool {
		_, err := client.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
		return err == nil
	})
	access, err := shared.client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{User: "system:serviceaccount:" + ns + ":robot",
			ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: ns, Verb: "list", Resource: "configmaps"}},
	}, metav1.CreateOptions{})
	if err != nil || !access.Status.Allowed {
		t.Errorf("access review: %+v, %v", access.Status, err)
	}
}

func grant(t *testing.T, ns, account string) {
	t.Helper()
	_, err := shared.client.RbacV1().Roles(ns).Create(t.Context(), &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "reader"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"list"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = shared.client.RbacV1().RoleBindings(ns).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "reader"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "reader"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: account, Namespace: ns}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTokensEndWithWhatTheyAreBoundTo(t *testing.T) {
	ns := namespace(t)
	newAccount(t, ns, "robot")
	pods := shared.client.CoreV1().Pods(ns)
	pod, err := pods.Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: corev1.PodSpec{ServiceAccountName: "robot", SchedulerName: "nobody", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	bound := authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "p", UID: pod.UID}}
	token, err := requestToken(t, ns, "robot", bound)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := requestToken(t, ns, "default", bound); !apierrors.IsBadRequest(err) {
		t.Errorf("bound to the pod of another account: %v", err)
	}
	short := int64(60)
	if _, err := requestToken(t, ns, "robot", authenticationv1.TokenRequestSpec{ExpirationSeconds: &short}); !apierrors.IsInvalid(err) {
		t.Errorf("a token for a minute: %v", err)
	}
	if err := pods.Delete(t.Context(), "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	// Not used before, so nothing is cached about it.
	if code, body := call(t, withToken(token), http.MethodGet, "/version", nil, nil); code != http.StatusUnauthorized {
		t.Errorf("the token of a pod that is gone: %d: %s", code, body)
	}
}

func TestTokenIssuerIsDiscoverable(t *testing.T) {
	var provider struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	get(t, "/.well-known/openid-configuration", &provider)
	var keys struct {
		Keys []struct {
			ID string `json:"kid"`
		} `json:"keys"`
	}
	get(t, "/openid/v1/jwks", &keys)
	if !strings.HasPrefix(provider.JWKSURI, provider.Issuer) || len(keys.Keys) != 1 || keys.Keys[0].ID == "" {
		t.Errorf("%+v, %+v", provider, keys)
	}
}

func TestPodsGetTheirAccount(t *testing.T) {
	ns := namespace(t)
	pods := shared.client.CoreV1().Pods(ns)
	// The default account may not exist yet when the namespace is this new.
	pod, err := pods.Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: corev1.PodSpec{SchedulerName: "nobody", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if pod.Spec.ServiceAccountName != "default" || len(pod.Spec.Volumes) != 1 || pod.Spec.Volumes[0].Projected == nil || len(pod.Spec.Tolerations) != 2 {
		t.Errorf("got %+v", pod.Spec)
	}
	_, err = pods.Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "q"},
		Spec: corev1.PodSpec{ServiceAccountName: "none", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "error looking up service account "+ns+"/none") {
		t.Errorf("an account that does not exist: %v", err)
	}
}
