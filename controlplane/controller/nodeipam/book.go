// SPDX-License-Identifier: Apache-2.0

package nodeipam

import (
	"net/netip"
	"slices"

	"skep.dev/skep/controlplane/ipam"
)

// book knows which node has which share of each range.
type book struct {
	ranges []*ipam.PodCIDRs
	nodes  map[string][]netip.Prefix
}

func newBook(ranges []Range) (*book, error) {
	b := &book{nodes: map[string][]netip.Prefix{}}
	for _, r := range ranges {
		cidrs, err := ipam.NewPodCIDRs(r.CIDR, r.Bits)
		if err != nil {
			return nil, err
		}
		b.ranges = append(b.ranges, cidrs)
	}
	return b, nil
}

// note records what a node has, and returns the shares of it that belong to another node.
func (b *book) note(node string, shares []netip.Prefix) (clashes []netip.Prefix) {
	for _, share := range shares {
		if slices.Contains(b.nodes[node], share) {
			continue
		}
		r := b.rangeOf(share)
		if r == nil {
			continue // set by somebody else from a range of their own
		}
		if !r.Occupy(share) {
			clashes = append(clashes, share)
			continue
		}
		b.nodes[node] = append(b.nodes[node], share)
	}
	return clashes
}

func (b *book) rangeOf(share netip.Prefix) *ipam.PodCIDRs {
	for _, r := range b.ranges {
		if r.Owns(share) {
			return r
		}
	}
	return nil
}

// assign gives a node one share of every range, or nothing at all. Asking again gives the same shares.
func (b *book) assign(node string) ([]netip.Prefix, error) {
	if has := b.nodes[node]; len(has) == len(b.ranges) {
		return has, nil
	}
	b.release(node)
	var shares []netip.Prefix
	for i, r := range b.ranges {
		share, err := r.Allocate()
		if err != nil {
			for j := range i {
				b.ranges[j].Release(shares[j])
			}
			return nil, err
		}
		shares = append(shares, share)
	}
	b.nodes[node] = shares
	return shares, nil
}

// release takes a node's shares back.
func (b *book) release(node string) {
	for _, share := range b.nodes[node] {
		if r := b.rangeOf(share); r != nil {
			r.Release(share)
		}
	}
	delete(b.nodes, node)
}
