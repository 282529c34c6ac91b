// SPDX-License-Identifier: Apache-2.0

package podnet

import (
	"fmt"
	"math/big"
	"net/netip"
)

// addrRange is the usable part of a pod CIDR: without its first two addresses (the network's own and the one that is
// by custom a gateway) and, for IPv4, without the broadcast address.
type addrRange struct {
	prefix      netip.Prefix
	first, last netip.Addr
}

func newRange(p netip.Prefix) (addrRange, error) {
	if !p.IsValid() || p.Addr().Is4In6() {
		return addrRange{}, fmt.Errorf("pod CIDR %s is not a prefix", p)
	}
	p = p.Masked()
	if p.Addr().BitLen()-p.Bits() < 2 {
		return addrRange{}, fmt.Errorf("pod CIDR %s has no room for pods", p)
	}
	last := lastAddr(p)
	if p.Addr().Is4() {
		last = last.Prev()
	}
	return addrRange{prefix: p, first: p.Addr().Next().Next(), last: last}, nil
}

func (r addrRange) family() string { return familyName(r.first) }

func (r addrRange) contains(a netip.Addr) bool {
	return r.prefix.Contains(a) && !a.Less(r.first) && !r.last.Less(a)
}

// next returns the first free address behind after, going round once. The search is bounded by the number of
// addresses in use, since each step that fails has met one.
func (r addrRange) next(after netip.Addr, free func(netip.Addr) bool) (netip.Addr, bool) {
	start := r.first
	if r.contains(after) && after != r.last {
		start = after.Next()
	}
	for a := start; ; {
		if free(a) {
			return a, true
		}
		if a == r.last {
			a = r.first
		} else {
			a = a.Next()
		}
		if a == start {
			return netip.Addr{}, false
		}
	}
}

func lastAddr(p netip.Prefix) netip.Addr {
	b := new(big.Int).SetBytes(p.Addr().AsSlice())
	host := new(big.Int).Lsh(big.NewInt(1), uint(p.Addr().BitLen()-p.Bits()))
	b.Add(b, host.Sub(host, big.NewInt(1)))
	a, _ := netip.AddrFromSlice(b.FillBytes(make([]byte, p.Addr().BitLen()/8)))
	return a
}

func familyName(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}
