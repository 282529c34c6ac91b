// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"skep.dev/skep/datapath"
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
	if old, ok := c.nodePeers[obj.Name]; ok && labels.Equals(old.labels, n.labels) && slices.Equal(old.addrs, n.addrs) {
		return false
	}
	c.nodePeers[obj.Name] = n
	return c.nodesChanged()
}

// DeleteNodePeer forgets a node and reports whether policy may differ.
func (c *Cluster) DeleteNodePeer(name string) bool {
	if _, ok := c.nodePeers[name]; !ok {
		return false
	}
	delete(c.nodePeers, name)
	return c.nodesChanged()
}

// nodesChanged matters only while some policy names nodes.
func (c *Cluster) nodesChanged() bool {
	for _, a := range c.atoms {
		if a.nodes != nil {
			c.addressesStale = true
			return true
		}
	}
	return false
}

// renderNodes adds the atoms of the nodes' addresses. A pod's address stays the pod's.
func (c *Cluster) renderNodes(to map[netip.Addr][]datapath.AtomID) {
	for _, a := range c.atoms {
		if a.nodes == nil || a.named != nil { // a port name means nothing at a node
			continue
		}
		for _, n := range c.nodePeers {
			if !a.nodes.Matches(n.labels) {
				continue
			}
			for _, addr := range n.addrs {
				if len(c.owners[addr]) == 0 && !slices.Contains(to[addr], a.id) {
					to[addr] = append(to[addr], a.id)
				}
			}
		}
	}
	for _, n := range c.nodePeers {
		for _, addr := range n.addrs {
			slices.Sort(to[addr])
		}
	}
}
