// SPDX-License-Identifier: Apache-2.0

package enforcement

import (
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// StatusPath and RulesPath are where an agent's API tells what is in force on its node, as a Report, and what each rule has decided.
const (
	StatusPath = "/policy/status"
	RulesPath  = "/policy/rules"
)

// NodeCondition is the type of the Node's condition. As with the other conditions beside Ready, True is the bad news.
const NodeCondition = "NetworkPolicyUnenforced"

// Version is a policy as far as it matters to enforcement: labels or a status that change do not make another one.
type Version struct {
	UID        string `json:"uid"`
	Generation int64  `json:"generation"`
	Mode       Mode   `json:"mode"`
}

// object is what of an object's metadata makes its Version.
type object interface {
	GetUID() types.UID
	GetGeneration() int64
	GetAnnotations() map[string]string
}

// VersionOf reads a policy of either kind.
func VersionOf(o object) Version {
	return Version{UID: string(o.GetUID()), Generation: o.GetGeneration(), Mode: ModeOf(o.GetAnnotations())}
}

// Policy is what one node says of one policy.
type Policy struct {
	// Namespace is empty for a ClusterNetworkPolicy.
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	// Newest is the version that the node has heard of last, InForce the one that judges packets; zero while there is none.
	Newest  Version `json:"newest"`
	InForce Version `json:"inForce"`
	// Since is when InForce came into force, as far as this run of the agent knows.
	Since time.Time `json:"since,omitzero"`
	// Latencies are how long the last versions took, each from the moment in which the node heard of it to the last write to the maps.
	Latencies []time.Duration `json:"latenciesNanoseconds,omitempty"`
	// Reason and Message say why Newest is not in force, or not for all pods. Empty when it is, and while it is on its way.
	Reason  Reason `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// NotUnderstood names the parts of the policy that this node enforces as the API says that unknown parts must be: they open nothing.
	NotUnderstood []string `json:"notUnderstood,omitempty"`
}

// Enforced says that a version of the policy judges all packets that it should.
func (p Policy) Enforced(v Version) bool { return p.InForce == v && p.Reason == "" }

// Report is what one node says of its policies.
type Report struct {
	Node     string   `json:"node"`
	Policies []Policy `json:"policies"`
}

// Reason is a word about why a policy is not in force.
type Reason string

// Reasons.
const (
	// Invalid: the object cannot be read. The API refuses such objects.
	Invalid Reason = "Invalid"
	// TooManyRules: some pod would have more rules in one direction than a set can have.
	TooManyRules Reason = "TooManyRules"
	// NoRoom: a map of the datapath is full.
	NoRoom Reason = "NoRoom"
	// Failed: the datapath refused it for another reason.
	Failed Reason = "Failed"
)

// Quantile is the smallest of the durations that the share q of them does not exceed; 0 of none.
func Quantile(q float64, of []time.Duration) time.Duration {
	if len(of) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(of))
	rank := int(q*float64(len(sorted)) + 0.999999) // the nearest rank, from 1
	return sorted[min(max(rank, 1), len(sorted))-1]
}
