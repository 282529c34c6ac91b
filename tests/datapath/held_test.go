// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/loader"
	"skep.dev/skep/datapath/progtest"
	"skep.dev/skep/datapath/reconcile"
)

// crowd is a world of local and remote pods. Its policies take turns: each lets the local pods reach each other and nobody else, by labels,
// sets and classes that the other one does not have.
type crowd struct{ local, remote int }

func (c crowd) addr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 244, 0, byte(i + 1)}) }

func (c crowd) id(i int) datapath.EndpointID { return datapath.EndpointID(fmt.Sprint("pod-", i)) }

// enter adds the local pods. Their devices are numbered from 1, so the first one sends what programs are run on without saying from where.
func (c crowd) enter(t *testing.T, h *progtest.Harness) {
	for i := range c.local {
		must(t, h.Node.SetEndpoint(datapath.Endpoint{
			ID: c.id(i), Namespace: "test", Name: string(c.id(i)), Ifindex: 1 + i, IfName: "test", Addrs: []netip.Addr{c.addr(i)},
			MAC: progtest.MAC, HostMAC: progtest.HostMAC,
		}))
	}
}

func (c crowd) policy(turn int) *datapath.PolicyState {
	turn %= 2
	friends, others := datapath.AtomID(fmt.Sprint("friend-", turn)), datapath.AtomID(fmt.Sprint("other-", turn))
	p := &datapath.PolicyState{
		Sets: map[datapath.SetID]datapath.PolicySet{}, Endpoints: map[datapath.EndpointID]datapath.EndpointPolicy{},
	}
	atoms := map[netip.Addr][]datapath.AtomID{}
	for i := range c.local + c.remote {
		atoms[c.addr(i)] = []datapath.AtomID{others}
		if i >= c.local {
			continue
		}
		atoms[c.addr(i)] = []datapath.AtomID{friends}
		set := datapath.PolicySet{ID: datapath.SetID(fmt.Sprint("set-", turn, "-", i)), Default: datapath.Deny, Rules: []datapath.Rule{
			{ID: datapath.RuleID(1 + i), Peers: []datapath.AtomID{friends}, AnyPort: true},
			{ID: datapath.RuleID(1 + i), Action: datapath.Deny, Peers: []datapath.AtomID{others}, Ports: tcpPorts(1, 2)},
		}}
		p.Sets[set.ID] = set
		p.Endpoints[c.id(i)] = datapath.EndpointPolicy{Ingress: set.ID, Egress: set.ID}
	}
	// A set that stays tells the labels apart, so that nobody keeps a class.
	p.Sets["stays"] = datapath.PolicySet{ID: "stays", Rules: []datapath.Rule{
		{ID: 100, Peers: []datapath.AtomID{"friend-0"}, AnyPort: true}, {ID: 101, Peers: []datapath.AtomID{"other-0"}, AnyPort: true},
	}}
	p.Addresses, p.Groups = datapath.Grouped(atoms)
	return p
}

// TestEntriesAreChangedWhereTheyAre looks at the order in which entries lie in buckets: one that replaces another comes first in its bucket.
func TestEntriesAreChangedWhereTheyAre(t *testing.T) {
	// As few buckets as there are entries, so that many share one.
	h := progtest.New(t, func(o *loader.Options) { o.MaxEntries = map[string]uint32{"skep_addr": 64, "skep_endpoint": 16} })
	c := crowd{local: 12, remote: 48}
	c.enter(t, h)
	must(t, h.Load(c.policy(0)))
	stranger := datapath.Endpoint{
		ID: "stranger", Namespace: "test", Name: "stranger", Ifindex: 100, IfName: "test", MAC: progtest.MAC, HostMAC: progtest.HostMAC,
		Addrs: []netip.Addr{c.addr(c.local)},
	}
	for _, change := range []struct {
		name string
		make func() error
		// what says something else then
		addresses, endpoints bool
	}{
		{"policies, and with them all classes and sets", func() error { return h.Load(c.policy(1)) }, true, true},
		{"endpoints that are entered again", func() error { c.enter(t, h); return nil }, false, false},
		{"an address with a class that gets a pod, and loses it", func() error {
			before := order(t, h.Maps.Address)
			must(t, h.Node.SetEndpoint(stranger))
			before.same(t, h.Maps.Address, true)
			return h.Node.DeleteEndpoint(stranger.ID)
		}, false, false},
	} {
		t.Run(change.name, func(t *testing.T) {
			addresses, endpoints := order(t, h.Maps.Address), order(t, h.Maps.Endpoint)
			must(t, change.make())
			addresses.same(t, h.Maps.Address, change.addresses)
			endpoints.same(t, h.Maps.Endpoint, change.endpoints)
		})
	}
}

func TestServicesAndNodesAreChangedWhereTheyAre(t *testing.T) {
	h := progtest.New(t, func(o *loader.Options) { o.MaxEntries = map[string]uint32{"skep_service": 64, "skep_node": 64} })
	must(t, h.Node.SetServices(manyServices(0)))
	var nodes []datapath.Node
	for i := range 40 {
		nodes = append(nodes, datapath.Node{Name: fmt.Sprint(i), Addrs: []netip.Addr{netip.AddrFrom4([4]byte{172, 29, 0, byte(i)})}})
	}
	must(t, h.Node.SetNodes(nodes))
	services, before := order(t, h.Maps.Service), order(t, h.Maps.Node)
	other := manyServices(1)
	for i := range other {
		other[i].AffinityTimeout = time.Hour
	}
	must(t, h.Node.SetServices(other))
	must(t, h.Node.SetNodes(nodes))
	services.same(t, h.Maps.Service, true)
	before.same(t, h.Maps.Node, false)
	if repairs := told(t, h); repairs != "" {
		t.Errorf("they do not say what they should: %s", repairs)
	}
}

// manyServices are Services that lead elsewhere.
func manyServices(turn int) []datapath.Service {
	var out []datapath.Service
	for i := range 40 {
		backends := []datapath.Backend{backend(elsewhere4, 8080), backend(elsewhere4, 8081), backend(elsewhere4, 8082)}
		out = append(out, service(netip.AddrFrom4([4]byte{10, 96, 1, byte(i)}), 80, datapath.TCP, backends[:2+turn%2]...))
	}
	return out
}

// TestMemoryRestsBeforeItSaysSomethingElse deletes entries and makes others: a program that began before the deletion must have ended.
func TestMemoryRestsBeforeItSaysSomethingElse(t *testing.T) {
	h := progtest.New(t)
	now, settled := time.Unix(1000, 0), 0
	var err error
	h.Node, err = reconcile.New(h.Maps, reconcile.Clock{
		Now: func() time.Time { now = now.Add(time.Microsecond); return now }, Sleep: func(time.Duration) {}, Settle: func() { settled++ },
	})
	must(t, err)
	c := crowd{local: 4}
	for _, step := range []struct {
		name string
		do   func()
		want int
	}{
		{"nothing was deleted before", func() { c.enter(t, h) }, 0},
		{"a deletion waits for nobody", func() { must(t, h.Node.DeleteEndpoint(c.id(0))) }, 0},
		{"what follows it waits, once", func() { c.enter(t, h) }, 1},
		{"another address replaces an endpoint", func() {
			must(t, h.Node.SetEndpoint(datapath.Endpoint{
				ID: c.id(0), Namespace: "test", Name: string(c.id(0)), Ifindex: 1, IfName: "test", MAC: progtest.MAC, HostMAC: progtest.HostMAC,
				Addrs: []netip.Addr{c.addr(9)},
			}))
		}, 1},
		{"an endpoint goes and comes", func() { must(t, h.Node.DeleteEndpoint(c.id(0))); c.enter(t, h) }, 1},
		{"later all have ended anyway", func() {
			must(t, h.Node.DeleteEndpoint(c.id(0)))
			now = now.Add(time.Second)
			c.enter(t, h)
		}, 0},
	} {
		t.Run(step.name, func(t *testing.T) {
			settled = 0
			if step.do(); settled != step.want {
				t.Errorf("waited %d times, not %d", settled, step.want)
			}
		})
	}
}

// ordered are the entries of a map as they lie in it.
type ordered[K, V comparable] struct {
	keys   []K
	values []V
}

func order[K, V comparable](t *testing.T, table bpfmap.Table[K, V]) ordered[K, V] {
	t.Helper()
	keys, values, err := table.Read(-1)
	must(t, err)
	return ordered[K, V]{keys, values}
}

// same demands that the entries lie as they lay, and say something else or not.
func (o ordered[K, V]) same(t *testing.T, table bpfmap.Table[K, V], changed bool) {
	t.Helper()
	now := order(t, table)
	if !slices.Equal(now.keys, o.keys) {
		t.Errorf("entries of %s were replaced: they lay as\n%v\nand lie as\n%v", table.Name, o.keys, now.keys)
	}
	if slices.Equal(now.values, o.values) == changed {
		t.Errorf("%s says %v, and said %v", table.Name, now.values, o.values)
	}
}

// TestNobodyReadsTheEntryOfAnother has one processor change every entry in turn, while a program runs on another. Whoever takes the entry of
// a remote pod for the receiver's sends the packet to the stack; it drops it as spoofed when it takes another entry for the sender's.
func TestNobodyReadsTheEntryOfAnother(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("it takes two processors")
	}
	h := progtest.New(t, func(o *loader.Options) { o.Bench = true })
	c := crowd{local: 2, remote: 40}
	c.enter(t, h)
	must(t, h.Load(c.policy(0)))
	sent, turns := meanwhile(t, h, progtest.Packet{Src: c.addr(0), Dst: c.addr(1), Protocol: progtest.UDP, DstPort: 80},
		func(turn int) error { return h.Load(c.policy(turn)) })
	t.Logf("%d packets during %d changes", sent, turns)
	verdicts, drops, err := bpfmap.Metrics(h.Maps.Metric)
	must(t, err)
	for _, name := range []string{"to_stack", "spoofed_ipv4", "no_endpoint"} {
		if n := count(slices.Concat(verdicts, drops), name); n > 0 {
			t.Errorf("%d packets: %s", n, name)
		}
	}
}

// meanwhile has the first endpoint send packets of ever new flows on one processor, while on another something changes for some seconds.
func meanwhile(t *testing.T, h *progtest.Harness, p progtest.Packet, change func(turn int) error) (sent, turns int) {
	t.Helper()
	const repeat = 5000
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		runOn(t, 1)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := h.Time("skep_bench_first", p.Bytes(), repeat); err != nil {
				t.Error(err)
				return
			}
			sent += repeat
		}
	}()
	runOn(t, 0)
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); turns++ {
		must(t, change(turns+1))
	}
	close(stop)
	<-done
	return sent, turns
}

// runOn keeps the goroutine on one processor. Its thread ends with it.
func runOn(t *testing.T, cpu int) {
	t.Helper()
	runtime.LockOSThread()
	var on unix.CPUSet
	on.Set(cpu)
	if err := unix.SchedSetaffinity(0, &on); err != nil {
		t.Error(err)
	}
}
