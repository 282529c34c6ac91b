// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"testing"

	"skep.dev/skep/datapath"
)

// TestPlacesAreCountedAlike: who hands sets over asks datapath whether they fit, and this package has the last word.
func TestPlacesAreCountedAlike(t *testing.T) {
	for name, tiers := range map[string][]int{
		"empty": {}, "one tier": {7}, "two": {1, 1}, "full blocks": {512, 512, 3}, "the most": {512, 512, datapath.MaxRules - 1024},
		"one more": {512, 513, datapath.MaxRules - 1024}, "too many in one": {datapath.MaxRules + 1}, "the most in one": {datapath.MaxRules},
	} {
		s := datapath.PolicySet{ID: "s", Default: datapath.Allow}
		for tier, n := range tiers {
			for range n {
				s.Rules = append(s.Rules, datapath.Rule{Tier: uint8(tier), AnyPeer: true, AnyPort: true})
			}
		}
		compiled, err := NewSet(s)
		if fits := s.Places() <= datapath.MaxRules; fits != (err == nil) {
			t.Errorf("%s: %d places, and %v", name, s.Places(), err)
		}
		if err == nil && compiled.Bits() != s.Places() {
			t.Errorf("%s: %d places, %d bits", name, s.Places(), compiled.Bits())
		}
	}
}
