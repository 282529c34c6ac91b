// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/bpfobj"
)

// SetNodes makes the node addresses those of the given nodes.
func (n *Node) SetNodes(nodes []datapath.Node) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	wanted := map[bpfobj.SkepAddr]uint32{}
	for _, node := range nodes {
		var flags uint32
		if node.Self {
			flags |= uint32(bpfobj.SkepNodeFlagNODE_SELF)
		}
		for _, addr := range node.Addrs {
			wanted[bpfmap.AddrOf(addr)] = flags
		}
	}
	n.nodes = wanted
	for addr, flags := range wanted {
		if err := n.nodeMap.set(addr, flags); err != nil {
			return err
		}
	}
	present, err := n.maps.Node.Keys()
	if err != nil {
		return err
	}
	var errs []error
	for _, addr := range present {
		if _, keep := wanted[addr]; !keep {
			errs = append(errs, n.nodeMap.remove(addr))
		}
	}
	return errors.Join(errs...)
}
