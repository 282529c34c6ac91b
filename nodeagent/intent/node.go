// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"skep.dev/skep/datapath"
)

// SetNode adds or replaces a node and reports whether the set of nodes differs. Most updates of Nodes are heartbeats.
func (c *Cluster) SetNode(obj *corev1.Node) bool {
	n := translateNode(obj, c.node)
	if old, ok := c.nodes[n.Name]; ok && slices.Equal(old.Addrs, n.Addrs) && slices.Equal(old.PodCIDRs, n.PodCIDRs) {
		return false
	}
	c.nodes[n.Name] = n
	return true
}

// DeleteNode forgets a node and reports whether it was known.
func (c *Cluster) DeleteNode(name string) bool {
	if _, ok := c.nodes[name]; !ok {
		return false
	}
	delete(c.nodes, name)
	return true
}

// Nodes renders the nodes of the cluster by name.
func (c *Cluster) Nodes() []datapath.Node {
	out := make([]datapath.Node, 0, len(c.nodes))
	for _, name := range slices.Sorted(maps.Keys(c.nodes)) {
		out = append(out, c.nodes[name])
	}
	return out
}

func translateNode(obj *corev1.Node, self string) datapath.Node {
	n := datapath.Node{Name: obj.Name, Self: obj.Name == self}
	var have4, have6 bool
	for _, addr := range obj.Status.Addresses {
		a, err := netip.ParseAddr(addr.Address)
		if err != nil || addr.Type != corev1.NodeInternalIP {
			continue
		}
		a = a.Unmap()
		taken := &have6
		if a.Is4() {
			taken = &have4
		}
		if !*taken {
			*taken = true
			n.Addrs = append(n.Addrs, a)
		}
	}
	for _, s := range obj.Spec.PodCIDRs {
		if p, err := netip.ParsePrefix(s); err == nil {
			n.PodCIDRs = append(n.PodCIDRs, p.Masked())
		}
	}
	return n
}
