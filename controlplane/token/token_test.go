// SPDX-License-Identifier: Apache-2.0

package token

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
)

const issuerURL = "https://kubernetes.default.svc.cluster.local"

// world holds the objects that exist.
type world struct {
	account, pod types.UID
	deleted      *metav1.Time
}

var errGone = errors.New("not found")

func (w world) ServiceAccount(context.Context, string, string) (*corev1.ServiceAccount, error) {
	if w.account == "" {
		return nil, errGone
	}
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{UID: w.account}}, nil
}

func (w world) Pod(context.Context, string, string) (*corev1.Pod, error) {
	if w.pod == "" {
		return nil, errGone
	}
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: w.pod, DeletionTimestamp: w.deleted}}, nil
}

func (w world) Secret(context.Context, string, string) (*corev1.Secret, error) { return nil, errGone }
func (w world) Node(context.Context, string) (*corev1.Node, error)             { return nil, errGone }

func issuer(t *testing.T, url string) *Issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i, err := NewIssuer(url, key)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestTokensHoldWhileTheirObjectsExist(t *testing.T) {
	i := issuer(t, issuerURL)
	bound := Binding{Namespace: "ns", ServiceAccount: Ref{"sa", "u1"}, Pod: &Ref{"p", "u2"}}
	past := metav1.NewTime(time.Now().Add(-2 * time.Minute))
	recent := metav1.NewTime(time.Now().Add(-10 * time.Second))
	for _, c := range []struct {
		name     string
		world    world
		audience string
		lifetime time.Duration
		want     string // part of the error; empty: accepted
	}{
		{"account and pod exist", world{account: "u1", pod: "u2"}, issuerURL, time.Hour, ""},
		{"account gone", world{pod: "u2"}, issuerURL, time.Hour, "not found"},
		{"account made anew", world{account: "other", pod: "u2"}, issuerURL, time.Hour, "is gone"},
		{"pod gone", world{account: "u1"}, issuerURL, time.Hour, "not found"},
		{"pod made anew", world{account: "u1", pod: "other"}, issuerURL, time.Hour, "is gone"},
		{"pod deleted long ago", world{account: "u1", pod: "u2", deleted: &past}, issuerURL, time.Hour, "has been deleted"},
		{"pod just deleted", world{account: "u1", pod: "u2", deleted: &recent}, issuerURL, time.Hour, ""},
		{"for somebody else", world{account: "u1", pod: "u2"}, "vault", time.Hour, "audiences"},
		{"expired", world{account: "u1", pod: "u2"}, issuerURL, -time.Minute, "expired"},
	} {
		token, _, err := i.Issue(bound, []string{c.audience}, c.lifetime)
		if err != nil {
			t.Fatal(err)
		}
		response, ok, err := NewAuthenticator(i, c.world, i.Audiences()).AuthenticateToken(t.Context(), token)
		switch {
		case c.want == "" && (err != nil || !ok):
			t.Errorf("%s: refused: %v", c.name, err)
		case c.want == "" && response.User.GetName() != "system:serviceaccount:ns:sa":
			t.Errorf("%s: user is %q", c.name, response.User.GetName())
		case c.want != "" && (ok || err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got %v, %v, want %q", c.name, ok, err, c.want)
		}
	}
}

func TestForeignAndForgedTokens(t *testing.T) {
	ours, foreign, forger := issuer(t, issuerURL), issuer(t, "https://elsewhere"), issuer(t, issuerURL)
	b := Binding{Namespace: "ns", ServiceAccount: Ref{"sa", "u1"}}
	auth := NewAuthenticator(ours, world{account: "u1"}, ours.Audiences())
	for _, c := range []struct {
		name    string
		from    *Issuer
		wantErr bool
	}{{"of another issuer", foreign, false}, {"with another key", forger, true}} {
		token, _, err := c.from.Issue(b, []string{issuerURL}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		_, ok, err := auth.AuthenticateToken(t.Context(), token)
		if ok || (err != nil) != c.wantErr {
			t.Errorf("%s: got %v, %v", c.name, ok, err)
		}
	}
	if _, ok, err := auth.AuthenticateToken(t.Context(), "no-jwt"); ok || err != nil {
		t.Errorf("a string that is no JWT: %v, %v", ok, err)
	}
}

func TestTheRequestedAudienceCounts(t *testing.T) {
	i := issuer(t, issuerURL)
	token, _, err := i.Issue(Binding{Namespace: "ns", ServiceAccount: Ref{"sa", "u1"}}, []string{"vault"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	ctx := authenticator.WithAudiences(t.Context(), authenticator.Audiences{"vault"})
	response, ok, err := NewAuthenticator(i, world{account: "u1"}, i.Audiences()).AuthenticateToken(ctx, token)
	if !ok || err != nil || len(response.Audiences) != 1 || response.Audiences[0] != "vault" {
		t.Errorf("got %v, %v, %v", response, ok, err)
	}
}

func TestPublishedKeysVerifyTokens(t *testing.T) {
	i := issuer(t, issuerURL)
	token, _, err := i.Issue(Binding{Namespace: "ns", ServiceAccount: Ref{"sa", "u1"}}, []string{"a"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := i.Keys()
	if err != nil {
		t.Fatal(err)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(raw, &set); err != nil {
		t.Fatal(err)
	}
	signed, err := jose.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	keys := set.Key(signed.Signatures[0].Header.KeyID)
	if len(keys) != 1 || !keys[0].IsPublic() {
		t.Fatalf("%d keys for the token's key id", len(keys))
	}
	if _, err := signed.Verify(keys[0]); err != nil {
		t.Error(err)
	}
}
