// SPDX-License-Identifier: Apache-2.0

package discovery

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"skep.dev/skep/controlplane/kinds/kindtest"
)

func valid() *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}, NodeName: ptr.To("n1")}, {Addresses: []string{"10.0.0.2"}}},
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To[int32](80)}, {Port: ptr.To[int32](81)}},
	}
}

func TestSlicesAreChecked(t *testing.T) {
	type s = *discoveryv1.EndpointSlice
	type c struct {
		Name   string
		Change func(s)
		Want   []string
	}
	kindtest.Create(t, EndpointSlice(), valid, []c{
		{"a valid one", func(s) {}, nil},
		{"no address type", func(x s) { x.AddressType = "" }, []string{"addressType: Required value"}},
		{"an endpoint without addresses", func(x s) { x.Endpoints[0].Addresses = nil }, []string{"endpoints[0].addresses: Required value: must contain at least 1 address"}},
		{"an address that is none", func(x s) { x.Endpoints[0].Addresses[0] = "10.0.0" }, []string{`endpoints[0].addresses[0]: Invalid value: "10.0.0": must be a valid IP address`}},
		{"an address of the other family", func(x s) { x.Endpoints[0].Addresses[0] = "fd00::1" }, []string{`endpoints[0].addresses[0]: Invalid value: "fd00::1": must be an IPv4 address`}},
		{"loopback", func(x s) { x.Endpoints[0].Addresses[0] = "127.0.0.1" }, []string{`endpoints[0].addresses[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)`}},
		{"a port name twice", func(x s) { x.Ports[1].Name = ptr.To("http") }, []string{`ports[1].name: Duplicate value: "http"`}},
		{"a port that is too large", func(x s) { x.Ports[0].Port = ptr.To[int32](65536) }, []string{"ports[0].port: Invalid value: 65536: must be between 1 and 65535, inclusive"}},
		{"too many endpoints", func(x s) { x.Endpoints = make([]discoveryv1.Endpoint, 1001) }, []string{"endpoints: Too many: 1001: must have at most 1000 items"}},
	})
	kindtest.Update(t, EndpointSlice(), valid, []c{
		{"the family", func(x s) { x.AddressType = discoveryv1.AddressTypeFQDN; x.Endpoints = nil }, []string{`addressType: Invalid value: "FQDN": field is immutable`}},
	})
}

func TestSliceDefaults(t *testing.T) {
	x := valid()
	kindtest.DefaultsOnce(t, EndpointSlice(), x)
	want := []discoveryv1.EndpointPort{
		{Name: ptr.To("http"), Port: ptr.To[int32](80), Protocol: ptr.To(corev1.ProtocolTCP)},
		{Name: ptr.To(""), Port: ptr.To[int32](81), Protocol: ptr.To(corev1.ProtocolTCP)},
	}
	if d := cmp.Diff(want, x.Ports); d != "" {
		t.Error(d)
	}
}

func TestSliceGenerationFollowsWhatProxiesRead(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*discoveryv1.EndpointSlice)
		want   int64
	}{
		"annotations": {func(s *discoveryv1.EndpointSlice) { s.Annotations = map[string]string{"a": "b"} }, 3},
		"labels":      {func(s *discoveryv1.EndpointSlice) { s.Labels = map[string]string{"a": "b"} }, 4},
		"endpoints":   {func(s *discoveryv1.EndpointSlice) { s.Endpoints = s.Endpoints[:1] }, 4},
	} {
		old, s := valid(), valid()
		old.Generation, s.Generation = 3, 99
		tc.change(s)
		EndpointSlice().PrepareForUpdate(t.Context(), s, old)
		if s.Generation != tc.want {
			t.Errorf("%s: generation %d, want %d", name, s.Generation, tc.want)
		}
	}
}

func TestSliceLines(t *testing.T) {
	x := valid()
	x.Name = "web-abc"
	if d := cmp.Diff([]any{"web-abc", "IPv4", "80,81", "10.0.0.1,10.0.0.2", "<unknown>"}, kindtest.Line(EndpointSlice(), x, true)); d != "" {
		t.Error(d)
	}
	x.Endpoints = append(x.Endpoints, x.Endpoints...)
	x.Ports = nil
	if d := cmp.Diff([]any{"web-abc", "IPv4", "<unset>", "10.0.0.1,10.0.0.2,10.0.0.1 + 1 more...", "<unknown>"}, kindtest.Line(EndpointSlice(), x, true)); d != "" {
		t.Error(d)
	}
}
