// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/bpfobj"
)

func (n *Node) adoptEndpoints() error {
	names, err := n.maps.EndpointName.All()
	if err != nil {
		return err
	}
	for ifindex, name := range names {
		entry, ok, err := n.maps.Endpoint.Get(ifindex)
		if err != nil {
			return err
		}
		if !ok {
			// The process died while deleting: finish its work.
			if err := n.maps.EndpointName.Remove(ifindex); err != nil {
				return err
			}
			continue
		}
		ep := bpfmap.AdoptEndpoint(ifindex, entry, name)
		n.endpoints[ep.ID] = ep
	}
	return nil
}

// Endpoints lists the endpoints in the maps, in order of their IDs.
func (n *Node) Endpoints() []datapath.Endpoint {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]datapath.Endpoint, 0, len(n.endpoints))
	for _, ep := range n.endpoints {
		out = append(out, ep)
	}
	slices.SortFunc(out, func(a, b datapath.Endpoint) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// SetEndpoint enters a pod. Flows of an address that another pod had are forgotten first, so that the new owner inherits
// nothing.
func (n *Node) SetEndpoint(ep datapath.Endpoint) error {
	if err := checkEndpoint(ep); err != nil {
		return fmt.Errorf("endpoint %s: %w", ep.ID, err)
	}
	name, err := bpfmap.EndpointName(ep)
	if err != nil {
		return fmt.Errorf("endpoint %s: %w", ep.ID, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	before, known := n.endpoints[ep.ID]
	if known {
		if err := n.forget(before, without(before.Addrs, ep.Addrs), before.Ifindex != ep.Ifindex); err != nil {
			return err
		}
	}
	var fresh, inherited []netip.Addr
	for _, addr := range ep.Addrs {
		owner, taken := n.owners[addr.Unmap()]
		if taken && owner.Ifindex == ep.Ifindex {
			continue
		}
		fresh = append(fresh, addr)
		if taken {
			inherited = append(inherited, addr)
		}
	}
	if err := n.purgeFlows(inherited); err != nil {
		return err
	}
	n.endpoints[ep.ID] = ep
	if err := n.enter(ep, name); err != nil {
		// One that is there in part would be in the way of all that comes.
		delete(n.endpoints, ep.ID)
		return errors.Join(err, n.forget(ep, ep.Addrs, true), n.forget(before, before.Addrs, true))
	}
	// Whoever sent to an address while it was nobody's has a flow that only its own egress policy has judged.
	return n.purgeFlows(fresh)
}

func (n *Node) enter(ep datapath.Endpoint, name bpfobj.SkepEndpointName) error {
	if err := errors.Join(n.writeEndpoint(ep), n.maps.EndpointName.Put(uint32(ep.Ifindex), name)); err != nil {
		return err
	}
	for _, addr := range ep.Addrs {
		if err := n.setOwner(addr, &ep); err != nil {
			return err
		}
	}
	return nil
}

func checkEndpoint(ep datapath.Endpoint) error {
	var families [2]int
	for _, addr := range ep.Addrs {
		if addr.Unmap().Is4() {
			families[0]++
		} else {
			families[1]++
		}
	}
	switch {
	case ep.ID == "":
		return errors.New("no ID")
	case ep.Ifindex <= 0:
		return fmt.Errorf("interface index %d", ep.Ifindex)
	case len(ep.Addrs) == 0 || families[0] > 1 || families[1] > 1:
		return fmt.Errorf("addresses %v: at least one and at most one of each family are needed", ep.Addrs)
	}
	return nil
}

// refreshEndpoints writes the entries that the policy has changed.
func (n *Node) refreshEndpoints() error {
	var errs []error
	for _, ep := range n.endpoints {
		entry, governed := n.endpointEntry(ep)
		if before, ok := n.written[uint32(ep.Ifindex)]; !governed || !ok || before != entry {
			errs = append(errs, n.writeEndpoint(ep))
		}
	}
	return errors.Join(errs...)
}

// writeEndpoint writes the one entry that decides what a pod may send and under which policy.
func (n *Node) writeEndpoint(ep datapath.Endpoint) error {
	ifindex := uint32(ep.Ifindex)
	entry, governed := n.endpointEntry(ep)
	if h := n.policy.inherited; !governed && h != nil && !h.over {
		// No policy of this process yet: what the last one enforced stays in force.
		before, ok, err := n.maps.Endpoint.Get(ifindex)
		if err != nil {
			return err
		}
		if ok && before.Addr4 == entry.Addr4 && before.Addr6 == entry.Addr6 {
			entry.IngressSet, entry.EgressSet = before.IngressSet, before.EgressSet
			entry.Flags |= before.Flags & uint32(bpfobj.SkepEndpointFlagENDPOINT_POLICY)
		}
	}
	delete(n.written, ifindex)
	if err := n.endpointMap.set(ifindex, entry); err != nil {
		return err
	}
	n.written[ifindex] = entry
	return nil
}

// endpointEntry is the entry of a pod; false when this process has no policy for it yet.
func (n *Node) endpointEntry(ep datapath.Endpoint) (bpfobj.SkepEndpoint, bool) {
	entry := bpfmap.Endpoint(ep)
	for _, addr := range ep.Addrs {
		if class, ok := n.policy.addresses[addr.Unmap()]; ok {
			bpfmap.SetOwnClass(&entry, addr, class)
		}
	}
	ingress, egress, ok := n.policy.setNumbers(ep.ID)
	if ok {
		entry.IngressSet, entry.EgressSet = ingress, egress
		entry.Flags |= uint32(bpfobj.SkepEndpointFlagENDPOINT_POLICY)
	}
	return entry, ok
}

// DeleteEndpoint forgets a pod and the flows of its addresses.
func (n *Node) DeleteEndpoint(id datapath.EndpointID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	ep, ok := n.endpoints[id]
	if !ok {
		return nil
	}
	if err := n.forget(ep, ep.Addrs, true); err != nil {
		return fmt.Errorf("endpoint %s: %w", id, err)
	}
	delete(n.endpoints, id)
	return nil
}

// forget removes addresses of an endpoint, and the endpoint itself if whole. An address that a newer pod has is that pod's.
func (n *Node) forget(ep datapath.Endpoint, addrs []netip.Addr, whole bool) error {
	var gone []netip.Addr
	for _, addr := range addrs {
		owner, ok := n.owners[addr.Unmap()]
		if !ok || owner.Ifindex != ep.Ifindex {
			continue
		}
		if err := n.setOwner(addr, nil); err != nil {
			return err
		}
		n.policy.loose[addr.Unmap()] = true
		gone = append(gone, addr)
	}
	if whole {
		ifindex := uint32(ep.Ifindex)
		delete(n.written, ifindex)
		if err := errors.Join(n.endpointMap.remove(ifindex), n.maps.EndpointName.Remove(ifindex)); err != nil {
			return err
		}
	}
	return n.purgeFlows(gone)
}

// purgeFlows deletes every flow that has one of the addresses at an end.
func (n *Node) purgeFlows(addrs []netip.Addr) error {
	if len(addrs) == 0 {
		return nil
	}
	gone := map[bpfobj.SkepAddr]bool{}
	for _, addr := range addrs {
		gone[bpfmap.AddrOf(addr)] = true
	}
	flows, err := n.maps.Flow.Keys()
	if err != nil {
		return err
	}
	for _, flow := range flows {
		if gone[flow.A] || gone[flow.B] {
			if err := n.maps.Flow.Remove(flow); err != nil {
				return err
			}
		}
	}
	return nil
}

func without(addrs, others []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return slices.Contains(others, a) })
}
