// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"sort"

	networkingv1 "k8s.io/api/networking/v1"

	"skep.dev/skep/datapath"
)

// partSize is how many blocks a rule may have before they are no longer peers of their own, and how many one part of them has at most.
const partSize = 64

// peerList puts the peers of a rule together, each once. Thousands of blocks become a few dozen peers: a set has a row for each, and
// written anew with each change it should not have thousands.
type peerList struct {
	peers []peer
	known map[string]bool
	// blocks are those without exceptions.
	blocks []netip.Prefix
}

func (l *peerList) add(p peer) {
	if l.known == nil {
		l.known = map[string]bool{}
	}
	if !l.known[p.id] {
		l.known[p.id] = true
		l.peers = append(l.peers, p)
	}
}

func (l *peerList) addBlock(cidr datapath.CIDR) {
	if len(cidr.Except) > 0 {
		l.add(blockPeer(cidr))
		return
	}
	l.blocks = append(l.blocks, cidr.Prefixes...)
}

// all lists the peers.
func (l *peerList) all() []peer {
	var many []hashedBlock
	for _, block := range l.blocks {
		if len(l.blocks) <= partSize || wide(block) {
			l.add(blockPeer(datapath.CIDR{Prefixes: []netip.Prefix{block}}))
		} else {
			many = append(many, hashedBlock{hashOf(block), block})
		}
	}
	slices.SortFunc(many, func(a, b hashedBlock) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), comparePrefixes(a.Prefix, b.Prefix))
	})
	return append(l.peers, parts(slices.Compact(many), 1<<31)...)
}

// wide says that a block may have many pods in it. It stays a peer of its own: a part gets another name with each change to it, and
// everything in it another class.
func wide(p netip.Prefix) bool {
	if p.Addr().Is4() {
		return p.Bits() <= 16
	}
	return p.Bits() <= 56
}

// hashedBlock is a block with its hash.
type hashedBlock struct {
	hash uint32
	netip.Prefix
}

// parts cuts a sorted list by bits of the hashes until no part is too long. To which part a block belongs follows from it and a few
// others, so that one block more or less changes one part.
func parts(blocks []hashedBlock, bit uint32) []peer {
	switch {
	case len(blocks) == 0:
		return nil
	case len(blocks) <= partSize || bit == 0:
		return []peer{partPeer(blocks)}
	}
	ones := sort.Search(len(blocks), func(i int) bool { return blocks[i].hash&bit != 0 })
	return append(parts(blocks[:ones], bit>>1), parts(blocks[ones:], bit>>1)...)
}

// hashOf is FNV-1a over a block, with the bits mixed once more: those of neighbours differ too little.
func hashOf(block netip.Prefix) uint32 {
	hash := uint32(2166136261)
	for _, b := range bytesOf(block) {
		hash = (hash ^ uint32(b)) * 16777619
	}
	hash = (hash ^ hash>>15) * 0x2c1b3c6d
	return hash ^ hash>>12
}

// bytesOf tells all blocks apart.
func bytesOf(block netip.Prefix) (out [17]byte) {
	addr := block.Addr().As16()
	copy(out[:], addr[:])
	out[16] = byte(block.Bits())
	return out
}

// partPeer is the addresses in any of some blocks.
func partPeer(blocks []hashedBlock) peer {
	prefixes := make([]netip.Prefix, 0, len(blocks))
	digest := sha256.New()
	for _, block := range blocks {
		bytes := bytesOf(block.Prefix)
		digest.Write(bytes[:])
		prefixes = append(prefixes, block.Prefix)
	}
	return peer{id: "cidrs:" + hex.EncodeToString(digest.Sum(nil)[:16]), cidr: &datapath.CIDR{Prefixes: prefixes}}
}

// blockPeer is the addresses in one block and not in its exceptions.
func blockPeer(cidr datapath.CIDR) peer {
	id := "cidr:" + cidr.Prefixes[0].String()
	for _, e := range cidr.Except {
		id += "-" + e.String()
	}
	return peer{id: id, cidr: &cidr}
}

func parseIPBlock(b *networkingv1.IPBlock) (datapath.CIDR, error) {
	prefix, err := parsePrefix(b.CIDR)
	if err != nil {
		return datapath.CIDR{}, fmt.Errorf("ipBlock.cidr: %w", err)
	}
	cidr := datapath.CIDR{Prefixes: []netip.Prefix{prefix}}
	for _, e := range b.Except {
		p, err := parsePrefix(e)
		if err != nil {
			return datapath.CIDR{}, fmt.Errorf("ipBlock.except: %w", err)
		}
		cidr.Except = append(cidr.Except, p)
	}
	slices.SortFunc(cidr.Except, comparePrefixes)
	cidr.Except = slices.Compact(cidr.Except)
	return cidr, nil
}

// parsePrefix reads a CIDR as the API stores it: host bits may be set and mean nothing.
func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	if a := p.Addr(); a.Is4In6() {
		if p.Bits() < 96 {
			return netip.Prefix{}, fmt.Errorf("%s mixes IPv4 and IPv6", s)
		}
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

func comparePrefixes(a, b netip.Prefix) int {
	if d := a.Addr().Compare(b.Addr()); d != 0 {
		return d
	}
	return a.Bits() - b.Bits()
}
