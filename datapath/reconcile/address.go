// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"net/netip"
	"slices"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/bpfobj"
)

// An address has one entry, which says two things: which pod of this node has it (Node.owners) and which class policy puts it into
// (policy.addresses). Either can change without the other, so the entry is always written from both.

// adoptOwners learns which endpoint has which address. It follows the adoption of endpoints and of policy.
func (n *Node) adoptOwners() error {
	entries, err := n.maps.Address.All()
	if err != nil {
		return err
	}
	byIndex := map[uint32]datapath.Endpoint{}
	for _, ep := range n.endpoints {
		byIndex[uint32(ep.Ifindex)] = ep
	}
	for key, entry := range entries {
		if entry.Ifindex == 0 {
			continue
		}
		addr := bpfmap.Addr(key)
		if ep, known := byIndex[entry.Ifindex]; known && slices.Contains(ep.Addrs, addr) {
			n.owners[addr] = ep
		} else if err := n.writeAddress(addr, true); err != nil {
			return err
		}
	}
	return nil
}

// setOwner gives an address to an endpoint, or with nil to nobody.
func (n *Node) setOwner(addr netip.Addr, ep *datapath.Endpoint) error {
	return setFact(n, n.owners, addr, ep)
}

// setClass puts an address into a class, or with nil leaves it to the prefixes.
func (n *Node) setClass(addr netip.Addr, class *uint32) error {
	return setFact(n, n.policy.addresses, addr, class)
}

// setFact changes one of the two facts about an address and writes the entry; what could not be written has not changed.
func setFact[V any](n *Node, facts map[netip.Addr]V, addr netip.Addr, fact *V) error {
	addr = addr.Unmap()
	_, there := n.addressEntry(addr)
	before, had := facts[addr]
	if fact != nil {
		facts[addr] = *fact
	} else {
		delete(facts, addr)
	}
	err := n.writeAddress(addr, there)
	switch {
	case err == nil:
	case had:
		facts[addr] = before
	default:
		delete(facts, addr)
	}
	return err
}

// writeAddress makes an address's entry say what is known of it. there says that it has one.
func (n *Node) writeAddress(addr netip.Addr, there bool) error {
	entry, known := n.addressEntry(addr)
	key := bpfmap.AddrOf(addr)
	switch {
	case !known:
		return n.addressMap.remove(key)
	case there:
		return n.addressMap.changeAll([]bpfobj.SkepAddr{key}, []bpfobj.SkepAddress{entry})
	default:
		return n.addressMap.insert(key, entry)
	}
}

// placement is an address and its class.
type placement struct {
	addr  netip.Addr
	class uint32
}

// setClasses puts addresses into classes.
func (n *Node) setClasses(all []placement) error {
	var there []placement
	for _, at := range all {
		if _, ok := n.addressEntry(at.addr); ok {
			there = append(there, at)
		} else if err := n.setClass(at.addr, &at.class); err != nil {
			return err
		}
	}
	for some := range slices.Chunk(there, bpfmap.ChangeBatch) {
		if err := n.changeClasses(some); err != nil {
			return err
		}
	}
	return nil
}

// changeClasses does so with addresses that have entries, by one call.
func (n *Node) changeClasses(some []placement) error {
	var keys []bpfobj.SkepAddr
	var entries []bpfobj.SkepAddress
	for _, at := range some {
		entry, _ := n.addressEntry(at.addr)
		keys, entries = append(keys, bpfmap.AddrOf(at.addr)), append(entries, bpfmap.WithClass(entry, at.class))
	}
	if err := n.addressMap.changeAll(keys, entries); err != nil {
		return err
	}
	for _, at := range some {
		n.policy.addresses[at.addr] = at.class
	}
	return nil
}

// addressEntry is what is known of an address; false when nothing is.
func (n *Node) addressEntry(addr netip.Addr) (bpfobj.SkepAddress, bool) {
	var entry bpfobj.SkepAddress
	owner, owned := n.owners[addr]
	if owned {
		entry = bpfmap.Address(owner)
	}
	class, classified := n.policy.addresses[addr]
	if classified {
		entry = bpfmap.WithClass(entry, class)
	}
	return entry, owned || classified
}
