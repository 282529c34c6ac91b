// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"net"
	"net/netip"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// TestTheKubernetesServiceLeadsToTheAdvertisedAddress starts servers one after another on one store: pods are always sent to the
// address that the newest advertises, and never to loopback, which would be the pod itself.
func TestTheKubernetesServiceLeadsToTheAdvertisedAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // where it listens says nothing about where it is reached, but for the port
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := int32(l.Addr().(*net.TCPAddr).Port)
	for _, c := range []struct {
		name      string
		addresses []string
		want      string // empty: no endpoints
		service   string
	}{
		{"an address", []string{"192.0.2.10"}, "192.0.2.10", "10.96.0.1"},
		{"one that changed", []string{"192.0.2.10", "192.0.2.11"}, "192.0.2.11", "10.96.0.1"},
		{"IPv6", []string{"2001:db8::10"}, "2001:db8::10", "fd00:10:96::1"},
		{"another family", []string{"192.0.2.10", "2001:db8::10"}, "2001:db8::10", "10.96.0.1"},
		{"loopback", []string{"127.0.0.1"}, "", "10.96.0.1"},
		{"all of loopback", []string{"127.3.2.1"}, "", "10.96.0.1"},
		{"loopback, IPv6", []string{"::1"}, "", "fd00:10:96::1"},
	} {
		client := fake.NewClientset()
		for _, address := range c.addresses {
			b := &bootstrap{client: client, server: &Server{config: Config{
				Listener: l, AdvertiseAddress: netip.MustParseAddr(address),
				ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")},
			}}}
			if err := b.kubernetesService(t.Context()); err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
		}
		service, err := client.CoreV1().Services("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
		if err != nil || service.Spec.ClusterIP != c.service || service.Spec.Ports[0].Port != 443 || service.Spec.Ports[0].TargetPort.IntVal != port {
			t.Errorf("%s: %v, %v", c.name, service.Spec, err)
		}
		slice, err := client.DiscoveryV1().EndpointSlices("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
		//lint:ignore SA1019 old clients read it
		old, oldErr := client.CoreV1().Endpoints("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
		if c.want == "" {
			if !apierrors.IsNotFound(err) || !apierrors.IsNotFound(oldErr) {
				t.Errorf("%s: there are endpoints", c.name)
			}
			continue
		}
		if err != nil || oldErr != nil {
			t.Errorf("%s: %v, %v", c.name, err, oldErr)
			continue
		}
		if string(slice.AddressType) != string(familyOf(netip.MustParseAddr(c.want))) || len(slice.Endpoints) != 1 || len(slice.Endpoints[0].Addresses) != 1 ||
			slice.Endpoints[0].Addresses[0] != c.want || *slice.Ports[0].Port != port || !*slice.Endpoints[0].Conditions.Ready {
			t.Errorf("%s: slice %s %v %v", c.name, slice.AddressType, slice.Endpoints, slice.Ports)
		}
		if len(old.Subsets) != 1 || len(old.Subsets[0].Addresses) != 1 || old.Subsets[0].Addresses[0].IP != c.want || old.Subsets[0].Ports[0].Port != port {
			t.Errorf("%s: endpoints %v", c.name, old.Subsets)
		}
	}
}
