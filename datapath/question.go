// SPDX-License-Identifier: Apache-2.0

package datapath

import "net/netip"

// Question asks what policy says about the first packet of a connection.
type Question struct {
	Src, Dst netip.Addr
	// Protocol may be any; without ports the port is 0.
	Protocol Protocol
	// Port is the destination's, as its pod knows it.
	Port uint16
}

// Answer is what the programs say to a Question, by what is in the maps now. Each side is asked, also when the other denies.
type Answer struct {
	// Generation is that of the policy; another one in a later answer means that policy may have changed in between.
	Generation      uint32
	Egress, Ingress Verdict
	// Lost says that an address is said to be a local pod's, but there is no such endpoint: packets are dropped.
	Lost bool
}

// Verdict is what one side's policy says.
type Verdict struct {
	// Judged is false when the pod is not on this node, or the address is no pod's. Then the side allows.
	Judged  bool
	Allowed bool
	// Failed says that it was not a policy that denied: there is none in force for the pod yet, or a look-up failed.
	Failed bool
	// Reason is the name under which such packets are counted when they are dropped; empty when allowed.
	Reason string
	// Rule is the rule that decided; 0 when nothing isolates the pod.
	Rule RuleID
	// WouldAllow and WouldRule are the same as if the policies in audit mode were enforced.
	WouldAllow bool
	WouldRule  RuleID
}

// Repair says what was found wrong in one map, and written again.
type Repair struct {
	Map string
	// Missing, Changed and Surplus count entries.
	Missing, Changed, Surplus int
	// Policy says that verdicts depended on them. The policy generation is a new one then.
	Policy bool
}

// Entries is how many entries differed.
func (r Repair) Entries() int { return r.Missing + r.Changed + r.Surplus }
