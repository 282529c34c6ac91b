// SPDX-License-Identifier: Apache-2.0

// Package enforcement names the annotation by which a policy says whether it decides or only counts. Server and agents both read
// it, and neither may import the other.
package enforcement

// Annotation is what the metadata of a NetworkPolicy or ClusterNetworkPolicy carries; the values are Modes. Without it a policy is
// enforced.
const Annotation = "skep.dev/enforcement"

// Mode is a value of Annotation.
type Mode string

// The modes. An object with another value can only have come into the store behind the server's back.
const (
	// Audit counts what the policy would have decided, and leaves decisions to the others.
	Audit Mode = "audit"
	// Enforce is what a policy without the annotation means, too.
	Enforce Mode = "enforce"
)

// Modes lists the values that admission lets through.
func Modes() []Mode { return []Mode{Audit, Enforce} }

// ModeOf reads the mode of a policy from its annotations. A value that nobody knows enforces: what came past admission must not
// switch a policy off.
func ModeOf(annotations map[string]string) Mode {
	if Mode(annotations[Annotation]) == Audit {
		return Audit
	}
	return Enforce
}
