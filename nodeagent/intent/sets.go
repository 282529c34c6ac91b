// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"maps"
	"slices"
	"strings"

	"skep.dev/skep/datapath"
)

// profileSets are the two policy sets of a profile with what they hold on to.
type profileSets struct {
	sets  [2]datapath.PolicySet
	atoms []*atom
	// named are the port names whose meaning depends on the peers.
	named map[namedPort]bool
	stale bool
	// unfit says why they cannot be used; nil when they can.
	unfit *unfit
}

// Policy renders the whole policy of this node. The result is never changed afterwards, and shares what did not change
// with the results before.
func (c *Cluster) Policy() *datapath.PolicyState {
	c.buildStale()
	if c.endpointsStale {
		c.renderEndpoints()
	}
	return &datapath.PolicyState{
		Addresses: c.groups.addresses.Map(),
		Groups:    c.groups.atoms.Map(),
		CIDRs:     c.cidrs.Map(),
		Sets:      c.sets,
		Endpoints: c.endpoints,
	}
}

func (c *Cluster) renderEndpoints() {
	c.endpointsStale = false
	c.sets = map[datapath.SetID]datapath.PolicySet{}
	c.endpoints = map[datapath.EndpointID]datapath.EndpointPolicy{}
	for _, p := range c.localPods {
		if p.profile == nil || c.severed(p.profile) {
			continue
		}
		s := &p.profile.sets.sets
		c.endpoints[datapath.EndpointID(p.uid)] = datapath.EndpointPolicy{Ingress: s[datapath.Ingress].ID, Egress: s[datapath.Egress].ID}
		for _, set := range s {
			c.sets[set.ID] = set
		}
	}
}

// EnforcedWith lists the local pods whose own traffic is settled once the policy that Policy renders now is in force, with
// true if their addresses as a peer are too. A hostNetwork pod needs nothing.
func (c *Cluster) EnforcedWith() map[datapath.EndpointID]bool {
	out := make(map[datapath.EndpointID]bool, len(c.localPods))
	for _, p := range c.localPods {
		if p.profile != nil && p.profile.nsLabels == nil {
			continue // what selects namespaces may yet select the pod
		}
		if p.profile != nil && c.lacks(p.profile) {
			continue // what should judge it does not
		}
		out[datapath.EndpointID(p.uid)] = p.hostNetwork || len(p.addrs) > 0
	}
	return out
}

// samePolicy compares two renderings. Sets are equal when their IDs are: those follow from the content.
func samePolicy(a, b *datapath.PolicyState) bool {
	if a == nil || b == nil {
		return a == b
	}
	sameSet := func(x, y datapath.PolicySet) bool { return x.ID == y.ID }
	sameGroup := func(x, y datapath.GroupID) bool { return x == y }
	return maps.Equal(a.Endpoints, b.Endpoints) && maps.EqualFunc(a.Sets, b.Sets, sameSet) && a.CIDRs.Equal(b.CIDRs, datapath.CIDR.Equal) &&
		a.Addresses.Equal(b.Addresses, sameGroup) && a.Groups.Equal(b.Groups, slices.Equal)
}

// buildStale builds the sets that are missing or stale. Atoms of the new sets are acquired before those of the old are
// released, so that one that stays is not evaluated again.
func (c *Cluster) buildStale() {
	for pr := range c.localProfiles {
		if pr.sets != nil && !pr.sets.stale {
			continue
		}
		c.renew(pr)
		c.endpointsStale = true
	}
}

func (pr *profile) markStale() {
	if pr.sets != nil {
		pr.sets.stale = true
	}
}

// staleByName marks the sets in which a port name is split by number.
func (c *Cluster) staleByName(np namedPort) {
	for pr := range c.localProfiles {
		if pr.sets != nil && pr.sets.named[np] {
			pr.sets.stale = true
		}
	}
}

func (c *Cluster) dropSets(pr *profile) {
	c.releaseSets(pr.sets)
	pr.sets = nil
	delete(c.unfit, pr)
}

func (c *Cluster) releaseSets(s *profileSets) {
	if s == nil {
		return
	}
	for _, a := range s.atoms {
		c.releaseAtom(a)
	}
	for _, set := range s.sets {
		c.rules.releaseDefault(set.DefaultRule)
		if set.Audit != nil {
			c.rules.releaseDefault(set.Audit.Rule)
		}
	}
}

func (c *Cluster) buildSets(pr *profile) *profileSets {
	b := &setBuilder{
		c: c, pr: pr, out: &profileSets{named: map[namedPort]bool{}},
		selecting: c.policiesFor(pr), admin: c.clusterPoliciesFor(pr, tierAdmin), baseline: c.clusterPoliciesFor(pr, tierBaseline),
	}
	for _, dir := range []datapath.Direction{datapath.Ingress, datapath.Egress} {
		b.out.sets[dir] = b.build(dir)
	}
	b.measure()
	return b.out
}

// policiesFor lists the policies that select a profile, by name.
func (c *Cluster) policiesFor(pr *profile) []*policy {
	var out []*policy
	for _, p := range c.policies[pr.namespace] {
		if p.subject.Matches(pr.labels) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *policy) int { return strings.Compare(a.name, b.name) })
	return out
}

// setBuilder builds the sets of one profile and collects what they hold.
type setBuilder struct {
	c   *Cluster
	pr  *profile
	out *profileSets

	selecting       []*policy
	admin, baseline []*clusterPolicy
}

// build puts the tiers one after the other. NetworkPolicy decides for good about the pods it isolates, so that those have no
// baseline. In each view that is another question: pods that only policies in audit mode isolate have their baseline enforced, and would
// have none.
func (b *setBuilder) build(dir datapath.Direction) datapath.PolicySet {
	set := datapath.PolicySet{Direction: dir, Default: datapath.Allow}
	b.addTier(&set, tierAdmin, b.admin, datapath.BothViews)
	var isolating, would []source
	for _, p := range b.selecting {
		side := p.sides[dir]
		if side == nil {
			continue
		}
		would = append(would, p.source)
		if !p.audit {
			isolating = append(isolating, p.source)
		}
		b.addRules(&set, tierNetworkPolicy, p.source, side.rules, datapath.BothViews)
	}
	switch {
	case len(isolating) > 0:
		set.Default = datapath.Deny
		set.DefaultRule = b.c.rules.acquireIsolation(dir, isolating)
	case len(would) > 0:
		b.addTier(&set, tierBaseline, b.baseline, datapath.EnforcedOnly)
	default:
		b.addTier(&set, tierBaseline, b.baseline, datapath.BothViews)
	}
	set.Audit = b.auditDefault(dir, len(isolating), would)
	set.ID = setID(set)
	return set
}

// auditDefault is the default of the would-be view; nil when it is the enforced one. What would be let through by default has a number
// too when a rule in audit mode may have led there, or nobody would count it.
func (b *setBuilder) auditDefault(dir datapath.Direction, isolating int, would []source) *datapath.AuditDefault {
	if len(would) > isolating {
		return &datapath.AuditDefault{Action: datapath.Deny, Rule: b.c.rules.acquireIsolation(dir, would)}
	}
	if isolating > 0 {
		return nil
	}
	var passing []source
	for _, p := range slices.Concat(b.admin, b.baseline) {
		if p.audit && slices.ContainsFunc(p.sides[dir], func(r *rule) bool { return r.action == datapath.Pass }) {
			passing = append(passing, p.source)
		}
	}
	if len(passing) == 0 {
		return nil
	}
	return &datapath.AuditDefault{Action: datapath.Allow, Rule: b.c.rules.acquireOpen(dir, passing)}
}

// addTier adds the rules of cluster policies, at most to a view. A tier that can deny starts with a denial of the pods whose namespace
// is not known yet: nobody can say that its rules do not mean them.
func (b *setBuilder) addTier(set *datapath.PolicySet, tier uint8, policies []*clusterPolicy, within datapath.View) {
	denies := map[bool]bool{} // by whether the policy is in audit mode
	for _, p := range policies {
		if slices.ContainsFunc(p.sides[set.Direction], func(r *rule) bool { return r.action == datapath.Deny }) {
			denies[p.audit] = true
		}
	}
	if view, seen := viewOf(!denies[false], within); seen && len(denies) > 0 {
		set.Rules = append(set.Rules, datapath.Rule{
			Tier: tier, View: view, Action: datapath.Deny, Peers: b.hold([]peer{strangers}, nil), AnyPort: true,
		})
	}
	for _, p := range policies {
		b.addRules(set, tier, p.source, p.sides[set.Direction], within)
	}
}

// viewOf says in which view a policy's rules are, in a tier that is itself in a view. It reports false when they are in none.
func viewOf(audit bool, within datapath.View) (datapath.View, bool) {
	if !audit {
		return within, true
	}
	return datapath.AuditOnly, within == datapath.BothViews
}

func (b *setBuilder) addRules(set *datapath.PolicySet, tier uint8, from source, rules []*rule, within datapath.View) {
	view, seen := viewOf(from.audit, within)
	if !seen {
		return
	}
	for i, r := range rules {
		if r.id == 0 {
			r.id = b.c.rules.ruleID(from, set.Direction, i)
		}
		for _, entry := range b.expand(set.Direction, r) {
			entry.Tier, entry.Action, entry.View = tier, r.action, view
			set.Rules = append(set.Rules, entry)
		}
	}
}

// expand turns a rule into the entries of a set. A port name means a number of the pod that is connected to: for ingress
// that is the subject, so the numbers are known here. For egress it is the peer, so the rule is split into one
// entry per number, whose peers are narrowed to the pods where the name means that number. All carry the rule's id.
func (b *setBuilder) expand(dir datapath.Direction, r *rule) []datapath.Rule {
	plain := datapath.Rule{ID: r.id, AnyPeer: r.anyPeer, AnyPort: r.anyPort, Ports: r.ports}
	if dir == datapath.Ingress && len(r.named) > 0 {
		plain.Ports = slices.Clone(r.ports)
		for _, pp := range b.pr.ports {
			if slices.Contains(r.named, pp.namedPort) {
				plain.Ports = append(plain.Ports, datapath.PortRange{Protocol: pp.protocol, First: pp.number, Last: pp.number})
			}
		}
	}
	var out []datapath.Rule
	if plain.AnyPort || len(plain.Ports) > 0 {
		plain.Peers = b.hold(r.peers, nil)
		out = append(out, plain)
	}
	if dir == datapath.Egress {
		for _, np := range r.named {
			out = append(out, b.split(r, np)...)
		}
	}
	return out
}

func (b *setBuilder) split(r *rule, np namedPort) []datapath.Rule {
	b.out.named[np] = true
	peers := r.peers
	if r.anyPeer {
		peers = []peer{anyPod}
	}
	var out []datapath.Rule
	for _, number := range slices.Sorted(maps.Keys(b.c.numbers[np])) {
		out = append(out, datapath.Rule{
			ID:    r.id,
			Peers: b.hold(peers, &podPort{np, number}),
			Ports: []datapath.PortRange{{Protocol: np.protocol, First: number, Last: number}},
		})
	}
	return out
}

func (b *setBuilder) hold(peers []peer, named *podPort) []datapath.AtomID {
	ids := make([]datapath.AtomID, 0, len(peers))
	for _, p := range peers {
		a := b.c.acquireAtom(p, named)
		b.out.atoms = append(b.out.atoms, a)
		ids = append(ids, a.id)
	}
	return ids
}

// setID is a digest of everything that distinguishes sets.
func setID(s datapath.PolicySet) datapath.SetID {
	h := sha256.New()
	writeNumbers(h, uint32(s.Direction), uint32(s.Default), uint32(s.DefaultRule), boolNumber(s.Audit != nil), uint32(len(s.Rules)))
	if s.Audit != nil {
		writeNumbers(h, uint32(s.Audit.Action), uint32(s.Audit.Rule))
	}
	for _, r := range s.Rules {
		writeNumbers(h, uint32(r.ID), uint32(r.Tier), uint32(r.Action), uint32(r.View), boolNumber(r.AnyPeer), boolNumber(r.AnyPort), uint32(len(r.Peers)), uint32(len(r.Ports)))
		for _, p := range r.Ports {
			writeNumbers(h, uint32(p.Protocol), uint32(p.First), uint32(p.Last))
		}
		for _, p := range r.Peers {
			writeNumbers(h, uint32(len(p)))
			h.Write([]byte(p))
		}
	}
	return datapath.SetID(hex.EncodeToString(h.Sum(nil)[:16]))
}

func writeNumbers(h hash.Hash, ns ...uint32) {
	var b [4]byte
	for _, n := range ns {
		binary.BigEndian.PutUint32(b[:], n)
		h.Write(b[:])
	}
}

func boolNumber(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}
