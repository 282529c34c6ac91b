// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/token/union"
)

// tokenAuthenticator checks bearer tokens.
func (s *Server) tokenAuthenticator() (authenticator.Token, authenticator.Audiences) {
	return union.New(), nil
}
