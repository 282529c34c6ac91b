// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// nodePeer is a node as a peer of policies: its labels, and all addresses of its status.
type nodePeer struct {
	labels labels.Set
	addrs  []netip.Addr
}

// SetNodePeer adds or replaces a node as a peer and reports whether policy may differ.
func (c *Cluster) SetNodePeer(obj *corev1.Node) bool {
	n := nodePeer{labels: obj.Labels}
	for _, address := range obj.Status.Addresses {
		if a, err := netip.ParseAddr(address.Address); err == nil {
			n.addrs = append(n.addrs, a.Unmap())
		}
	}
	old, ok := c.nodePeers[obj.Name]
	if ok && labels.Equals(old.labels, n.labels) && slices.Equal(old.addrs, n.addrs) {
		return false
	}
	c.nodePeers[obj.Name] = n
	return c.nodeChanged(old, n)
}

// DeleteNodePeer forgets a node and reports whether policy may differ.
func (c *Cluster) DeleteNodePeer(name string) bool {
	old, ok := c.nodePeers[name]
	if !ok {
		return false
	}
	delete(c.nodePeers, name)
	return c.nodeChanged(old, nodePeer{})
}

// nodeChanged matters only while some policy names nodes.
func (c *Cluster) nodeChanged(before, after nodePeer) bool {
	if len(c.index.nodes) == 0 {
		return false
	}
	for _, addr := range slices.Concat(before.addrs, after.addrs) {
		c.settleAddress(addr)
	}
	return true
}

// nodeAtoms lists the atoms of an address that is no pod's, by serial.
func (c *Cluster) nodeAtoms(addr netip.Addr) []*atom {
	if len(c.index.nodes) == 0 {
		return nil
	}
	var out []*atom
	for _, n := range c.nodePeers {
		if !slices.Contains(n.addrs, addr) {
			continue
		}
		for a := range c.index.nodes {
			if a.nodes.Matches(n.labels) && !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	slices.SortFunc(out, compareAtoms)
	return out
}

// unheld leaves the addresses that no pod owns.
func (c *Cluster) unheld(addrs []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return c.held[a] != nil })
}
