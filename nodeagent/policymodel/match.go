// SPDX-License-Identifier: Apache-2.0

package policymodel

import (
	"net"
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// selectorMatches: "The result of matchLabels and matchExpressions are ANDed. An empty label selector matches all objects."
func selectorMatches(s metav1.LabelSelector, labels map[string]string) bool {
	for key, want := range s.MatchLabels {
		have, present := labels[key]
		if !present || have != want {
			return false
		}
	}
	for _, e := range s.MatchExpressions {
		if !expressionMatches(e, labels) {
			return false
		}
	}
	return true
}

func expressionMatches(e metav1.LabelSelectorRequirement, labels map[string]string) bool {
	have, present := labels[e.Key]
	listed := false
	for _, v := range e.Values {
		if present && have == v {
			listed = true
		}
	}
	switch e.Operator {
	case "In":
		return listed
	case "NotIn": // a label that is absent is not in the list either
		return !listed
	case "Exists":
		return present
	case "DoesNotExist":
		return !present
	}
	return false
}

// blockContains: the address is in cidr and in none of except.
func blockContains(block networkingv1.IPBlock, addr netip.Addr) bool {
	if !cidrContains(block.CIDR, addr) {
		return false
	}
	for _, e := range block.Except {
		if cidrContains(e, addr) {
			return false
		}
	}
	return true
}

// cidrContains compares bit by bit. Addresses of one family are never in a block of the other.
func cidrContains(cidr string, addr netip.Addr) bool {
	_, network, err := net.ParseCIDR(cidr)
	if err != nil {
		return false
	}
	ones, total := network.Mask.Size()
	bytes := addr.AsSlice()
	if len(bytes)*8 != total {
		return false
	}
	for bit := range ones {
		shift := 7 - bit%8
		if bytes[bit/8]>>shift&1 != network.IP[bit/8]>>shift&1 {
			return false
		}
	}
	return true
}
