// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	nodeutil "k8s.io/component-helpers/node/util"

	"skep.dev/skep/nodeagent/peer"
)

// peers are the agents of the other nodes.
type peers struct{ *peer.Peers }

// newPeers uses the node's client certificate, by which other agents know it, too.
func newPeers(rc *rest.Config, log *slog.Logger) (peers, error) {
	conf, err := rest.TLSConfigFor(rc)
	if err != nil {
		return peers{}, fmt.Errorf("credentials for the agents of other nodes: %w", err)
	}
	return peers{peer.New(conf, log)}, nil
}

// NodeConditions implements part. Neither a node that is down nor one that is slow makes this one less fit.
func (peers) NodeConditions() []v1.NodeCondition { return nil }

// listen follows the Node objects.
func (p peers) listen(nodes coreinformers.NodeInformer, self string) error {
	lister := nodes.Lister()
	changed := func(any) {
		if list, err := lister.List(labels.Everything()); err == nil { // from memory
			p.SetNodes(peerNodes(list, self))
		}
	}
	_, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: changed, UpdateFunc: func(_, after any) { changed(after) }, DeleteFunc: changed,
	})
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	return nil
}

// peerNodes are the nodes whose agents are followed: all others that are ready. One that is not may be gone, or cut off from the API, and then
// would not learn of a new pod however long it is waited for.
func peerNodes(list []*v1.Node, self string) []peer.Node {
	var out []peer.Node
	for _, n := range list {
		if n.Name == self || !nodeReady(n) {
			continue
		}
		port := cmp.Or(uint16(n.Status.DaemonEndpoints.KubeletEndpoint.Port), DefaultKubeletPort)
		node := peer.Node{Name: n.Name}
		for _, a := range n.Status.Addresses {
			if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == v1.NodeInternalIP {
				node.Addrs = append(node.Addrs, netip.AddrPortFrom(ip, port))
			}
		}
		if len(node.Addrs) > 0 {
			out = append(out, node)
		}
	}
	return out
}

func nodeReady(n *v1.Node) bool {
	_, c := nodeutil.GetNodeCondition(&n.Status, v1.NodeReady)
	return c != nil && c.Status == v1.ConditionTrue
}

// awaitOthers closes what it returns once the other nodes know the pod with its addresses, so that none of them refuses its first
// packet for want of knowing who it is. It is bounded, since a node that is slow or gone must not keep pods from starting anywhere.
func (w *worker) awaitOthers(ctx context.Context, pod *v1.Pod) <-chan struct{} {
	known := make(chan struct{})
	if pod.Spec.HostNetwork {
		close(known)
		return known
	}
	w.jobs.Go(func() {
		defer close(known)
		short, cancel := context.WithTimeout(ctx, peer.Limit)
		defer cancel()
		// Without its addresses in the API no node can know the pod.
		if err := wait(short, w.addressed); err == nil {
			w.a.others.Wait(ctx, w.addressedAt)
		}
	})
	return known
}

// noteAddresses opens the gate addressed when the API has the pod's addresses.
func (w *worker) noteAddresses(pod *v1.Pod) {
	if closed(w.addressed) || len(w.addrs) == 0 || len(pod.Status.PodIPs) != len(w.addrs) {
		return
	}
	for i, ip := range pod.Status.PodIPs {
		if ip.IP != w.addrs[i].String() {
			return
		}
	}
	w.addressedAt = pod.ResourceVersion
	close(w.addressed)
}

func closed(gate <-chan struct{}) bool {
	select {
	case <-gate:
		return true
	default:
		return false
	}
}
