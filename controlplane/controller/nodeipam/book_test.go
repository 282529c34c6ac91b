// SPDX-License-Identifier: Apache-2.0

package nodeipam

import (
	"fmt"
	"net/netip"
	"testing"
)

func TestBook(t *testing.T) {
	b, err := newBook([]Range{{netip.MustParsePrefix("10.0.0.0/23"), 24}, {netip.MustParsePrefix("fd00::/62"), 64}})
	if err != nil {
		t.Fatal(err)
	}
	step := func(what string, got any, want string) {
		t.Helper()
		if fmt.Sprint(got) != want {
			t.Errorf("%s: %v, want %s", what, got, want)
		}
	}
	assign := func(node string) string {
		shares, err := b.assign(node)
		if err != nil {
			return "none"
		}
		return fmt.Sprint(shares)
	}
	parse := netip.MustParsePrefix
	step("what a node has", b.note("a", []netip.Prefix{parse("10.0.0.0/24"), parse("fd00::/64")}), "[]")
	step("seen again", b.note("a", []netip.Prefix{parse("10.0.0.0/24"), parse("fd00::/64")}), "[]")
	step("the same on another node", b.note("z", []netip.Prefix{parse("10.0.0.0/24")}), "[10.0.0.0/24]")
	step("a range of somebody else's", b.note("y", []netip.Prefix{parse("192.168.0.0/24")}), "[]")
	step("a new node", assign("b"), "[10.0.1.0/24 fd00:0:0:1::/64]")
	step("asking again", assign("b"), "[10.0.1.0/24 fd00:0:0:1::/64]")
	step("no IPv4 left", assign("c"), "none")
	b.release("z")
	step("a clash is not released by the wrong node", assign("c"), "none")
	b.release("a")
	step("after a node went, with the IPv6 share of the failed tries free", assign("c"), "[10.0.0.0/24 fd00:0:0:2::/64]")
}
