// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"crypto/sha256"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apiserver/pkg/authentication/authenticator"
)

const (
	// rememberedCertificates is how many clients may be at work before certificates are verified again.
	rememberedCertificates = 4096
	// rememberedFor bounds how long a certificate is taken to be good, in case its issuer's ends first.
	rememberedFor = time.Minute
)

// withHeader asks next only about requests that carry the header; next would have no opinion about others, but verify
// their certificate first.
func withHeader(name string, next authenticator.Request) authenticator.Request {
	return authenticator.RequestFunc(func(r *http.Request) (*authenticator.Response, bool, error) {
		if r.Header.Get(name) == "" {
			return nil, false, nil
		}
		return next.AuthenticateRequest(r)
	})
}

// verifiedOnce remembers for which certificates next vouched, as verifying the signature costs more than the rest of a
// small request. That the client holds the key is checked by each TLS handshake, and the cluster's CA neither changes
// nor revokes while the process runs. Answers are shared and must not be changed.
func verifiedOnce(next authenticator.Request) authenticator.Request {
	known := cache.NewLRUExpireCache(rememberedCertificates)
	return authenticator.RequestFunc(func(r *http.Request) (*authenticator.Response, bool, error) {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			return next.AuthenticateRequest(r)
		}
		leaf := r.TLS.PeerCertificates[0]
		key := sha256.Sum256(leaf.Raw)
		if response, ok := known.Get(key); ok {
			return response.(*authenticator.Response), true, nil
		}
		response, ok, err := next.AuthenticateRequest(r)
		if ok && err == nil {
			known.Add(key, response, min(rememberedFor, time.Until(leaf.NotAfter)))
		}
		return response, ok, err
	})
}
