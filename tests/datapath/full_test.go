// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/bpfobj"
	"skep.dev/skep/datapath/loader"
	"skep.dev/skep/datapath/progtest"
)

// TestAPolicyThatDoesNotFitLeavesTheLastOneInForce fills one map after the other.
func TestAPolicyThatDoesNotFitLeavesTheLastOneInForce(t *testing.T) {
	for _, name := range []string{"skep_addr", "skep_cidr", "skep_set", "skep_peer", "skep_port", "skep_port_index", "skep_rule", "skep_block"} {
		t.Run(name, func(t *testing.T) {
			h := progtest.New(t, func(o *loader.Options) { o.MaxEntries = map[string]uint32{name: 16} })
			must(t, h.Endpoint("a", podA4))
			must(t, h.Endpoint("b", podB4))
			small := isolated("b", "a")
			must(t, h.Load(small))
			send(t, h, "a", tcp4(), bpfobj.SkepReasonSKEP_REASON_POLICY_INGRESS)
			before, generation := fill(t, h), generationOf(t, h)

			if err := h.Load(big()); !errors.Is(err, bpfmap.ErrFull) {
				t.Fatalf("the big policy: %v", err)
			}
			r := send(t, h, "a", tcp4(), bpfobj.SkepReasonSKEP_REASON_POLICY_INGRESS)
			if r.Rule != 7 {
				t.Errorf("denied by rule %d", r.Rule)
			}
			if after := fill(t, h); after != before {
				t.Errorf("entries left behind:\n%s, before\n%s", after, before)
			}
			must(t, h.Load(small))
			if now := generationOf(t, h); now != generation {
				t.Errorf("what nothing has changed is judged again, for the %d. time", now-generation)
			}
			must(t, h.Load(open("a", "b")))
			if now := generationOf(t, h); now != generation+1 {
				t.Errorf("a change started %d generations", now-generation)
			}
			send(t, h, "a", tcp4(), toLocal)
		})
	}
}

// TestARefusalLeavesEveryClassWhatItWas refuses policies that put a pod into another class, before such a policy comes that fits: what was
// made for the first must not be taken for made, and what was there not for gone.
func TestARefusalLeavesEveryClassWhatItWas(t *testing.T) {
	h := progtest.New(t, func(o *loader.Options) { o.MaxEntries = map[string]uint32{"skep_set": 16} })
	must(t, h.Endpoint("a", podA4))
	must(t, h.Endpoint("b", podB4))
	policy := func(more int, atoms ...datapath.AtomID) *datapath.PolicyState {
		p := open("a", "b")
		p.Sets["in"] = datapath.PolicySet{ID: "in", Default: datapath.Deny, DefaultRule: 9, Rules: []datapath.Rule{
			{ID: 1, Peers: []datapath.AtomID{"app=a"}, Ports: tcpPorts(80, 80)}, {ID: 2, Peers: []datapath.AtomID{"tier=a"}, Ports: tcpPorts(81, 81)},
		}}
		p.Endpoints["b"] = datapath.EndpointPolicy{Ingress: "in", Egress: "open"}
		p.Addresses = datapath.MapOf(map[netip.Addr]datapath.GroupID{podA4: 1})
		p.Groups = datapath.MapOf(map[datapath.GroupID][]datapath.AtomID{1: atoms})
		for i := range more {
			id := datapath.SetID(fmt.Sprint("more-", i))
			p.Sets[id] = datapath.PolicySet{ID: id, Default: datapath.Deny}
		}
		return p
	}
	judge := func(more bool) {
		t.Helper()
		verdict(t, h, "a", datapath.Egress, first("10.244.0.5", "10.244.0.6", progtest.TCP, 80), true, 1)
		rule := datapath.RuleID(9)
		if more {
			rule = 2
		}
		verdict(t, h, "a", datapath.Egress, first("10.244.0.5", "10.244.0.6", progtest.TCP, 81), more, rule)
	}
	must(t, h.Load(policy(0, "app=a")))
	judge(false)
	for range 2 {
		if err := h.Load(policy(20, "app=a", "tier=a")); !errors.Is(err, bpfmap.ErrFull) {
			t.Fatalf("too many sets: %v", err)
		}
		judge(false)
		must(t, h.Load(policy(0, "app=a")))
		must(t, h.Node.Tidy())
		judge(false)
	}
	if err := h.Load(policy(20, "app=a", "tier=a")); !errors.Is(err, bpfmap.ErrFull) {
		t.Fatalf("too many sets: %v", err)
	}
	must(t, h.Load(policy(0, "app=a", "tier=a")))
	must(t, h.Node.Tidy())
	judge(true)
}

func generationOf(t *testing.T, h *progtest.Harness) uint32 {
	t.Helper()
	state, _, err := h.Maps.State.Get(0)
	must(t, err)
	return state.Generation
}

// TestAPodThatDoesNotFitStopsNoOther fills what pods need, one map after the other. The harness has an endpoint of its own.
func TestAPodThatDoesNotFitStopsNoOther(t *testing.T) {
	for name, entries := range map[string]uint32{"skep_endpoint": 3, "skep_ep_name": 2, "skep_addr": 2} {
		t.Run(name, func(t *testing.T) {
			h := progtest.New(t, func(o *loader.Options) { o.MaxEntries = map[string]uint32{name: entries} })
			must(t, h.Endpoint("a", podA4))
			must(t, h.Endpoint("b", podB4))
			packet := first("10.244.0.5", "10.244.0.6", progtest.TCP, 80)
			for range 2 {
				must(t, h.Load(isolated("b", "a")))
				verdict(t, h, "a", datapath.Egress, packet, false, 7)
				if err := h.Endpoint("c", podC4); !errors.Is(err, bpfmap.ErrFull) {
					t.Fatalf("a third pod: %v", err)
				}
				if all := h.Node.Endpoints(); len(all) != 2 {
					t.Errorf("the pod is there in part: %v", all)
				}
				must(t, h.Load(open("a", "b", "c")))
				verdict(t, h, "a", datapath.Egress, packet, true, 0)
			}
			must(t, h.RemoveEndpoint("b"))
			must(t, h.Load(open("a", "c"))) // which gives up the address
			must(t, h.Endpoint("c", podC4))
		})
	}
}

// fill is the number of entries of the policy maps.
func fill(t *testing.T, h *progtest.Harness) string {
	t.Helper()
	all, err := h.Maps.Fill()
	must(t, err)
	var out string
	for _, m := range all {
		switch m.Name {
		case "skep_addr", "skep_cidr", "skep_peer":
			out += fmt.Sprintln(m.Name, m.Entries)
		}
	}
	return out
}

// big has more than 16 of everything.
func big() *datapath.PolicyState {
	p := open("a", "b")
	addresses, cidrs := map[netip.Addr][]datapath.AtomID{}, map[datapath.AtomID]datapath.CIDR{}
	for i := range 40 {
		atom, net := datapath.AtomID(fmt.Sprintf("pod-%d", i)), datapath.AtomID(fmt.Sprintf("net-%d", i))
		addresses[netip.AddrFrom4([4]byte{10, 245, 0, byte(i)})] = []datapath.AtomID{atom}
		cidrs[net] = datapath.CIDR{Prefixes: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, byte(i), 0}), 24)}}
		id := datapath.SetID(fmt.Sprintf("set-%d", i))
		p.Sets[id] = datapath.PolicySet{ID: id, Default: datapath.Deny, Rules: []datapath.Rule{{
			ID: datapath.RuleID(100 + i), Peers: []datapath.AtomID{atom, net},
			Ports: tcpPorts(uint16(i+1), uint16(i+1+i%2*1000)),
		}, {ID: datapath.RuleID(200 + i), Peers: []datapath.AtomID{net}, Tier: uint8(i % 3), AnyPort: true}}}
	}
	p.Addresses, p.Groups = datapath.Grouped(addresses)
	p.CIDRs = datapath.MapOf(cidrs)
	for i := range 40 {
		id := datapath.SetID(fmt.Sprintf("set-%d", i))
		s := p.Sets[id]
		for j := range i {
			s.Rules = append(s.Rules, datapath.Rule{ID: 300, Tier: 3, Peers: []datapath.AtomID{datapath.AtomID(fmt.Sprintf("pod-%d", j))}, AnyPort: true})
		}
		p.Sets[id] = s
	}
	return p
}

// TestPassGoesOnWithTheNextTier has a Pass before a Deny of its tier, and an Allow in the next.
func TestPassGoesOnWithTheNextTier(t *testing.T) {
	h := judged(t)
	p := open("a", "b")
	p.Sets["tiers"] = datapath.PolicySet{ID: "tiers", Default: datapath.Allow, Rules: []datapath.Rule{
		{ID: 1, Action: datapath.Pass, AnyPeer: true, Ports: tcpPorts(80, 80)},
		{ID: 2, Action: datapath.Deny, AnyPeer: true, AnyPort: true},
		{ID: 3, Tier: 1, Action: datapath.Pass, AnyPeer: true, Ports: tcpPorts(80, 80)},
		{ID: 4, Tier: 1, Action: datapath.Deny, AnyPeer: true, AnyPort: true},
		{ID: 5, Tier: 2, Action: datapath.Allow, AnyPeer: true, AnyPort: true},
	}}
	p.Endpoints["b"] = datapath.EndpointPolicy{Ingress: "tiers", Egress: "open"}
	must(t, h.Load(p))
	verdict(t, h, "a", datapath.Egress, first("10.244.0.5", "10.244.0.6", progtest.TCP, 80), true, 5)
	verdict(t, h, "a", datapath.Egress, first("10.244.0.5", "10.244.0.6", progtest.TCP, 81), false, 2)
}

// TestRulesOfManyBlocks puts the deciding rule at every end of a block.
func TestRulesOfManyBlocks(t *testing.T) {
	h := judged(t)
	for _, last := range []int{0, 1, 63, 64, 511, 512, 513, 1023, 1024, 5000, 16383} {
		set := datapath.PolicySet{ID: datapath.SetID(fmt.Sprintf("many-%d", last)), Default: datapath.Deny, DefaultRule: 1}
		for i := range last + 1 {
			rule := datapath.Rule{ID: datapath.RuleID(i + 2), Peers: []datapath.AtomID{"nobody"}, AnyPort: true}
			if i == last {
				rule.Peers = []datapath.AtomID{"app=a"}
			}
			set.Rules = append(set.Rules, rule)
		}
		p := open("a", "b")
		p.Addresses, p.Groups = datapath.Grouped(map[netip.Addr][]datapath.AtomID{podA4: {"app=a"}})
		p.Sets[set.ID] = set
		p.Endpoints["b"] = datapath.EndpointPolicy{Ingress: set.ID, Egress: "open"}
		must(t, h.Load(p))
		verdict(t, h, "a", datapath.Egress, first("10.244.0.5", "10.244.0.6", progtest.TCP, 80), true, datapath.RuleID(last+2))
	}
}

// TestWhatIsTooLargeIsRefusedWhole has one rule more than a set can have, and more blocks than the map has room for. The last policy stays
// in force.
func TestWhatIsTooLargeIsRefusedWhole(t *testing.T) {
	h := judged(t)
	before := fill(t, h)
	rules := open("a", "b")
	set := datapath.PolicySet{ID: "rules", Default: datapath.Deny}
	for i := range datapath.MaxRules + 1 {
		set.Rules = append(set.Rules, datapath.Rule{ID: datapath.RuleID(i + 1), AnyPeer: true, AnyPort: true})
	}
	rules.Sets[set.ID] = set
	blocks := open("a", "b")
	cidrs := map[datapath.AtomID]datapath.CIDR{}
	for i := range 65_536 {
		net := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(i >> 14), byte(i >> 6), byte(i << 2)}), 30)
		cidrs[datapath.AtomID(net.String())] = datapath.CIDR{Prefixes: []netip.Prefix{net}}
	}
	blocks.CIDRs = datapath.MapOf(cidrs) // and one prefix more, for IPv4 that is in no block
	for name, p := range map[string]*datapath.PolicyState{"rules": rules, "blocks": blocks} {
		if err := h.Load(p); err == nil {
			t.Fatalf("too many %s were taken", name)
		}
		if after := fill(t, h); after != before {
			t.Errorf("too many %s: the maps hold %s, before %s", name, after, before)
		}
		verdict(t, h, "a", datapath.Egress, first("10.244.0.5", "10.244.0.6", progtest.TCP, 80), true, 1)
		verdict(t, h, "a", datapath.Egress, first("10.244.0.5", "10.244.0.6", progtest.TCP, 81), false, 9)
	}
}

// TestRulesOfManyPorts gives every rule a port of its own, with a port between them that no rule names.
func TestRulesOfManyPorts(t *testing.T) {
	h := judged(t)
	for _, n := range []int{1, 2, 6, 7, 8, 112, 113, 1000, 1687, 1688, 16384} {
		set := datapath.PolicySet{ID: datapath.SetID(fmt.Sprintf("ports-%d", n)), Default: datapath.Deny, DefaultRule: 1}
		for i := range n {
			port := uint16(2*i + 100)
			set.Rules = append(set.Rules, datapath.Rule{ID: datapath.RuleID(i + 2), AnyPeer: true, Ports: tcpPorts(port, port)})
		}
		p := open("a", "b")
		p.Sets[set.ID] = set
		p.Endpoints["b"] = datapath.EndpointPolicy{Ingress: set.ID, Egress: "open"}
		must(t, h.Load(p))
		for _, i := range []int{0, 1, n / 2, n - 2, n - 1} {
			if i < 0 || i >= n {
				continue
			}
			port := uint16(2*i + 100)
			verdict(t, h, "a", datapath.Egress, first("10.244.0.5", "10.244.0.6", progtest.TCP, port), true, datapath.RuleID(i+2))
			verdict(t, h, "a", datapath.Egress, first("10.244.0.5", "10.244.0.6", progtest.TCP, port-1), false, 1)
			verdict(t, h, "a", datapath.Egress, first("10.244.0.5", "10.244.0.6", progtest.TCP, port+1), false, 1)
			verdict(t, h, "a", datapath.Egress, first("10.244.0.5", "10.244.0.6", progtest.UDP, port), false, 1)
		}
	}
}

// TestAnInheritedPolicyStaysInForceUntilTheNextIsComplete has a process take over and fail with its first policy.
func TestAnInheritedPolicyStaysInForceUntilTheNextIsComplete(t *testing.T) {
	h := progtest.New(t, func(o *loader.Options) { o.MaxEntries = map[string]uint32{"skep_peer": 16} })
	must(t, h.Endpoint("a", podA4))
	must(t, h.Endpoint("b", podB4))
	p := open("a", "b")
	p.Sets["in"] = datapath.PolicySet{ID: "in", Default: datapath.Deny, DefaultRule: 9, Rules: []datapath.Rule{
		{ID: 1, AnyPeer: true, Ports: tcpPorts(80, 80)}, {ID: 2, AnyPeer: true, Ports: tcpPorts(8000, 8999)},
	}}
	p.Endpoints["b"] = datapath.EndpointPolicy{Ingress: "in", Egress: "open"}
	must(t, h.Load(p))
	inForce := func() {
		t.Helper()
		verdict(t, h, "a", datapath.Egress, first("10.244.0.5", "10.244.0.6", progtest.TCP, 80), true, 1)
		verdict(t, h, "a", datapath.Egress, first("10.244.0.5", "10.244.0.6", progtest.TCP, 8999), true, 2)
		verdict(t, h, "a", datapath.Egress, first("10.244.0.5", "10.244.0.6", progtest.TCP, 9000), false, 9)
	}
	inForce()
	h.Restart(t)
	inForce()
	if err := h.Load(big()); !errors.Is(err, bpfmap.ErrFull) {
		t.Fatalf("the big policy: %v", err)
	}
	inForce()
	must(t, h.Load(p))
	inForce()

	h.Restart(t)
	must(t, h.RemoveEndpoint("b"))
	send(t, h, "a", tcp4(), bpfobj.SkepReasonSKEP_REASON_TO_STACK)
}
