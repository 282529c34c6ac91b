// SPDX-License-Identifier: Apache-2.0

package podnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/netdev"
)

// podIfNames matches what hostIfName makes, and not devices that others call skep-something.
var podIfNames = regexp.MustCompile("^" + ifPrefix + "[0-9a-f]{11}$")

// adoptTimeout bounds the hand-over of all adopted pods at start.
const adoptTimeout = 30 * time.Second

// adopt takes over what an earlier run of the agent left: complete pods are handed to the datapath again, leftovers that
// no record explains are removed. A recorded pod that is incomplete (after a reboot: every one) keeps its addresses
// until it is attached again or detached.
func (n *Network) adopt() error {
	ctx, cancel := context.WithTimeout(context.Background(), adoptTimeout)
	defer cancel()
	links, err := n.nl.Links(ifPrefix)
	if err != nil {
		return err
	}
	byName := map[string]netdev.Link{}
	for _, l := range links {
		byName[l.Name] = l
	}
	known := map[string]bool{n.cfg.Uplink: true}
	for uid, rec := range n.state.Pods {
		known[rec.IfName] = true
		link, ok := byName[rec.IfName]
		if !ok || !link.Up || !netdev.IsNamespace(n.netnsPath(uid)) {
			continue
		}
		// The uplink's address may have changed, or the agent died between bringing the device up and its routes.
		if err := n.addPodRoutes(rec, link.Index); err != nil {
			return err
		}
		if err := n.dp.SetEndpoint(ctx, rec.endpoint(link.Index)); err != nil {
			return fmt.Errorf("adopt pod %s/%s: %w", rec.Namespace, rec.Name, err)
		}
		n.log.Info("adopted pod", "pod", rec.Namespace+"/"+rec.Name, "ifindex", link.Index)
	}
	return errors.Join(n.removeStrayLinks(byName, known), n.removeStrayNamespaces())
}

// removeStrayLinks deletes devices that look like a pod's but belong to no record.
func (n *Network) removeStrayLinks(links map[string]netdev.Link, known map[string]bool) error {
	var errs []error
	for name, l := range links {
		if !known[name] && podIfNames.MatchString(name) {
			n.log.Warn("removing device of an unknown pod", "ifindex", l.Index, "name", name)
			errs = append(errs, n.nl.DeleteLink(l.Index))
		}
	}
	return errors.Join(errs...)
}

func (n *Network) removeStrayNamespaces() error {
	var errs []error
	for _, uid := range n.pinned() {
		if _, ok := n.state.Pods[uid]; !ok {
			errs = append(errs, netdev.DeleteNamespace(n.netnsPath(uid)))
		}
	}
	return errors.Join(errs...)
}

// rebuildState makes a state from the endpoints that the datapath still knows, or failing that from the addresses found
// inside the pinned namespaces.
func (n *Network) rebuildState() (state, error) {
	s := newState()
	ctx, cancel := context.WithTimeout(context.Background(), adoptTimeout)
	defer cancel()
	eps, err := n.dp.Endpoints(ctx)
	if err != nil {
		return s, fmt.Errorf("list endpoints: %w", err)
	}
	for _, ep := range eps {
		s.adopt(record{UID: string(ep.ID), Namespace: ep.Namespace, Name: ep.Name, IfName: hostIfName(string(ep.ID)), Addrs: ep.Addrs})
	}
	for _, uid := range n.pinned() {
		if _, ok := s.Pods[uid]; ok {
			continue
		}
		addrs, err := addrsInside(n.netnsPath(uid))
		if err != nil || len(addrs) == 0 {
			continue // nothing in it can be reached; it is removed as a stray
		}
		s.adopt(record{UID: uid, IfName: hostIfName(uid), Addrs: addrs})
	}
	return s, s.save(n.checkpointPath())
}

func (s *state) adopt(rec record) {
	s.Pods[rec.UID] = rec
	for _, a := range rec.Addrs {
		s.used[a] = true
	}
}

func (n *Network) pinned() []string {
	entries, _ := os.ReadDir(filepath.Join(n.cfg.RunDir, "netns")) // an absent folder holds nothing
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func addrsInside(netns string) ([]netip.Addr, error) {
	var out []netip.Addr
	err := netdev.InNamespace(netns, func() error {
		h, err := netdev.Open()
		if err != nil {
			return err
		}
		defer h.Close()
		eth, err := h.Link(podIfName)
		if err != nil {
			return err
		}
		out, err = h.Addrs(eth.Index)
		return err
	})
	return out, err
}

func endpointID(uid string) datapath.EndpointID { return datapath.EndpointID(uid) }
