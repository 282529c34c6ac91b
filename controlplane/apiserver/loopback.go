// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"crypto/rand"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
)

// loopbackHost is a name for URLs that never leave the process.
const loopbackHost = "https://in-process.skep"

// loopbackConfig is the identity of the server towards itself: system:apiserver in system:masters, by a random
// token that lives as long as the process.
func loopbackConfig(transport *inProcess) *rest.Config {
	return &rest.Config{
		Host:        loopbackHost,
		BearerToken: rand.Text(),
		Transport:   transport,
		QPS:         -1, // fairness in the server is the only limit
		UserAgent:   "skep",
	}
}

// Loopback returns a client configuration that calls the server inside the process, with watches, as
// system:apiserver (group system:masters), in protobuf where a type has it. It works once Run has begun;
// every call returns a copy.
func (s *Server) Loopback() *rest.Config {
	c := rest.CopyConfig(s.loopback)
	c.ContentType = runtime.ContentTypeProtobuf
	c.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	return c
}
