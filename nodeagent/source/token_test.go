// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// issuer is an API that answers requests for tokens, numbered, with the life that was asked for.
type issuer struct {
	now    time.Time
	issued int
	away   bool
	last   *authv1.TokenRequest
}

func (i *issuer) objects() *Objects {
	client := fake.NewClientset()
	client.PrependReactor("create", "serviceaccounts", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if i.away {
			return true, nil, errors.New("away")
		}
		i.issued++
		i.last = action.(clienttesting.CreateAction).GetObject().(*authv1.TokenRequest)
		life := time.Duration(*i.last.Spec.ExpirationSeconds) * time.Second
		return true, &authv1.TokenRequest{Status: authv1.TokenRequestStatus{
			Token: fmt.Sprintf("token-%d", i.issued), ExpirationTimestamp: metav1.NewTime(i.now.Add(life)),
		}}, nil
	})
	o := New(client)
	o.now = func() time.Time { return i.now }
	return o
}

func podOf(account string) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", UID: "u-1"}, Spec: v1.PodSpec{ServiceAccountName: account}}
}

// TestTokensAreRotated walks through a token's life: the same one while it is fresh, a new one after four fifths of its life or a
// day, and the old one for as long as it holds when the API is away.
func TestTokensAreRotated(t *testing.T) {
	const hour, week = 3600, 7 * 24 * 3600
	for _, c := range []struct {
		name    string
		seconds int64
		after   time.Duration
		away    bool
		want    string // empty: an error
		refresh time.Duration
	}{
		{"fresh", hour, 47 * time.Minute, false, "token-1", 48 * time.Minute},
		{"after four fifths", hour, 48 * time.Minute, false, "token-2", 96 * time.Minute},
		{"a long life is cut at a day", week, 24*time.Hour - time.Second, false, "token-1", 24 * time.Hour},
		{"after a day", week, 24 * time.Hour, false, "token-2", 48 * time.Hour},
		{"the API is away and the token still holds", hour, 50 * time.Minute, true, "token-1", 51 * time.Minute},
		{"the API is away and the token has ended", hour, time.Hour, true, "", 0},
	} {
		begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		api := &issuer{now: begin}
		objects, pod := api.objects(), podOf("account")
		if _, err := objects.Token(t.Context(), pod, "", c.seconds); err != nil {
			t.Fatal(err)
		}
		api.now, api.away = begin.Add(c.after), c.away
		got, err := objects.Token(t.Context(), pod, "", c.seconds)
		if (err == nil) != (c.want != "") || got.Token != c.want {
			t.Errorf("%s: %q, %v", c.name, got.Token, err)
		}
		if c.want != "" && !got.Refresh.Equal(begin.Add(c.refresh)) {
			t.Errorf("%s: to be fetched again %v after the beginning, not %v", c.name, got.Refresh.Sub(begin), c.refresh)
		}
	}
}

// TestTheAPIComesBack fetches a new token as soon as there is one, although the old one was handed out meanwhile.
func TestTheAPIComesBack(t *testing.T) {
	api := &issuer{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	objects, pod := api.objects(), podOf("account")
	token := func() string {
		t.Helper()
		got, err := objects.Token(t.Context(), pod, "", 3600)
		if err != nil {
			t.Fatal(err)
		}
		return got.Token
	}
	token()
	api.now, api.away = api.now.Add(50*time.Minute), true
	if got := token(); got != "token-1" {
		t.Errorf("away: %s", got)
	}
	api.now, api.away = api.now.Add(time.Minute), false
	if got := token(); got != "token-2" {
		t.Errorf("back: %s", got)
	}
}

// TestTokensAreApart shows that what makes a token another one is asked for anew, and that nothing is kept for a pod that is gone.
func TestTokensAreApart(t *testing.T) {
	api := &issuer{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	objects := api.objects()
	ask := func(pod *v1.Pod, audience string, seconds int64) string {
		t.Helper()
		got, err := objects.Token(context.Background(), pod, audience, seconds)
		if err != nil {
			t.Fatal(err)
		}
		return got.Token
	}
	pod := podOf("account")
	other := pod.DeepCopy()
	other.UID = "u-2"
	seen := map[string]bool{}
	for _, token := range []string{ask(pod, "", 3600), ask(pod, "vault", 3600), ask(pod, "", 7200), ask(podOf("second"), "", 3600), ask(other, "", 3600)} {
		if seen[token] {
			t.Errorf("%s was given twice", token)
		}
		seen[token] = true
	}
	if ref := api.last.Spec.BoundObjectRef; ref == nil || ref.Kind != "Pod" || ref.Name != "p" || ref.UID != "u-2" {
		t.Errorf("bound to %v", ref)
	}
	ask(pod, "vault", 3600)
	if api.issued != 5 {
		t.Errorf("%d were issued, not 5", api.issued)
	}
	objects.Unwatch("u-1")
	ask(other, "", 3600)
	if ask(pod, "vault", 3600); api.issued != 6 {
		t.Errorf("%d were issued: one for the pod that was forgotten is 6", api.issued)
	}
}
