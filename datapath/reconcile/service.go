// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/bpfobj"
	"skep.dev/skep/datapath/compile"
)

// liveService is a Service in the maps. A list of backends is never changed: a new one is written beside it and the frontend's
// entry, one store, moves over.
type liveService struct {
	entry    bpfobj.SkepService
	backends []bpfobj.SkepBackend
}

func (n *Node) adoptServices() error {
	services, err := n.maps.Service.All()
	if err != nil {
		return err
	}
	backends, err := n.maps.Backend.All()
	if err != nil {
		return err
	}
	for key, entry := range services {
		live := &liveService{entry: entry}
		for slot := range entry.Count {
			live.backends = append(live.backends, backends[bpfobj.SkepBackendKey{Backends: entry.Backends, Slot: slot}])
			delete(backends, bpfobj.SkepBackendKey{Backends: entry.Backends, Slot: slot})
		}
		n.services[bpfmap.Frontend(key)] = live
	}
	// What no frontend refers to was left by a process that died between two writes.
	for key := range backends {
		if err := n.maps.Backend.Remove(key); err != nil {
			return err
		}
	}
	return nil
}

// SetServices makes the Services those given: additions and changes first, then deletions. A Service that cannot be written
// keeps its last backends; the others go on.
func (n *Node) SetServices(services []datapath.Service) error {
	wanted, conflict := compile.NewServices(services)
	n.mu.Lock()
	defer n.mu.Unlock()
	errs := []error{conflict, n.dropRetired()}
	for frontend, service := range wanted {
		if err := n.writeService(frontend, service); err != nil {
			errs = append(errs, fmt.Errorf("service at %s port %d: %w", frontend.Addr, frontend.Port, err))
		}
	}
	for frontend, live := range n.services {
		if _, keep := wanted[frontend]; keep {
			continue
		}
		if err := n.serviceMap.remove(bpfmap.ServiceKey(frontend)); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(n.services, frontend)
		n.retire(live)
		errs = append(errs, n.withdraw(frontend, live.entry.Id, live.backends))
	}
	return errors.Join(append(errs, n.saveState())...)
}

func (n *Node) writeService(frontend datapath.Frontend, service compile.Service) error {
	var backends []bpfobj.SkepBackend
	for _, b := range service.Backends {
		backends = append(backends, bpfmap.Backend(b.Addr, b.Port))
	}
	before := n.services[frontend]
	if before != nil && before.entry.AffinitySeconds == service.Affinity && slices.Equal(before.backends, backends) {
		return nil
	}
	next := &liveService{backends: backends, entry: bpfobj.SkepService{
		Count: uint32(len(backends)), AffinitySeconds: service.Affinity,
	}}
	n.state.NextBackends++
	next.entry.Backends = n.state.NextBackends
	if before != nil {
		next.entry.Id = before.entry.Id
	} else {
		n.state.NextService++
		next.entry.Id = n.state.NextService
	}
	if err := n.saveState(); err != nil {
		return err
	}
	for slot, backend := range backends {
		key := bpfobj.SkepBackendKey{Backends: next.entry.Backends, Slot: uint32(slot)}
		if err := n.maps.Backend.Put(key, backend); err != nil {
			return errors.Join(err, n.dropBackends(next))
		}
	}
	if err := n.serviceMap.set(bpfmap.ServiceKey(frontend), next.entry); err != nil {
		return errors.Join(err, n.dropBackends(next))
	}
	n.services[frontend] = next
	if before == nil {
		return nil
	}
	gone := slices.DeleteFunc(slices.Clone(before.backends), func(b bpfobj.SkepBackend) bool { return slices.Contains(backends, b) })
	n.retire(before)
	return errors.Join(n.withdraw(frontend, before.entry.Id, gone))
}

// retiredService is a list that a program may still be reading: it looked up the frontend just before it moved over.
type retiredService struct {
	*liveService
	until time.Time
}

func (n *Node) retire(s *liveService) {
	n.retired = append(n.retired, retiredService{s, n.clock.Now().Add(grace)})
}

func (n *Node) dropRetired() error {
	now := n.clock.Now()
	var errs []error
	n.retired = slices.DeleteFunc(n.retired, func(s retiredService) bool {
		if now.Before(s.until) {
			return false
		}
		errs = append(errs, n.dropBackends(s.liveService))
		return true
	})
	return errors.Join(errs...)
}

// Tidy deletes what had to rest for a while. Call it now and then; SetServices does it too.
func (n *Node) Tidy() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return errors.Join(n.dropRetired(), n.policy.tidy())
}

func (n *Node) dropBackends(s *liveService) error {
	var errs []error
	for slot := range s.backends {
		errs = append(errs, n.maps.Backend.Remove(bpfobj.SkepBackendKey{Backends: s.entry.Backends, Slot: uint32(slot)}))
	}
	return errors.Join(errs...)
}

// withdraw makes clients forget backends that are gone: affinity would send them there, and so would the translations of
// UDP clients that never change their port.
func (n *Node) withdraw(frontend datapath.Frontend, service uint32, gone []bpfobj.SkepBackend) error {
	if len(gone) == 0 {
		return nil
	}
	var errs []error
	affine, err := n.maps.Affinity.All()
	errs = append(errs, err)
	for key, value := range affine {
		if key.Service == service && slices.Contains(gone, value.Backend) {
			errs = append(errs, n.maps.Affinity.Remove(key))
		}
	}
	if frontend.Protocol == datapath.UDP {
		errs = append(errs, n.dropTranslations(bpfmap.ServiceKey(frontend), gone))
	}
	return errors.Join(errs...)
}

// dropTranslations deletes both halves of translated flows to backends that are gone.
func (n *Node) dropTranslations(service bpfobj.SkepServiceKey, gone []bpfobj.SkepBackend) error {
	flows, err := n.maps.Flow.All()
	if err != nil {
		return err
	}
	var errs []error
	for key, entry := range flows {
		if key.Proto != service.Proto {
			continue
		}
		// An index names the backend under the Service's tuple, a flow the Service under the backend's.
		index := bpfobj.SkepCtFlag(entry.Flags)&bpfobj.SkepCtFlagCT_INDEX != 0
		flow := bpfobj.SkepCtFlag(entry.Flags)&bpfobj.SkepCtFlagCT_SERVICE != 0
		responder := bpfobj.SkepBackend{Addr: key.B, Port: key.PortB}
		if bpfobj.SkepCtFlag(entry.Flags)&bpfobj.SkepCtFlagCT_FROM_B != 0 {
			responder = bpfobj.SkepBackend{Addr: key.A, Port: key.PortA}
		}
		named := bpfobj.SkepBackend{Addr: entry.Nat, Port: entry.NatPort}
		frontend := bpfobj.SkepBackend{Addr: service.Addr, Port: service.Port}
		if (index && responder == frontend && slices.Contains(gone, named)) ||
			(flow && named == frontend && slices.Contains(gone, responder)) {
			errs = append(errs, n.maps.Flow.Remove(key))
		}
	}
	return errors.Join(errs...)
}
