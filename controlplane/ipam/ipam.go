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
	ErrTaken = errors.New("already allocated")
	// ErrOutside is returned for an address or port outside the range.
	ErrOutside = errors.New("not in the valid range")
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

// set is a bitmap of the numbers 0..size-1 with a lower band that is used last when the choice is ours, so that
// people who pick numbers by hand find the low ones free.
type set struct {
	bits  []uint64
	size  uint64
	low   uint64
	count uint64
}

func newSet(size uint64) *set {
	return &set{bits: make([]uint64, (size+63)/64), size: size, low: lowBand(size)}
}

// lowBand is 1/16 of the range, at least 16 and at most 256, and nothing in a range that small.
func lowBand(size uint64) uint64 {
	band := min(max(size/16, 16), 256)
	if band >= size {
		return 0
	}
	return band
}

func (s *set) has(n uint64) bool { return s.bits[n/64]&(1<<(n%64)) != 0 }

func (s *set) take(n uint64) error {
	if s.has(n) {
		return ErrTaken
	}
	s.bits[n/64] |= 1 << (n % 64)
	s.count++
	return nil
}

func (s *set) release(n uint64) {
	if s.has(n) {
		s.bits[n/64] &^= 1 << (n % 64)
		s.count--
	}
}

// takeAny takes a free number, searching from start, which should be random so that a number is not reused at once.
func (s *set) takeAny(start uint64) (uint64, error) {
	for _, band := range [][2]uint64{{s.low, s.size}, {0, s.low}} {
		length := band[1] - band[0]
		for i := range length {
			n := band[0] + (start+i)%length
			if !s.has(n) {
				return n, s.take(n)
			}
		}
	}
	return 0, ErrFull
}

// Addresses hands out the addresses of a prefix. It is not safe for concurrent use.
type Addresses struct {
	prefix netip.Prefix
	set    *set
	random func() uint64
}

// maxHostBits bounds the bitmap: a larger prefix is used up to that many addresses.
const maxHostBits = 20

// NewAddresses returns an allocator for the prefix, without its first address and, for IPv4, its last.
// random chooses where to look for a free address.
func NewAddresses(prefix netip.Prefix, random func() uint64) *Addresses {
	hostBits := min(prefix.Addr().BitLen()-prefix.Bits(), maxHostBits)
	a := &Addresses{prefix: prefix.Masked(), set: newSet(1 << hostBits), random: random}
	reserved := []uint64{0}
	if prefix.Addr().Is4() && hostBits > 0 {
		reserved = append(reserved, a.set.size-1)
	}
	for _, n := range reserved {
		// A fresh set has nothing taken.
		_ = a.set.take(n)
	}
	return a
}

// Prefix is the range.
func (a *Addresses) Prefix() netip.Prefix { return a.prefix }

// Take takes one address: ErrOutside, ErrTaken.
func (a *Addresses) Take(addr netip.Addr) error {
	n, err := a.place(addr)
	if err != nil {
		return err
	}
	return a.set.take(n)
}

func (a *Addresses) place(addr netip.Addr) (uint64, error) {
	if !a.prefix.Contains(addr) {
		return 0, ErrOutside
	}
	n := offset(a.prefix, addr)
	if n >= a.set.size {
		return 0, ErrOutside
	}
	return n, nil
}

// TakeAny takes a free address: ErrFull.
func (a *Addresses) TakeAny() (netip.Addr, error) {
	n, err := a.set.takeAny(a.random() % a.set.size)
	if err != nil {
		return netip.Addr{}, err
	}
	return Nth(a.prefix, n)
}

// Release frees an address; one that is free or outside is left alone.
func (a *Addresses) Release(addr netip.Addr) {
	if n, err := a.place(addr); err == nil {
		a.set.release(n)
	}
}

// Taken is how many addresses are taken.
func (a *Addresses) Taken() uint64 { return a.set.count }

// Ports hands out the ports first..last. It is not safe for concurrent use.
type Ports struct {
	first, last uint16
	set         *set
	random      func() uint64
}

// NewPorts returns an allocator for first..last, both included.
func NewPorts(first, last uint16, random func() uint64) *Ports {
	return &Ports{first: first, last: last, set: newSet(uint64(last-first) + 1), random: random}
}

// String is the range, as in "30000-32767".
func (p *Ports) String() string { return fmt.Sprintf("%d-%d", p.first, p.last) }

// Take takes one port: ErrOutside, ErrTaken.
func (p *Ports) Take(port uint16) error {
	if port < p.first || port > p.last {
		return ErrOutside
	}
	return p.set.take(uint64(port - p.first))
}

// TakeAny takes a free port: ErrFull.
func (p *Ports) TakeAny() (uint16, error) {
	n, err := p.set.takeAny(p.random() % p.set.size)
	if err != nil {
		return 0, err
	}
	return p.first + uint16(n), nil
}

// Release frees a port; one that is free or outside is left alone.
func (p *Ports) Release(port uint16) {
	if port >= p.first && port <= p.last {
		p.set.release(uint64(port - p.first))
	}
}
