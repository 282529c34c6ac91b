// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"skep.dev/skep/datapath"
)

func blockList(prefixes ...netip.Prefix) []peer {
	var l peerList
	for _, p := range prefixes {
		l.addBlock(datapath.CIDR{Prefixes: []netip.Prefix{p}})
	}
	return l.all()
}

func networks(n int) []netip.Prefix {
	var out []netip.Prefix
	for i := range n {
		out = append(out, netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64 + byte(i>>8), byte(i), 0}), 24))
	}
	return out
}

func idsOf(peers []peer) map[string]bool {
	out := map[string]bool{}
	for _, p := range peers {
		out[p.id] = true
	}
	return out
}

func TestAShortListOfBlocksIsAPeerEach(t *testing.T) {
	peers := blockList(networks(partSize)...)
	if len(peers) != partSize || peers[3].id != "cidr:100.64.3.0/24" {
		t.Errorf("%d peers, the fourth %s", len(peers), peers[3].id)
	}
}

func TestALongListOfBlocksIsPartsWithoutLossOrOrder(t *testing.T) {
	list := append(networks(5000), netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("fd00::/56"))
	shuffled := slices.Clone(list)
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	peers := blockList(append(shuffled, list[7])...)
	ids := idsOf(peers)
	if fmt.Sprint(ids) != fmt.Sprint(idsOf(blockList(list...))) {
		t.Error("the order of blocks makes a difference")
	}
	var all []netip.Prefix
	for _, p := range peers {
		if len(p.cidr.Prefixes) > partSize {
			t.Errorf("a part has %d blocks", len(p.cidr.Prefixes))
		}
		all = append(all, p.cidr.Prefixes...)
	}
	slices.SortFunc(list, comparePrefixes)
	slices.SortFunc(all, comparePrefixes)
	if !slices.Equal(all, list) {
		t.Errorf("%d blocks became %d", len(list), len(all))
	}
	if len(peers) < 80 || len(peers) > 200 || !ids["cidr:10.0.0.0/16"] || !ids["cidr:fd00::/56"] {
		t.Errorf("%d peers; wide blocks are to stay single: %v", len(peers), ids)
	}
}

func TestOneBlockMoreChangesOnePart(t *testing.T) {
	list := networks(5000)
	before := idsOf(blockList(list...))
	for i := range 256 {
		more := netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), 32)
		after := idsOf(blockList(append(slices.Clip(list), more)...))
		gone, come := 0, 0
		for id := range before {
			if !after[id] {
				gone++
			}
		}
		for id := range after {
			if !before[id] {
				come++
			}
		}
		if gone != 1 || come < 1 || come > 3 { // a part that was full is two, rarely three
			t.Errorf("with %s, %d parts go and %d come", more, gone, come)
		}
	}
}
