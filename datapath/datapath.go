// SPDX-License-Identifier: Apache-2.0

// Package datapath defines what the packet path of one node should do, as plain values, and the
// interface through which the node agent asks for it.
//
// Nothing here knows Kubernetes or the kernel. The node agent translates Kubernetes objects into these
// intent types; datapath/kernel makes the running kernel agree with them.
package datapath

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// EndpointID names one local pod for its whole life. It is the pod's UID.
type EndpointID string

// Endpoint is a pod of this node with its host-side device.
type Endpoint struct {
	ID        EndpointID
	Namespace string
	Name      string
	// Ifindex is the host-side device, in the node's network namespace.
	Ifindex int
	// IfName is that device's name.
	IfName string
	// Addrs are the pod's own addresses: at most one IPv4 and one IPv6 address. Any other source that the
	// pod sends from is dropped as spoofed.
	Addrs []netip.Addr
	// MAC is the hardware address of the device inside the pod; HostMAC that of the host-side device.
	MAC, HostMAC [6]byte
}

// AtomID names one peer selector in use, in a canonical form chosen by the translator (equal selectors have
// equal IDs). Atoms are the unit in which policy rules name their peers.
type AtomID string

// SetID names one policy set. It is derived from the set's content, so pods with the same rules share it.
type SetID string

// RuleID identifies a rule for attribution. It is never reused while a conntrack entry can name it.
// Zero is "no rule". RuleIDs are handed out by the translator and are at most 2^32-1.
type RuleID uint32

// Direction says for which side of the connection a policy set judges.
type Direction uint8

// The two directions of NetworkPolicy.
const (
	Ingress Direction = iota
	Egress
)

// String is the API's word: "ingress" or "egress".
func (d Direction) String() string {
	if d == Egress {
		return "egress"
	}
	return "ingress"
}

// Protocol is an IP protocol number as policy and Services use it.
type Protocol uint8

// Protocols that Services and policy ports may name.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// String is the API's word where it has one, and "protocol N" for the others.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// PortRange is a set of destination ports of one protocol, both ends included. First = 0 and Last = 65535 is
// every port of the protocol.
type PortRange struct {
	Protocol    Protocol
	First, Last uint16
}

// Action is what a rule does with a packet that it matches.
type Action uint8

// Actions. NetworkPolicy rules only Allow; the others exist for the cluster-scoped tiers.
const (
	Allow Action = iota
	Deny
	Pass
)

// View says in which of the two answers about a packet a rule takes part: the one that is enforced, and the one that
// would be given if the policies in audit mode were enforced too.
type View uint8

// Views. Rules of policies that are enforced are in both; what would no longer be asked if a policy in audit mode were
// enforced is in the enforced one alone.
const (
	BothViews View = iota
	EnforcedOnly
	AuditOnly
)

// Rule is one entry of a policy set. A packet matches when its peer is in one of Peers (or AnyPeer is set) and its
// protocol and destination port are in one of Ports (or AnyPort is set). Empty Peers without AnyPeer match nothing.
type Rule struct {
	ID     RuleID
	Action Action
	// Tier groups rules: Pass goes on with the first rule of a later tier. Within a set tiers never decrease, and there are
	// at most three of them.
	Tier    uint8
	View    View
	AnyPeer bool
	Peers   []AtomID
	AnyPort bool
	Ports   []PortRange
}

// PolicySet is the ordered list of rules that judges the traffic of some endpoints in one direction.
// The first matching rule decides; when none matches, Default does.
type PolicySet struct {
	ID        SetID
	Direction Direction
	Rules     []Rule
	// Default decides what no rule matched: Deny when some policy isolates the pod in this direction.
	Default Action
	// DefaultRule attributes a default deny. It stands for "isolated by these policies".
	DefaultRule RuleID
	// Audit is the default of the answer that would be given; nil when it is the same.
	Audit *AuditDefault
}

// AuditDefault decides what no rule matched, if the policies in audit mode were enforced.
type AuditDefault struct {
	Action Action
	Rule   RuleID
}

// CIDR is an atom of the addresses in any of some prefixes, but not in one of the exceptions. It applies to every address, pods
// included.
type CIDR struct {
	Prefixes, Except []netip.Prefix
}

// Equal says that two are written the same.
func (c CIDR) Equal(o CIDR) bool {
	return slices.Equal(c.Prefixes, o.Prefixes) && slices.Equal(c.Except, o.Except)
}

// EndpointPolicy names the sets that judge one local pod. Both are always present: "not isolated" is a set
// with no rules and Default Allow, never a missing one.
type EndpointPolicy struct {
	Ingress, Egress SetID
}

// GroupID names addresses that belong to the same selector atoms.
type GroupID uint64

// PolicyState is the whole policy this node must enforce. It is a value: once handed over it must not change. One that is made
// from another shares the Maps' unchanged parts with it; the receiver compares them with what is in force, so that a change costs
// what it changes.
type PolicyState struct {
	// Addresses gives, for every pod address of the cluster that some pod selector selects, its group. CIDR atoms follow from
	// CIDRs instead. An address that is absent belongs to CIDR atoms only.
	Addresses Map[netip.Addr, GroupID]
	// Groups gives the selector atoms of every group in Addresses. A group that keeps its ID while an atom comes that all of
	// its addresses belong to, or goes, is cheaper than another group.
	Groups    Map[GroupID, []AtomID]
	CIDRs     Map[AtomID, CIDR]
	Sets      map[SetID]PolicySet
	Endpoints map[EndpointID]EndpointPolicy
}

// AtomsOf lists the selector atoms of an address.
func (p *PolicyState) AtomsOf(addr netip.Addr) []AtomID {
	group, _ := p.Addresses.Get(addr)
	atoms, _ := p.Groups.Get(group)
	return atoms
}

// Grouped gives addresses by their selector atoms the form of PolicyState.
func Grouped(atoms map[netip.Addr][]AtomID) (Map[netip.Addr, GroupID], Map[GroupID, []AtomID]) {
	var addresses MapEditor[netip.Addr, GroupID]
	var groups MapEditor[GroupID, []AtomID]
	known := map[string]GroupID{}
	for addr, ids := range atoms {
		ids = slices.Sorted(slices.Values(ids))
		key := fmt.Sprintf("%q", ids)
		if _, ok := known[key]; !ok {
			known[key] = GroupID(len(known) + 1)
			groups.Put(known[key], ids)
		}
		addresses.Put(addr, known[key])
	}
	return addresses.Map(), groups.Map()
}

// ServiceID names a Service port in one family, for logs and status: "namespace/name:port/family".
type ServiceID string

// Frontend is the address that clients use.
type Frontend struct {
	Addr     netip.Addr
	Port     uint16
	Protocol Protocol
}

// Backend is one endpoint of a Service, in the family of its frontend.
type Backend struct {
	Addr netip.Addr
	Port uint16
	// Local says that the backend is on this node.
	Local bool
}

// Service maps one frontend to its backends. Without backends the datapath refuses new connections.
type Service struct {
	ID       ServiceID
	Frontend Frontend
	Backends []Backend
	// LocalOnly restricts to backends of this node (internalTrafficPolicy: Local).
	LocalOnly bool
	// AffinityTimeout is zero without session affinity.
	AffinityTimeout time.Duration
}

// Node is a member of the cluster as far as packets are concerned.
type Node struct {
	Name string
	// Addrs are the node's addresses on the fabric, at most one of each family.
	Addrs    []netip.Addr
	PodCIDRs []netip.Prefix
	// Self marks the node this datapath runs on.
	Self bool
}

// Datapath makes the node's packet path agree with intent. All methods are idempotent and safe for concurrent use.
// They return nil only when the change is in force for the next packet. An error means that the last good state is
// still in force for whatever could not be changed.
type Datapath interface {
	// SetEndpoint attaches a pod's device. Until a PolicyState names the endpoint its traffic is dropped.
	SetEndpoint(ctx context.Context, ep Endpoint) error
	// DeleteEndpoint detaches and forgets, and purges conntrack entries of its addresses. Absence is not an error.
	DeleteEndpoint(ctx context.Context, id EndpointID) error
	// Endpoints lists what is attached, including what was adopted from before a restart.
	Endpoints(ctx context.Context) ([]Endpoint, error)
	// SetPolicy replaces the whole policy, make before break.
	SetPolicy(ctx context.Context, p *PolicyState) error
	// SetServices replaces the whole set of Services: adds before deletes.
	SetServices(ctx context.Context, services []Service) error
	// SetNodes replaces the set of nodes: routes to their pods, and which sources may come in by the uplink.
	SetNodes(ctx context.Context, nodes []Node) error
	// FollowAudit hands over the connections about which policies in audit mode would decide otherwise, within a moment, until ctx
	// ends. Of several callers each event reaches one. An event that found no room is not handed over: Status counts those.
	FollowAudit(ctx context.Context, take func(AuditEvent)) error
	// RuleCounters reads what the rules have decided, and nothing else: Status walks every map to say how full it is.
	RuleCounters(ctx context.Context) ([]RuleCounter, error)
	// Status reports what is attached, how full the maps are and what was dropped and why.
	Status(ctx context.Context) (Status, error)
	// Ask says what policy decides about connections, by the programs' own functions on the maps as they are. Nothing is counted or
	// remembered.
	Ask(ctx context.Context, questions []Question) ([]Answer, error)
	// Verify compares the maps with what was last asked for, and writes again what differs. It lists only maps that differed; after an
	// error some may not have been looked at. Others may work with the datapath meanwhile.
	Verify(ctx context.Context) ([]Repair, error)
	// Close releases file descriptors. What is pinned stays in force.
	Close() error
}

// Status is a snapshot for people and metrics.
type Status struct {
	Programs []Program
	Maps     []MapFill
	// Verdicts and Drops count packets since the maps were created.
	Verdicts []Counter
	Drops    []Counter
	// Warnings say what else on the node may stop packets.
	Warnings []string
	Rules    []RuleCounter
	// EventsLost counts the events that found no room since the maps were created.
	EventsLost uint64
}

// Program is one attached program.
type Program struct {
	Name, Hook, Target string
	ID                 uint32
}

// MapFill says how full one map is.
type MapFill struct {
	Name         string
	Entries, Max uint32
}

// Counter is a named packet counter; Name is the reason or verdict name as in bpf/skep/reasons.h.
type Counter struct {
	Name    string
	Packets uint64
	Bytes   uint64
}

// RuleCounter counts what one rule decided, or would have decided if its policy is in audit mode.
type RuleCounter struct {
	Rule                        RuleID
	Connections, Packets, Bytes uint64
	// Since is when the counters began.
	Since time.Time
	// WouldDeny and WouldAllow count the connections about which the rule would have decided otherwise than was decided.
	WouldDeny, WouldAllow uint64
}

// AuditEvent is a connection about which the policies in audit mode would have decided otherwise.
type AuditEvent struct {
	Time      time.Time
	Direction Direction
	Protocol  Protocol
	// Src is the initiator, Dst the responder behind any Service. Ports are 0 where the protocol has none.
	Src, Dst netip.AddrPort
	// Rule decided, WouldRule would have; WouldAllow says which way.
	Rule, WouldRule RuleID
	WouldAllow      bool
}
