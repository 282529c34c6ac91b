// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 clients still read and write Endpoints, so they are served.

package core

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestEndpointsLines(t *testing.T) {
	e := &corev1.Endpoints{Subsets: []corev1.EndpointSubset{{
		Addresses: []corev1.EndpointAddress{{IP: "10.0.0.1"}, {IP: "10.0.0.2"}, {IP: "fd00::1"}, {IP: "10.0.0.4"}},
		Ports:     []corev1.EndpointPort{{Port: 80}},
	}}}
	if got, want := endpointsLine(e.Subsets), "10.0.0.1:80,10.0.0.2:80,[fd00::1]:80 + 1 more..."; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := endpointsLine(nil); got != "<none>" {
		t.Errorf("no endpoints: %q", got)
	}
}
