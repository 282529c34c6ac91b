// SPDX-License-Identifier: Apache-2.0

package datapath

import "errors"

// ErrFull is wrapped by errors about intent that does not fit into the datapath's tables. The last good state stays.
var ErrFull = errors.New("map is full")

// A set has MaxRules places for rules, and each of its tiers starts at a multiple of TierStep.
const (
	MaxRules = 16384
	TierStep = 512
)

// Places is how many places the set's rules take. A set with more than MaxRules is refused.
func (s PolicySet) Places() int {
	next := 0
	for i, r := range s.Rules {
		if i > 0 && r.Tier != s.Rules[i-1].Tier {
			next = (next + TierStep - 1) / TierStep * TierStep
		}
		next++
	}
	return next
}
