// SPDX-License-Identifier: Apache-2.0

// Package token issues and checks ServiceAccount tokens: JWTs bound to a ServiceAccount and, if asked, to a pod,
// secret or node, valid for as long as those exist.
package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
)

// Ref names an object that a token is bound to.
type Ref struct {
	Name string    `json:"name"`
	UID  types.UID `json:"uid,omitempty"`
}

// Binding is what a token says beside the registered claims. Namespace and ServiceAccount are always set.
type Binding struct {
	Namespace      string `json:"namespace,omitempty"`
	ServiceAccount Ref    `json:"serviceaccount,omitempty"`
	Pod            *Ref   `json:"pod,omitempty"`
	Secret         *Ref   `json:"secret,omitempty"`
	Node           *Ref   `json:"node,omitempty"`
}

// claims is the payload of a token.
type claims struct {
	jwt.Claims
	Binding Binding `json:"kubernetes.io,omitempty"`
}

// Issuer signs tokens and publishes the key that checks them. It is safe for concurrent use.
type Issuer struct {
	url    string
	signer jose.Signer
	key    jose.JSONWebKey
	now    func() time.Time
}

// NewIssuer returns an issuer with the given URL, which is also the default audience. The key is ECDSA on P-256 or RSA.
func NewIssuer(url string, key crypto.Signer) (*Issuer, error) {
	algorithm, err := algorithmOf(key)
	if err != nil {
		return nil, err
	}
	id, err := keyID(key.Public())
	if err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{
		Algorithm: algorithm,
		Key:       jose.JSONWebKey{Key: key, KeyID: id, Algorithm: string(algorithm), Use: "sig"},
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("use the ServiceAccount key: %w", err)
	}
	return &Issuer{
		url:    url,
		signer: signer,
		key:    jose.JSONWebKey{Key: key.Public(), KeyID: id, Algorithm: string(algorithm), Use: "sig"},
		now:    time.Now,
	}, nil
}

func algorithmOf(key crypto.Signer) (jose.SignatureAlgorithm, error) {
	switch k := key.Public().(type) {
	case *ecdsa.PublicKey:
		if k.Params().BitSize == 256 {
			return jose.ES256, nil
		}
	case *rsa.PublicKey:
		return jose.RS256, nil
	}
	return "", fmt.Errorf("a %T cannot sign ServiceAccount tokens, use ECDSA P-256 or RSA", key)
}

// keyID depends on the key only, so that verifiers may cache it.
func keyID(public crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", fmt.Errorf("encode the ServiceAccount key: %w", err)
	}
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// URL identifies the issuer.
func (i *Issuer) URL() string { return i.url }

// Issue returns a token for the binding that ends at the returned time.
func (i *Issuer) Issue(b Binding, audiences []string, lifetime time.Duration) (token string, expires time.Time, err error) {
	now := i.now()
	expires = now.Add(lifetime)
	c := claims{Binding: b, Claims: jwt.Claims{
		Issuer:    i.url,
		Subject:   serviceaccount.MakeUsername(b.Namespace, b.ServiceAccount.Name),
		Audience:  audiences,
		Expiry:    jwt.NewNumericDate(expires),
		NotBefore: jwt.NewNumericDate(now),
		IssuedAt:  jwt.NewNumericDate(now),
		ID:        uuid.NewString(),
	}}
	token, err = jwt.Signed(i.signer).Claims(c).Serialize()
	if err != nil {
		return "", time.Time{}, fmt.Errorf("sign token: %w", err)
	}
	return token, expires, nil
}

// errForeign marks a token of another issuer: not ours to judge.
var errForeign = errors.New("token of another issuer")

// parse checks signature, issuer and times. A token of another issuer yields errForeign.
func (i *Issuer) parse(token string) (*claims, error) {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256, jose.RS256})
	if err != nil {
		return nil, errForeign
	}
	var unverified jwt.Claims
	if err := parsed.UnsafeClaimsWithoutVerification(&unverified); err != nil || unverified.Issuer != i.url {
		return nil, errForeign
	}
	c := &claims{}
	if err := parsed.Claims(i.key.Key, c); err != nil {
		return nil, errors.New("the token's signature is wrong")
	}
	switch err := c.ValidateWithLeeway(jwt.Expected{Time: i.now()}, 0); {
	case errors.Is(err, jwt.ErrExpired):
		return nil, errors.New("service account token has expired")
	case err != nil:
		return nil, errors.New("service account token is not valid yet")
	}
	return c, nil
}

// Discovery returns the OpenID provider metadata (OpenID Connect Discovery 1.0, section 3); jwksURL is where Keys are served.
func (i *Issuer) Discovery(jwksURL string) ([]byte, error) {
	return json.Marshal(map[string]any{
		"issuer":                                i.url,
		"jwks_uri":                              jwksURL,
		"response_types_supported":              []string{"id_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{i.key.Algorithm},
	})
}

// Keys returns the public key as a JSON Web Key Set (RFC 7517, section 5).
func (i *Issuer) Keys() ([]byte, error) {
	return json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{i.key}})
}
