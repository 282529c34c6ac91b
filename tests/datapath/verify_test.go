// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/bpfobj"
	"skep.dev/skep/datapath/progtest"
)

// told is what Verify reports, as text.
func told(t testing.TB, h *progtest.Harness) string {
	t.Helper()
	repairs, err := h.Node.Verify(t.Context())
	must(t, err)
	var out []string
	for _, r := range repairs {
		out = append(out, fmt.Sprintf("%s %d/%d/%d", r.Map, r.Missing, r.Changed, r.Surplus))
	}
	return strings.Join(out, ", ")
}

// inUse is more entries than the tests' policies need; arrays are filled from their beginning.
const inUse = 4096

// contents are all entries of the maps that Verify looks after, but the policy generation.
func contents(t testing.TB, h *progtest.Harness) map[string]string {
	t.Helper()
	out := map[string]string{}
	add := func(name string, keys, values any, err error) {
		must(t, err)
		out[name] = fmt.Sprint(keys, values)
	}
	sortedAll(t, h.Maps.Endpoint, add)
	sortedAll(t, h.Maps.EndpointName, add)
	sortedAll(t, h.Maps.Address, add)
	sortedAll(t, h.Maps.Node, add)
	sortedAll(t, h.Maps.CIDR, add)
	sortedAll(t, h.Maps.Set, add)
	sortedAll(t, h.Maps.Peer, add)
	sortedAll(t, h.Maps.Port, add)
	sortedAll(t, h.Maps.PortIndex, add)
	sortedAll(t, h.Maps.Rule, add)
	sortedAll(t, h.Maps.Block, add)
	sortedAll(t, h.Maps.RuleSlot, add)
	sortedAll(t, h.Maps.Service, add)
	sortedAll(t, h.Maps.Backend, add)
	state, _, err := h.Maps.State.Get(0)
	state.Generation = 0
	add("state", state, nil, err)
	return out
}

func sortedAll[K, V comparable](t testing.TB, table bpfmap.Table[K, V], add func(string, any, any, error)) {
	keys, values, err := table.Read(inUse)
	var lines []string
	var zero V
	for i := range keys {
		if values[i] != zero {
			lines = append(lines, fmt.Sprint(keys[i], values[i]))
		}
	}
	slices.Sort(lines)
	add(table.Name, lines, nil, err)
}

// anyKey is an entry for which ok holds.
func anyKey[K, V comparable](t testing.TB, table bpfmap.Table[K, V], ok func(K, V) bool) (K, V) {
	t.Helper()
	keys, values, err := table.Read(inUse)
	must(t, err)
	for i := range keys {
		if ok(keys[i], values[i]) {
			return keys[i], values[i]
		}
	}
	t.Fatalf("no such entry in %s", table.Name)
	panic("unreachable")
}

// some holds for entries that are not all zero, as the unused ones of arrays are.
func some[K, V comparable](_ K, value V) bool {
	var zero V
	return value != zero
}

// remove, alter and wipe are what somebody might do to a map by hand.
func remove[K, V comparable](t testing.TB, table bpfmap.Table[K, V], ok func(K, V) bool) {
	key, _ := anyKey(t, table, ok)
	must(t, table.Remove(key))
}

func alter[K, V comparable](t testing.TB, table bpfmap.Table[K, V], ok func(K, V) bool, change func(*V)) {
	key, value := anyKey(t, table, ok)
	change(&value)
	must(t, table.Put(key, value))
}

func wipe[K, V comparable](t testing.TB, table bpfmap.Table[K, V], ok func(K, V) bool) {
	alter(t, table, ok, func(v *V) { var zero V; *v = zero })
}

// TestWhatIsChangedByHandIsRepaired breaks one entry at a time. Afterwards the maps say what they said, and flows are judged again.
func TestWhatIsChangedByHandIsRepaired(t *testing.T) {
	h := judged(t)
	must(t, h.Node.SetNodes([]datapath.Node{{Name: "n", Addrs: []netip.Addr{netip.MustParseAddr("172.29.0.2")}, Self: true}}))
	must(t, h.Node.SetServices([]datapath.Service{{
		ID: "s", Frontend: datapath.Frontend{Addr: netip.MustParseAddr("10.96.0.1"), Port: 443, Protocol: datapath.TCP},
		Backends: []datapath.Backend{{Addr: podA4, Port: 6443}, {Addr: podB4, Port: 6443}},
	}}))
	if got := told(t, h); got != "" {
		t.Fatalf("differs before anything was changed: %s", got)
	}
	m := h.Maps
	has := func(ruled bool) func(uint32, bpfobj.SkepSet) bool {
		return func(_ uint32, s bpfobj.SkepSet) bool { return s.Flags != 0 && s.Rules > 0 == ruled }
	}
	local := func(owned bool) func(bpfobj.SkepAddr, bpfobj.SkepAddress) bool {
		return func(_ bpfobj.SkepAddr, a bpfobj.SkepAddress) bool { return a.Ifindex != 0 == owned }
	}
	strange := bpfmap.AddrOf(netip.MustParseAddr("203.0.113.7"))
	for _, c := range []struct {
		name  string
		spoil func()
		want  string
	}{
		{"a block", func() { wipe(t, m.Block, some) }, "skep_block 0/1/0"},
		{"a node of the port index", func() { wipe(t, m.PortIndex, some) }, "skep_port_index 0/1/0"},
		{"a port span", func() { wipe(t, m.Port, some) }, "skep_port 0/1/0"},
		{"a port span's start", func() {
			alter(t, m.Port, func(_ uint32, s bpfobj.SkepPortSpan) bool { return s.Start > 0 }, func(s *bpfobj.SkepPortSpan) { s.Start++ })
		}, "skep_port 0/1/0"},
		{"a rule", func() { wipe(t, m.Rule, some) }, "skep_rule 0/1/0"},
		{"a rule's action", func() { alter(t, m.Rule, some, func(r *bpfobj.SkepRule) { r.Action ^= 1 }) }, "skep_rule 0/1/0"},
		{"a row", func() { remove(t, m.Peer, some) }, "skep_peer 1/0/0"},
		{"where a row is", func() { alter(t, m.Peer, some, func(r *bpfobj.SkepRow) { r.First++ }) }, "skep_peer 0/1/0"},
		{"a row too many", func() { must(t, m.Peer.Put(bpfobj.SkepPeerKey{Set: 7777, Class: 1}, bpfobj.SkepRow{})) }, "skep_peer 0/0/1"},
		{"a set", func() { wipe(t, m.Set, has(true)) }, "skep_set 0/1/0"},
		{"a set without rules", func() { wipe(t, m.Set, has(false)) }, "skep_set 0/1/0"},
		{"a set's flags", func() {
			alter(t, m.Set, has(true), func(s *bpfobj.SkepSet) { s.Flags &^= uint32(bpfobj.SkepSetFlagSET_HAS_PORTS) })
		}, "skep_set 0/1/0"},
		{"the state", func() { alter(t, m.State, some, func(s *bpfobj.SkepState) { s.Flags = 0 }) }, "skep_state 0/1/0"},
		{"a prefix", func() { remove(t, m.CIDR, func(k bpfobj.SkepCidrKey, _ uint32) bool { return k.Prefix > 96 }) }, "skep_cidr 1/0/0"},
		{"a prefix behind which a shorter one says the same", func() {
			remove(t, m.CIDR, func(k bpfobj.SkepCidrKey, _ uint32) bool { return k.Prefix == 121 })
		}, "skep_cidr 1/0/0"},
		{"a prefix's class", func() { alter(t, m.CIDR, some, func(class *uint32) { *class += 7 }) }, "skep_cidr 0/1/0"},
		{"a prefix too many", func() { must(t, m.CIDR.Put(bpfobj.SkepCidrKey{Prefix: 128, Addr: strange}, 1)) }, "skep_cidr 0/0/1"},
		{"all prefixes", func() {
			keys, err := m.CIDR.Keys()
			must(t, err)
			for _, key := range keys {
				must(t, m.CIDR.Remove(key))
			}
		}, "skep_cidr 5/0/0"},
		{"the address of a pod elsewhere", func() { remove(t, m.Address, local(false)) }, "skep_addr 1/0/0"},
		{"the address of a pod here", func() { remove(t, m.Address, local(true)) }, "skep_addr 1/0/0"},
		{"an address's class", func() { alter(t, m.Address, local(false), func(a *bpfobj.SkepAddress) { a.Class++ }) }, "skep_addr 0/1/0"},
		{"an address too many", func() { must(t, m.Address.Put(strange, bpfobj.SkepAddress{Class: 1, Flags: 1})) }, "skep_addr 0/0/1"},
		{"an endpoint", func() { remove(t, m.Endpoint, some) }, "skep_endpoint 1/0/0"},
		{"an endpoint's sets", func() {
			alter(t, m.Endpoint, func(_ uint32, e bpfobj.SkepEndpoint) bool { return e.IngressSet != e.EgressSet },
				func(e *bpfobj.SkepEndpoint) { e.IngressSet = e.EgressSet })
		}, "skep_endpoint 0/1/0"},
		{"an endpoint too many", func() { must(t, m.Endpoint.Put(4711, bpfobj.SkepEndpoint{Flags: 1})) }, "skep_endpoint 0/0/1"},
		{"an endpoint's name", func() { remove(t, m.EndpointName, some) }, "skep_ep_name 1/0/0"},
		{"where a rule is counted", func() { remove(t, m.RuleSlot, some) }, "skep_rule_slot 1/0/0"},
		{"a service", func() { remove(t, m.Service, some) }, "skep_service 1/0/0"},
		{"a backend", func() { alter(t, m.Backend, some, func(b *bpfobj.SkepBackend) { b.Port++ }) }, "skep_backend 0/1/0"},
		{"a backend too many", func() { must(t, m.Backend.Put(bpfobj.SkepBackendKey{Backends: 99}, bpfobj.SkepBackend{Port: 1})) }, "skep_backend 0/0/1"},
		{"a node", func() { remove(t, m.Node, some) }, "skep_node 1/0/0"},
		{"several at once", func() {
			wipe(t, m.Block, some)
			remove(t, m.Address, local(true))
			must(t, m.Node.Put(strange, 0))
		}, "skep_block 0/1/0, skep_addr 1/0/0, skep_node 0/0/1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := contents(t, h)
			generation := askAbout(t, h, "10.244.0.5", "10.244.0.6", datapath.TCP, 80).Generation
			c.spoil()
			if got := told(t, h); got != c.want {
				t.Errorf("Verify found %q, want %q", got, c.want)
			}
			for name, after := range contents(t, h) {
				if after != before[name] {
					t.Errorf("%s holds\n%s\nand held\n%s", name, after, before[name])
				}
			}
			policy := !slices.Contains([]string{"skep_ep_name", "skep_rule_slot", "skep_service", "skep_backend", "skep_node"}, strings.Fields(c.want)[0])
			if now := askAbout(t, h, "10.244.0.5", "10.244.0.6", datapath.TCP, 80).Generation; now != generation != policy {
				t.Errorf("generation %d, %d before", now, generation)
			}
			if got := told(t, h); got != "" {
				t.Errorf("and again %q", got)
			}
		})
	}
}

// TestRepairedPolicyDecidesAgain looks at verdicts instead of entries: what a lost entry lets through or stops, and what happens
// after the repair to a connection that came through.
func TestRepairedPolicyDecidesAgain(t *testing.T) {
	h := judged(t)
	denied := first("10.244.0.5", "10.244.0.6", progtest.TCP, 81)
	verdict(t, h, "a", datapath.Egress, denied, false, 9)
	// The receiver gets the sender's open set.
	key, _ := anyKey(t, h.Maps.Endpoint, func(_ uint32, e bpfobj.SkepEndpoint) bool { return e.IngressSet != e.EgressSet })
	entry, _, err := h.Maps.Endpoint.Get(key)
	must(t, err)
	entry.IngressSet = entry.EgressSet
	must(t, h.Maps.Endpoint.Put(key, entry))
	if r, err := h.Send("a", datapath.Egress, denied); err != nil || !r.Allowed() {
		t.Fatalf("%+v %v", r, err)
	}
	// As the harness stands in for an endpoint by an entry of its own, that is found too.
	if got := told(t, h); got != "skep_endpoint 0/1/1" {
		t.Errorf("found %q", got)
	}
	must(t, h.Endpoint("a", podA4, podA6))
	if r, err := h.Send("a", datapath.Egress, denied); err != nil || r.Reason != bpfobj.SkepReasonSKEP_REASON_ESTABLISHED_DENIED {
		t.Errorf("the connection that came through: %+v %v", r, err)
	}
}

// TestVerifyBesideChanges has policy change all the time: what is on its way into the maps is no difference.
func TestVerifyBesideChanges(t *testing.T) {
	h := progtest.New(t)
	must(t, h.Endpoint("a", podA4))
	world := func(turn int) *datapath.PolicyState {
		addresses, cidrs := map[netip.Addr][]datapath.AtomID{}, map[datapath.AtomID]datapath.CIDR{}
		p := &datapath.PolicyState{
			Sets: map[datapath.SetID]datapath.PolicySet{}, Endpoints: map[datapath.EndpointID]datapath.EndpointPolicy{},
		}
		set := datapath.PolicySet{ID: datapath.SetID(fmt.Sprint("set ", turn)), Default: datapath.Deny, DefaultRule: 9}
		for i := range 300 {
			atom := datapath.AtomID(fmt.Sprint("app=", (turn+i)%500))
			addresses[netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)})] = []datapath.AtomID{atom}
			set.Rules = append(set.Rules, datapath.Rule{ID: datapath.RuleID(10 + i), Peers: []datapath.AtomID{atom}, Ports: tcpPorts(uint16(i), uint16(i+turn%7))})
			net := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(turn + i), 0}), 24)
			cidrs[datapath.AtomID(net.String())] = datapath.CIDR{Prefixes: []netip.Prefix{net}}
		}
		p.Addresses, p.Groups = datapath.Grouped(addresses)
		p.CIDRs = datapath.MapOf(cidrs)
		p.Sets[set.ID] = set
		p.Endpoints["a"] = datapath.EndpointPolicy{Ingress: set.ID, Egress: set.ID}
		return p
	}
	must(t, h.Load(world(0)))
	done := make(chan error)
	go func() {
		for turn := 1; turn <= 60; turn++ {
			if err := h.Node.SetPolicy(world(turn)); err != nil {
				done <- err
				return
			}
		}
		close(done)
	}()
	for runs := 0; ; runs++ {
		if got := told(t, h); got != "" {
			t.Errorf("found %s", got)
		}
		select {
		case err := <-done:
			must(t, err)
			t.Logf("%d runs", runs)
			return
		default:
		}
	}
}

// TestVerifyHoldsTheLockBriefly measures at 10,000 addresses how long others wait for the node.
func TestVerifyHoldsTheLockBriefly(t *testing.T) {
	h := progtest.New(t)
	must(t, h.Endpoint("a", podA4))
	must(t, h.Load(large(10_000)))
	took := time.Duration(0)
	var longest time.Duration
	done := make(chan struct{})
	go func() {
		defer close(done)
		began := time.Now()
		if got := told(t, h); got != "" {
			t.Errorf("found %s", got)
		}
		took = time.Since(began)
	}()
	for waits := 0; ; waits++ {
		began := time.Now()
		h.Node.Endpoints() // takes the lock
		longest = max(longest, time.Since(began))
		select {
		case <-done:
			t.Logf("one run took %v, the longest of %d waits %v", took, waits, longest)
			return
		default:
		}
	}
}

// large is a policy with many addresses, of which each tenth is alone in its class, and 200 sets.
func large(addresses int) *datapath.PolicyState {
	atoms := map[netip.Addr][]datapath.AtomID{}
	p := &datapath.PolicyState{
		Sets:      map[datapath.SetID]datapath.PolicySet{},
		Endpoints: map[datapath.EndpointID]datapath.EndpointPolicy{"a": {Ingress: "set 0", Egress: "set 0"}},
	}
	for i := range addresses {
		atoms[netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})] = []datapath.AtomID{datapath.AtomID(fmt.Sprint("app=", i/10))}
	}
	p.Addresses, p.Groups = datapath.Grouped(atoms)
	for s := range 200 {
		set := datapath.PolicySet{ID: datapath.SetID(fmt.Sprint("set ", s)), Default: datapath.Deny, DefaultRule: 1}
		for r := range 50 {
			set.Rules = append(set.Rules, datapath.Rule{
				ID: datapath.RuleID(s*100 + r + 2), Peers: []datapath.AtomID{datapath.AtomID(fmt.Sprint("app=", (s*7+r*3)%(addresses/10)))}, Ports: tcpPorts(uint16(r), uint16(r)),
			})
		}
		p.Sets[set.ID] = set
	}
	return p
}

func BenchmarkVerify(b *testing.B) {
	h := progtest.New(b)
	must(b, h.Endpoint("a", podA4))
	must(b, h.Load(large(10_000)))
	for b.Loop() {
		if got := told(b, h); got != "" {
			b.Fatal(got)
		}
	}
}
