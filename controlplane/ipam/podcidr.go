// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"fmt"
	"net/netip"
)

// ErrPodCIDRsExhausted says that every share of the cluster's pod range belongs to a node.
var ErrPodCIDRsExhausted = errors.New("no pod CIDR is left")

// PodCIDRs splits one range of pod addresses into equal shares, one for each node. It is not safe for concurrent use.
type PodCIDRs struct {
	cluster netip.Prefix
	bits    int
	taken   map[netip.Prefix]struct{}
	// next is the share to try first. Going on from the last one instead of from the start lets a share rest before it is
	// used again: other nodes may still have routes to its last owner.
	next netip.Prefix
}

// NewPodCIDRs splits cluster into shares of the given prefix length.
func NewPodCIDRs(cluster netip.Prefix, bits int) (*PodCIDRs, error) {
	cluster = cluster.Masked()
	switch {
	case !cluster.IsValid():
		return nil, errors.New("pod range: not a prefix")
	case bits < cluster.Bits() || bits > cluster.Addr().BitLen():
		return nil, fmt.Errorf("pod range %s: cannot be split into shares of /%d", cluster, bits)
	}
	p := &PodCIDRs{cluster: cluster, bits: bits, taken: map[netip.Prefix]struct{}{}}
	p.next = netip.PrefixFrom(cluster.Addr(), bits)
	return p, nil
}

// Owns reports whether share is one of the shares of this range.
func (p *PodCIDRs) Owns(share netip.Prefix) bool {
	return share.IsValid() && share == share.Masked() && share.Bits() == p.bits && p.cluster.Contains(share.Addr())
}

// Occupy takes one certain share. It is false if the share is taken.
func (p *PodCIDRs) Occupy(share netip.Prefix) bool {
	if _, taken := p.taken[share]; taken {
		return false
	}
	p.taken[share] = struct{}{}
	return true
}

// Allocate takes a free share. The error is ErrPodCIDRsExhausted.
func (p *PodCIDRs) Allocate() (netip.Prefix, error) {
	share := p.next
	for {
		following := p.following(share)
		if p.Occupy(share) {
			p.next = following
			return share, nil
		}
		if share = following; share == p.next {
			return netip.Prefix{}, fmt.Errorf("%s: %w", p.cluster, ErrPodCIDRsExhausted)
		}
	}
}

// Release gives a share back. Releasing a free one does no harm.
func (p *PodCIDRs) Release(share netip.Prefix) { delete(p.taken, share) }

// following is the share after this one, and the first one after the last.
func (p *PodCIDRs) following(share netip.Prefix) netip.Prefix {
	address := share.Addr().AsSlice()
	for bit := p.bits - 1; bit >= p.cluster.Bits(); bit-- {
		mask := byte(1) << (7 - bit%8)
		address[bit/8] ^= mask
		if address[bit/8]&mask != 0 {
			break // no carry
		}
	}
	next, ok := netip.AddrFromSlice(address)
	if !ok {
		panic("ipam: an address changed its length")
	}
	return netip.PrefixFrom(next, p.bits)
}
