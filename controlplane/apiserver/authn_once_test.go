// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// TestACertificateIsVerifiedOnce counts how often the certificate of each request is really verified.
func TestACertificateIsVerifiedOnce(t *testing.T) {
	asked := 0
	a := verifiedOnce(authenticator.RequestFunc(func(r *http.Request) (*authenticator.Response, bool, error) {
		asked++
		if r.TLS == nil {
			return nil, false, nil
		}
		if name := string(r.TLS.PeerCertificates[0].Raw); name != "stranger" {
			return &authenticator.Response{User: &user.DefaultInfo{Name: name}}, true, nil
		}
		return nil, false, errors.New("signed by an unknown authority")
	}))
	later, now := time.Now().Add(time.Hour), time.Now()
	for _, c := range []struct {
		name, certificate string
		notAfter          time.Time
		verified          int
		user              string
	}{
		{"no certificate", "", later, 1, ""},
		{"a new one", "alice", later, 1, "alice"},
		{"the same again", "alice", later, 0, "alice"},
		{"another one", "bob", later, 1, "bob"},
		{"the first is still known", "alice", later, 0, "alice"},
		{"one that is refused", "stranger", later, 1, ""},
		{"is not remembered", "stranger", later, 1, ""},
		{"one that is about to end", "carol", now, 1, "carol"},
		{"is verified again", "carol", now, 1, "carol"},
	} {
		asked = 0
		r := &http.Request{}
		if c.certificate != "" {
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Raw: []byte(c.certificate), NotAfter: c.notAfter}}}
		}
		response, ok, _ := a.AuthenticateRequest(r)
		got := ""
		if ok {
			got = response.User.GetName()
		}
		if asked != c.verified || got != c.user {
			t.Errorf("%s: verified %d times, user %q; want %d, %q", c.name, asked, got, c.verified, c.user)
		}
	}
}

func TestOnlyTheFrontProxysHeaderAsksForIt(t *testing.T) {
	asked := false
	a := withHeader("X-Remote-User", authenticator.RequestFunc(func(*http.Request) (*authenticator.Response, bool, error) {
		asked = true
		return nil, false, nil
	}))
	r := &http.Request{Header: http.Header{}}
	if _, ok, err := a.AuthenticateRequest(r); ok || err != nil || asked {
		t.Errorf("without the header: ok %v, err %v, asked %v", ok, err, asked)
	}
	r.Header.Set("x-remote-user", "alice")
	if _, _, err := a.AuthenticateRequest(r); err != nil || !asked {
		t.Errorf("with the header: err %v, asked %v", err, asked)
	}
}
