// SPDX-License-Identifier: Apache-2.0

// Package ipam hands out addresses and ports from ranges. It is plain data: who stores and who serialises is
// the caller's business.
package ipam

import (
	"errors"
	"fmt"
	"math/big"
	"net/netip"
)

const (
	// KubernetesOffset is the place of the kubernetes Service in each Service range.
	KubernetesOffset = 1
	// DNSOffset is the place of the kube-dns Service in each Service range.
	DNSOffset = 10
)

var (
	// ErrTaken is returned for an address or port that somebody else has.
	ErrTaken = errors.New("provided value is already allocated")
	// ErrOutside is returned for an address or port outside the range.
	ErrOutside = errors.New("provided value is not in the valid range")
	// ErrFull is returned when a range has nothing left.
	ErrFull = errors.New("range is full")
)

// Nth returns the address at the given offset from the start of the prefix.
func Nth(p netip.Prefix, n uint64) (netip.Addr, error) {
	start := p.Masked().Addr()
	sum := new(big.Int).SetBytes(start.AsSlice())
	sum.Add(sum, new(big.Int).SetUint64(n))
	raw := make([]byte, start.BitLen()/8)
	if sum.BitLen() > start.BitLen() {
		return netip.Addr{}, fmt.Errorf("%s has no address %d", p, n)
	}
	addr, _ := netip.AddrFromSlice(sum.FillBytes(raw))
	if !p.Contains(addr) {
		return netip.Addr{}, fmt.Errorf("%s has no address %d", p, n)
	}
	return addr, nil
}

// offset is the inverse of Nth for addresses of the prefix.
func offset(p netip.Prefix, a netip.Addr) uint64 {
	start := new(big.Int).SetBytes(p.Masked().Addr().AsSlice())
	at := new(big.Int).SetBytes(a.AsSlice())
	return at.Sub(at, start).Uint64()
}
