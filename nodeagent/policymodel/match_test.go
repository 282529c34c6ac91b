// SPDX-License-Identifier: Apache-2.0

package policymodel

import (
	"net/netip"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

func TestSelectorsByTheAPIText(t *testing.T) {
	cases := []struct {
		selector string
		labels   map[string]string
		want     bool
	}{
		{`{}`, nil, true},
		{`{matchLabels: {a: x}}`, map[string]string{"a": "x", "b": "y"}, true},
		{`{matchLabels: {a: x}}`, map[string]string{"a": "z"}, false},
		{`{matchLabels: {a: ""}}`, nil, false},
		{`{matchLabels: {a: ""}}`, map[string]string{"a": ""}, true},
		{`{matchExpressions: [{key: a, operator: In, values: [x, z]}]}`, map[string]string{"a": "z"}, true},
		{`{matchExpressions: [{key: a, operator: In, values: [x, z]}]}`, nil, false},
		{`{matchExpressions: [{key: a, operator: NotIn, values: [x]}]}`, nil, true},
		{`{matchExpressions: [{key: a, operator: NotIn, values: [x]}]}`, map[string]string{"a": "x"}, false},
		{`{matchExpressions: [{key: a, operator: Exists}]}`, map[string]string{"a": ""}, true},
		{`{matchExpressions: [{key: a, operator: DoesNotExist}]}`, map[string]string{"a": ""}, false},
		{`{matchExpressions: [{key: a, operator: DoesNotExist}]}`, nil, true},
		{`{matchLabels: {a: x}, matchExpressions: [{key: b, operator: Exists}]}`, map[string]string{"a": "x"}, false},
	}
	for _, tc := range cases {
		var s metav1.LabelSelector
		if err := yaml.UnmarshalStrict([]byte(tc.selector), &s); err != nil {
			t.Fatal(err)
		}
		if got := selectorMatches(s, tc.labels); got != tc.want {
			t.Errorf("%s on %v is %v, want %v", tc.selector, tc.labels, got, tc.want)
		}
	}
}

func TestBlocksBitByBit(t *testing.T) {
	cases := []struct {
		cidr, addr string
		want       bool
	}{
		{"10.0.0.0/8", "10.255.255.255", true},
		{"10.0.0.0/8", "11.0.0.0", false},
		{"10.1.2.3/8", "10.9.9.9", true},
		{"192.0.2.128/25", "192.0.2.127", false},
		{"192.0.2.7/32", "192.0.2.7", true},
		{"192.0.2.7/32", "192.0.2.6", false},
		{"0.0.0.0/0", "192.0.2.7", true},
		{"0.0.0.0/0", "2001:db8::1", false},
		{"::/0", "192.0.2.7", false},
		{"::/0", "2001:db8::1", true},
		{"2001:db8::/33", "2001:db8:7fff::1", true},
		{"2001:db8::/33", "2001:db8:8000::1", false},
		{"nonsense", "192.0.2.7", false},
	}
	for _, tc := range cases {
		if got := cidrContains(tc.cidr, netip.MustParseAddr(tc.addr)); got != tc.want {
			t.Errorf("%s in %s is %v, want %v", tc.addr, tc.cidr, got, tc.want)
		}
	}
}
