// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"fmt"

	"github.com/cilium/ebpf"

	"skep.dev/skep/datapath/bpfobj"
)

// Maps are the typed maps of one node.
type Maps struct {
	Endpoint     Table[uint32, bpfobj.SkepEndpoint]
	EndpointName Table[uint32, bpfobj.SkepEndpointName]
	Address      Table[bpfobj.SkepAddr, bpfobj.SkepAddress]
	Node         Table[bpfobj.SkepAddr, uint32]

	// These change entries in place.
	ChangeAddress  Changer[bpfobj.SkepAddr, bpfobj.SkepAddress]
	ChangeEndpoint Changer[uint32, bpfobj.SkepEndpoint]
	ChangeService  Changer[bpfobj.SkepServiceKey, bpfobj.SkepService]

	State Table[uint32, bpfobj.SkepState]
	CIDR  Table[bpfobj.SkepCidrKey, uint32]
	Set   Table[uint32, bpfobj.SkepSet]
	Peer  Table[bpfobj.SkepPeerKey, bpfobj.SkepRow]
	Port  Table[uint32, bpfobj.SkepPortSpan]
	// PortIndex leads to a set's entries in Port.
	PortIndex Table[uint32, bpfobj.SkepPortNode]
	Rule      Table[uint32, bpfobj.SkepRule]
	Block     Table[uint32, bpfobj.SkepBlock]

	// RuleSlot says where in RuleCount a rule's counters are.
	RuleSlot  Table[uint32, bpfobj.SkepRuleSlot]
	RuleCount *ebpf.Map
	Metric    *ebpf.Map

	// Events is the ring buffer of struct event, EventsLost counts those that found no room.
	Events, EventsLost *ebpf.Map

	// Flow is the current connection table; FlowTables the outer map through which programs reach it.
	Flow       Table[bpfobj.SkepCtKey, bpfobj.SkepCtEntry]
	FlowTables *ebpf.Map
	Fragment   *ebpf.Map

	Service  Table[bpfobj.SkepServiceKey, bpfobj.SkepService]
	Backend  Table[bpfobj.SkepBackendKey, bpfobj.SkepBackend]
	Affinity Table[bpfobj.SkepAffinityKey, bpfobj.SkepAffinity]
	Origin   Table[bpfobj.SkepOriginKey, bpfobj.SkepOrigin]

	all map[string]*ebpf.Map
}

// NewMaps gives types to loaded maps, which it finds by their names in bpf/skep/maps.h. It takes no ownership.
func NewMaps(loaded map[string]*ebpf.Map) (*Maps, error) {
	m := &Maps{all: loaded}
	for name, bind := range map[string]func(*ebpf.Map, string){
		"skep_endpoint":    bind(&m.Endpoint),
		"skep_ep_name":     bind(&m.EndpointName),
		"skep_addr":        bind(&m.Address),
		"skep_node":        bind(&m.Node),
		"skep_state":       bind(&m.State),
		"skep_cidr":        bind(&m.CIDR),
		"skep_set":         bind(&m.Set),
		"skep_peer":        bind(&m.Peer),
		"skep_port":        bind(&m.Port),
		"skep_port_index":  bind(&m.PortIndex),
		"skep_rule":        bind(&m.Rule),
		"skep_block":       bind(&m.Block),
		"skep_rule_slot":   bind(&m.RuleSlot),
		"skep_rule_count":  func(loaded *ebpf.Map, _ string) { m.RuleCount = loaded },
		"skep_metric":      func(loaded *ebpf.Map, _ string) { m.Metric = loaded },
		"skep_events":      func(loaded *ebpf.Map, _ string) { m.Events = loaded },
		"skep_events_lost": func(loaded *ebpf.Map, _ string) { m.EventsLost = loaded },
		"skep_ct_first":    bind(&m.Flow),
		"skep_ct":          func(loaded *ebpf.Map, _ string) { m.FlowTables = loaded },
		"skep_packet":      func(*ebpf.Map, string) {},
		"skep_scratch":     func(*ebpf.Map, string) {},
		"skep_frag":        func(loaded *ebpf.Map, _ string) { m.Fragment = loaded },
		"skep_service":     bind(&m.Service),
		"skep_backend":     bind(&m.Backend),
		"skep_affinity":    bind(&m.Affinity),
		"skep_origin":      bind(&m.Origin),
	} {
		found, ok := loaded[name]
		if !ok {
			return nil, fmt.Errorf("map %s is not loaded", name)
		}
		bind(found, name)
	}
	return m, nil
}

func bind[K comparable, V any](t *Table[K, V]) func(*ebpf.Map, string) {
	return func(loaded *ebpf.Map, name string) { t.Map, t.Name = loaded, name }
}

// ByName lists all maps.
func (m *Maps) ByName() map[string]*ebpf.Map { return m.all }
