// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"
)

func random() func() uint64 { return rand.New(rand.NewPCG(1, 2)).Uint64 }

func TestEveryAddressOfASmallRangeIsHandedOutOnce(t *testing.T) {
	for _, c := range []struct {
		prefix string
		usable int
	}{
		{"10.0.0.0/28", 14}, {"10.0.0.0/24", 254}, {"fd00::/124", 15}, {"fd00::/120", 255},
	} {
		a := NewAddresses(netip.MustParsePrefix(c.prefix), random())
		seen := map[netip.Addr]bool{}
		for range c.usable {
			addr, err := a.TakeAny()
			if err != nil {
				t.Fatalf("%s: %v after %d", c.prefix, err, len(seen))
			}
			if seen[addr] || !a.Prefix().Contains(addr) {
				t.Fatalf("%s: got %s twice or from outside", c.prefix, addr)
			}
			seen[addr] = true
		}
		if addr, err := a.TakeAny(); !errors.Is(err, ErrFull) {
			t.Errorf("%s: got %s, %v from a full range", c.prefix, addr, err)
		}
		for addr := range seen {
			a.Release(addr)
			a.Release(addr) // twice does no harm
			if again, err := a.TakeAny(); err != nil || again != addr {
				t.Fatalf("%s: got %s, %v, want the one that is free, %s", c.prefix, again, err, addr)
			}
			break
		}
	}
}

func TestGivenAddresses(t *testing.T) {
	a := NewAddresses(netip.MustParsePrefix("10.96.0.0/16"), random())
	for _, c := range []struct {
		addr string
		want error
	}{
		{"10.96.0.10", nil}, {"10.96.0.10", ErrTaken}, {"10.97.0.1", ErrOutside}, {"fd00::1", ErrOutside},
		{"10.96.0.0", ErrTaken}, {"10.96.255.255", ErrTaken}, {"10.96.255.254", nil},
	} {
		if err := a.Take(netip.MustParseAddr(c.addr)); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.addr, err, c.want)
		}
	}
}

func TestOwnChoicesAvoidTheLowBand(t *testing.T) {
	a := NewAddresses(netip.MustParsePrefix("10.96.0.0/16"), random())
	for range 1000 {
		addr, err := a.TakeAny()
		if err != nil {
			t.Fatal(err)
		}
		if offset(a.prefix, addr) < 256 {
			t.Fatalf("%s is in the low band", addr)
		}
	}
}

func TestPorts(t *testing.T) {
	p := NewPorts(30000, 30099, random())
	seen := map[uint16]bool{}
	for range 100 {
		port, err := p.TakeAny()
		if err != nil || seen[port] || port < 30000 || port > 30099 {
			t.Fatalf("got %d, %v", port, err)
		}
		seen[port] = true
	}
	if _, err := p.TakeAny(); !errors.Is(err, ErrFull) {
		t.Errorf("got %v from a full range", err)
	}
	if err := p.Take(29999); !errors.Is(err, ErrOutside) {
		t.Errorf("got %v for a port outside", err)
	}
}

func TestNth(t *testing.T) {
	for _, c := range []struct {
		prefix string
		n      uint64
		want   string
	}{
		{"10.96.0.0/16", 1, "10.96.0.1"}, {"10.96.0.0/16", 256, "10.96.1.0"},
		{"fd00:10:96::/112", 10, "fd00:10:96::a"}, {"10.96.0.0/30", 4, ""},
	} {
		got, err := Nth(netip.MustParsePrefix(c.prefix), c.n)
		if (err != nil) != (c.want == "") || err == nil && got.String() != c.want {
			t.Errorf("%s %d: got %s, %v, want %q", c.prefix, c.n, got, err, c.want)
		}
	}
}
