// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"
)

func TestPodCIDRs(t *testing.T) {
	for _, c := range []struct {
		cluster     string
		bits        int
		first, last string
		count       int
	}{
		{"10.244.0.0/16", 24, "10.244.0.0/24", "10.244.255.0/24", 256},
		{"10.244.0.0/22", 25, "10.244.0.0/25", "10.244.3.128/25", 8},
		{"10.0.0.0/24", 24, "10.0.0.0/24", "10.0.0.0/24", 1},
		{"fd00:10:244::/56", 64, "fd00:10:244::/64", "fd00:10:244:ff::/64", 256},
		{"fd00::/62", 65, "fd00::/65", "fd00:0:0:3:8000::/65", 8},
	} {
		t.Run(c.cluster, func(t *testing.T) {
			p, err := NewPodCIDRs(netip.MustParsePrefix(c.cluster), c.bits)
			if err != nil {
				t.Fatal(err)
			}
			var all []netip.Prefix
			for {
				share, err := p.Allocate()
				if errors.Is(err, ErrPodCIDRsExhausted) {
					break
				}
				if err != nil || !p.Owns(share) {
					t.Fatalf("share %s, err %v", share, err)
				}
				all = append(all, share)
			}
			if len(all) != c.count || all[0].String() != c.first || all[len(all)-1].String() != c.last {
				t.Errorf("%d shares from %s to %s", len(all), all[0], all[len(all)-1])
			}
			p.Release(all[0])
			if share, err := p.Allocate(); err != nil || share != all[0] {
				t.Errorf("the released share did not come back: %s, %v", share, err)
			}
		})
	}
}

func TestPodCIDRsRefuse(t *testing.T) {
	for _, c := range []struct {
		cluster string
		bits    int
	}{{"10.0.0.0/16", 15}, {"10.0.0.0/16", 33}, {"fd00::/64", 129}} {
		if _, err := NewPodCIDRs(netip.MustParsePrefix(c.cluster), c.bits); err == nil {
			t.Errorf("%s was split into /%d", c.cluster, c.bits)
		}
	}
	p, _ := NewPodCIDRs(netip.MustParsePrefix("10.244.0.0/16"), 24)
	for _, foreign := range []string{"10.245.0.0/24", "10.244.0.0/25", "10.244.0.1/24", "fd00::/24"} {
		if p.Owns(netip.MustParsePrefix(foreign)) {
			t.Errorf("owns %s", foreign)
		}
	}
}

// TestPodCIDRsNeverDoubled compares with a plain list over random allocations and releases.
func TestPodCIDRsNeverDoubled(t *testing.T) {
	p, err := NewPodCIDRs(netip.MustParsePrefix("10.0.0.0/20"), 24)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	held := map[netip.Prefix]bool{}
	for range 10_000 {
		if random.IntN(2) == 0 {
			share, err := p.Allocate()
			if (err != nil) != (len(held) == 16) || err == nil && held[share] {
				t.Fatalf("%d held: share %s, err %v", len(held), share, err)
			}
			if err == nil {
				held[share] = true
			}
			continue
		}
		for share := range held {
			delete(held, share)
			p.Release(share)
			break
		}
	}
}
