// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 the deprecated kind is what this package is for: clients still read it

// Package endpoints publishes the pods of each Service with a selector as a v1 Endpoints object, for clients that do not
// read EndpointSlices.
package endpoints

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/endpointslice"
	sliceutil "k8s.io/endpointslice/util"
)

// maxAddresses bounds an Endpoints object; the rest is left out and an annotation says so.
const maxAddresses = 1000

// group are the addresses that offer the same ports.
type group struct {
	ports           []corev1.EndpointPort
	ready, notReady []corev1.EndpointAddress
}

// subsets works out the endpoints. truncated reports that there were too many. Addresses and ports are sorted, so that
// equal inputs give equal objects.
func subsets(service *corev1.Service, pods []*corev1.Pod) (out []corev1.EndpointSubset, truncated bool) {
	groups := map[string]*group{}
	pods = slices.Clone(pods)
	slices.SortFunc(pods, func(a, b *corev1.Pod) int { return cmp.Compare(a.Name, b.Name) })
	count := 0
	for _, pod := range pods {
		if !sliceutil.ShouldPodBeInEndpoints(pod, service.Spec.PublishNotReadyAddresses) {
			continue
		}
		address, ok := addressOf(service, pod)
		if !ok {
			continue
		}
		found, ok := portsOf(service, pod)
		if !ok {
			continue
		}
		if count++; count > maxAddresses {
			truncated = true
			break
		}
		key := fmt.Sprint(found)
		g := groups[key]
		if g == nil {
			g = &group{ports: found}
			groups[key] = g
		}
		if service.Spec.PublishNotReadyAddresses || sliceutil.IsPodReady(pod) {
			g.ready = append(g.ready, address)
		} else {
			g.notReady = append(g.notReady, address)
		}
	}
	for _, g := range groups {
		slices.SortFunc(g.ready, byIP)
		slices.SortFunc(g.notReady, byIP)
		out = append(out, corev1.EndpointSubset{Addresses: g.ready, NotReadyAddresses: g.notReady, Ports: g.ports})
	}
	slices.SortFunc(out, func(a, b corev1.EndpointSubset) int {
		return strings.Compare(fmt.Sprint(a.Ports), fmt.Sprint(b.Ports))
	})
	return out, truncated
}

func byIP(a, b corev1.EndpointAddress) int { return strings.Compare(a.IP, b.IP) }

// addressOf is the pod's address in the Service's first family.
func addressOf(service *corev1.Service, pod *corev1.Pod) (corev1.EndpointAddress, bool) {
	v6 := len(service.Spec.IPFamilies) > 0 && service.Spec.IPFamilies[0] == corev1.IPv6Protocol
	node := pod.Spec.NodeName
	for _, ip := range pod.Status.PodIPs {
		addr, err := netip.ParseAddr(ip.IP)
		if err != nil || addr.Is6() != v6 {
			continue
		}
		a := corev1.EndpointAddress{
			IP:       ip.IP,
			NodeName: &node,
			TargetRef: &corev1.ObjectReference{
				Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID,
			},
		}
		if sliceutil.ShouldSetHostname(pod, service) {
			a.Hostname = pod.Spec.Hostname
		}
		return a, true
	}
	return corev1.EndpointAddress{}, false
}

// portsOf resolves the Service's ports for one pod. A pod that has none of them is no endpoint, unless the Service is
// headless and names no ports at all.
func portsOf(service *corev1.Service, pod *corev1.Pod) ([]corev1.EndpointPort, bool) {
	var out []corev1.EndpointPort
	for i := range service.Spec.Ports {
		p := &service.Spec.Ports[i]
		number, err := endpointslice.FindPort(pod, p)
		if err != nil {
			continue // this pod has no port of that name
		}
		out = append(out, corev1.EndpointPort{Name: p.Name, Port: int32(number), Protocol: p.Protocol, AppProtocol: p.AppProtocol})
	}
	slices.SortFunc(out, func(a, b corev1.EndpointPort) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
	})
	headless := service.Spec.ClusterIP == corev1.ClusterIPNone && len(service.Spec.Ports) == 0
	return out, len(out) > 0 || headless
}
