// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"skep.dev/skep/datapath"
)

// peer is a peer of a rule, of either API, in parsed form. Its id is canonical: peers that mean the same have the same.
type peer struct {
	id string
	// namespace is exact when no namespaceSelector is given; otherwise namespaces selects.
	namespace  string
	namespaces labels.Selector
	pods       labels.Selector
	// cidr is set for blocks, and then nothing above is.
	cidr *datapath.CIDR
	// nodes is set for a peer that selects nodes, and then pods selects nothing.
	nodes labels.Selector
}

// anyPod is the peer of an egress rule without peers when its port is named: the name needs a pod to mean a number.
var anyPod = peer{id: "pods:*", namespaces: labels.Everything(), pods: labels.Everything()}

// strangers are pods whose namespace is not known yet.
var strangers = peer{id: "pods:?"}

// atom is a peer in use, possibly narrowed to the pods that give a port name one number.
type atom struct {
	peer
	id    datapath.AtomID
	named *podPort
	// serial numbers atoms in the order in which they came into use.
	serial uint32
	// refs counts the sets that hold it.
	refs int
	// groups are those whose addresses belong to it.
	groups map[*group]struct{}
}

// parsePeer reads a peer that is no ipBlock.
func parsePeer(p networkingv1.NetworkPolicyPeer, namespace string) (peer, error) {
	pods, podsID := labels.Everything(), ""
	if p.PodSelector != nil {
		var err error
		if pods, podsID, err = parseSelector(p.PodSelector); err != nil {
			return peer{}, fmt.Errorf("podSelector: %w", err)
		}
	}
	if p.NamespaceSelector == nil {
		if p.PodSelector == nil {
			// The API refuses a peer without any field; one that names nobody is the safe reading.
			return peer{id: "none", pods: labels.Nothing()}, nil
		}
		return peer{id: "pods:" + namespace + "|" + podsID, namespace: namespace, pods: pods}, nil
	}
	ns, nsID, err := parseSelector(p.NamespaceSelector)
	if err != nil {
		return peer{}, fmt.Errorf("namespaceSelector: %w", err)
	}
	return peer{id: "pods:{" + nsID + "}|" + podsID, namespaces: ns, pods: pods}, nil
}

// parseSelector returns the selector and its canonical form.
func parseSelector(s *metav1.LabelSelector) (labels.Selector, string, error) {
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return nil, "", err
	}
	reqs, selectable := sel.Requirements()
	if !selectable {
		return sel, "!", nil
	}
	var parts []string
	for _, r := range reqs {
		parts = append(parts, canonical(r))
	}
	slices.Sort(parts)
	return sel, strings.Join(slices.Compact(parts), ","), nil
}

// canonical writes "k = v" and "k in (v)" the same. Keys and values contain none of the signs used.
func canonical(r labels.Requirement) string {
	values := r.Values().List() // sorted
	switch r.Operator() {
	case selection.Exists:
		return r.Key()
	case selection.DoesNotExist:
		return "!" + r.Key()
	case selection.NotIn, selection.NotEquals:
		return r.Key() + "!=(" + strings.Join(values, " ") + ")"
	default:
		return r.Key() + "=(" + strings.Join(values, " ") + ")"
	}
}

// atomID names the peer, narrowed to those pods for which named holds if it is not nil.
func (p peer) atomID(named *podPort) datapath.AtomID {
	if named == nil {
		return datapath.AtomID(p.id)
	}
	return datapath.AtomID(fmt.Sprintf("%s&%s/%d=%d", p.id, named.name, named.protocol, named.number))
}

// byAddress says that membership depends on the pod's address and not only on its profile.
func (a *atom) byAddress() bool { return a.cidr != nil && a.named != nil }

// selects reports whether the pods of a profile belong to the atom. Atoms that need the address belong to no profile.
func (a *atom) selects(pr *profile) bool {
	return a.admitsPort(pr) && a.peer.selects(pr)
}

// selects reports whether the peer is the pods of a profile, among others.
func (p peer) selects(pr *profile) bool {
	return p.selectsIn(pr.namespace, pr.nsLabels) && p.selectsLabels(pr)
}

// selectsIn reports whether the peer may be pods of a namespace, whose labels are nil while they are not known.
func (p peer) selectsIn(namespace string, set labels.Set) bool {
	switch {
	case p.cidr != nil || p.nodes != nil:
		return false
	case p.id == strangers.id:
		return set == nil
	case p.namespaces != nil:
		// Labels that have not arrived yet are not absent labels: "!untrusted" must not hold for them.
		return set != nil && p.namespaces.Matches(set)
	}
	return p.namespace == namespace
}

// selectsLabels reports whether the peer is the pods of a profile in a namespace that it selects in.
func (p peer) selectsLabels(pr *profile) bool {
	return p.id == strangers.id || p.pods.Empty() || p.pods.Matches(pr.labels)
}

func (a *atom) admitsPort(pr *profile) bool {
	return a.named == nil || slices.Contains(pr.ports, *a.named)
}

func (a *atom) containsAddress(addr netip.Addr) bool {
	around := func(p netip.Prefix) bool { return p.Contains(addr) }
	return slices.ContainsFunc(a.cidr.Prefixes, around) && !slices.ContainsFunc(a.cidr.Except, around)
}

// atomIndex says where to look for atoms.
type atomIndex struct {
	// pods are those that select profiles, by namespace, or under "" when they may select in any.
	pods map[string]map[*atom]struct{}
	// byAddress depend on the address of a pod too, nodes on the nodes that have it.
	byAddress, nodes map[*atom]struct{}
}

// list is the part of the index that an atom belongs to; nil for CIDRs, which are not resolved here, and for a port name at nodes,
// which means nothing.
func (x *atomIndex) list(a *atom) map[*atom]struct{} {
	switch {
	case a.byAddress():
		return x.byAddress
	case a.nodes != nil && a.named == nil:
		return x.nodes
	case a.nodes != nil || a.cidr != nil:
		return nil
	}
	if x.pods[a.namespace] == nil {
		x.pods[a.namespace] = map[*atom]struct{}{}
	}
	return x.pods[a.namespace]
}

// acquireAtom returns the atom, made and evaluated against all that it may select if it is new.
func (c *Cluster) acquireAtom(p peer, named *podPort) *atom {
	id := p.atomID(named)
	a := c.atoms[id]
	if a == nil {
		c.lastAtom++
		a = &atom{peer: p, id: id, named: named, serial: c.lastAtom, groups: map[*group]struct{}{}}
		c.atoms[id] = a
		if a.cidr != nil && named == nil {
			c.cidrs.Put(id, *a.cidr)
		}
		if list := c.index.list(a); list != nil {
			list[a] = struct{}{}
		}
		c.groups.add(a, c.evaluate(a))
	}
	a.refs++
	return a
}

// evaluate lists the addresses that belong to a new atom, each once, and notes it in the profiles that it selects.
func (c *Cluster) evaluate(a *atom) []netip.Addr {
	var out []netip.Addr
	switch {
	case a.byAddress():
		for addr, pr := range c.held {
			if a.admitsPort(pr) && a.containsAddress(addr) {
				out = append(out, addr)
			}
		}
	case a.nodes != nil && a.named == nil:
		for _, n := range c.nodePeers {
			if a.nodes.Matches(n.labels) {
				out = append(out, c.unheld(n.addrs)...)
			}
		}
		slices.SortFunc(out, netip.Addr.Compare)
		out = slices.Compact(out)
	case a.nodes == nil && a.cidr == nil:
		for pr := range c.selected(a) {
			pr.selected = append(pr.selected, a)
			out = append(out, pr.addrs...)
		}
	}
	return out
}

// selected goes over the profiles that a selector of pods selects. It asks each namespace once.
func (c *Cluster) selected(a *atom) iter.Seq[*profile] {
	return func(yield func(*profile) bool) {
		for namespace, profiles := range c.candidates(a) {
			if !a.selectsIn(namespace, c.namespaces[namespace]) {
				continue
			}
			for pr := range profiles {
				if a.admitsPort(pr) && a.selectsLabels(pr) && !yield(pr) {
					return
				}
			}
		}
	}
}

// candidates goes over the profiles of the namespaces in which a selector of pods may select.
func (c *Cluster) candidates(a *atom) iter.Seq2[string, map[*profile]struct{}] {
	if a.namespace == "" {
		return maps.All(c.profilesIn)
	}
	return func(yield func(string, map[*profile]struct{}) bool) {
		yield(a.namespace, c.profilesIn[a.namespace])
	}
}

func (c *Cluster) releaseAtom(a *atom) {
	a.refs--
	if a.refs > 0 {
		return
	}
	delete(c.atoms, a.id)
	if a.cidr != nil && a.named == nil {
		c.cidrs.Delete(a.id)
	}
	if list := c.index.list(a); list != nil {
		delete(list, a)
	}
	if a.cidr == nil && a.nodes == nil {
		if len(c.index.pods[a.namespace]) == 0 {
			delete(c.index.pods, a.namespace)
		}
		for _, profiles := range c.candidates(a) {
			for pr := range profiles {
				if i, ok := slices.BinarySearchFunc(pr.selected, a, compareAtoms); ok {
					pr.selected = slices.Delete(pr.selected, i, i+1)
				}
			}
		}
	}
	c.groups.drop(a)
}

func compareAtoms(a, b *atom) int { return cmp.Compare(a.serial, b.serial) }
