// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/bpfobj"
	"skep.dev/skep/datapath/loader"
	"skep.dev/skep/datapath/progtest"
	"skep.dev/skep/nodeagent/intent"
	"skep.dev/skep/nodeagent/policymodel"
)

const changesPerWorld = 60

// tight are sizes of maps at which some policies do not fit.
func tight(o *loader.Options) {
	o.MaxEntries = map[string]uint32{"skep_set": 48, "skep_peer": 160, "skep_cidr": 24, "skep_block": 512, "skep_ct_first": 1024}
}

// quick has few flows to look through when pods come and go.
func quick(o *loader.Options) { o.MaxEntries = map[string]uint32{"skep_ct_first": 1024} }

// TestChangesAmountToTheWhole changes random worlds thing by thing, with failures and restarts on the way, and compares the maps with
// those of a node that learns of everything at once.
func TestChangesAmountToTheWhole(t *testing.T) {
	rnd := seeded(t)
	roomy, small, fresh := progtest.New(t, quick), progtest.New(t, tight), progtest.New(t, quick)
	counts := map[string]int{}
	for changes := 0; changes < max(*casesFlag/400, 1); {
		h := roomy
		if changes/changesPerWorld%3 == 1 {
			h = small
		}
		b := newBench(t, h)
		g := newGenerator(rnd, b)
		g.fill()
		var log []string
		for range changesPerWorld {
			log = append(log, g.change())
			changes++
			if g.chance(50) {
				continue // several changes are handed over at once
			}
			if h == roomy && g.chance(3) { // the passage to another policy takes room
				h.Restart(t)
				log = append(log, "restart")
			}
			what, difference := b.follow(fresh, g.chance(30))
			counts[what]++
			log = append(log, what)
			if difference != "" {
				t.Fatalf("%s\n%s\n%s", strings.Join(log, "\n"), difference, describe(b.world))
			}
		}
		b.close()
		if err := h.Load(&datapath.PolicyState{}); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%v", counts)
	if counts["refused"] == 0 && *casesFlag >= 100_000 {
		t.Error("no policy was refused")
	}
}

// change makes one random change, without loading it.
func (g *generator) change() string {
	b := g.b
	switch n := g.IntN(100); {
	case n < 15:
		old := pick(g, b.world.Pods)
		old.Labels = g.labels()
		b.setPod(old)
		return "pod relabelled: " + old.UID
	case n < 25:
		p := g.pod()
		b.setPod(p)
		return fmt.Sprintf("pod added: %s at %v", p.UID, p.IPs)
	case n < 32 && len(b.world.Pods) > 2:
		p := pick(g, b.world.Pods)
		b.deletePod(p.UID)
		return "pod deleted: " + p.UID
	case n < 40:
		ns := pick(g, b.world.Namespaces)
		ns.Labels = g.labels()
		b.setNamespace(ns)
		return "namespace relabelled: " + ns.Name
	case n < 45:
		node := pick(g, b.world.Nodes)
		node.Labels = g.labels()
		b.setNode(node)
		return "node relabelled: " + node.Name
	case n < 60 && len(b.world.Policies) > 0:
		p := pick(g, b.world.Policies)
		b.forgetPolicy(p.Namespace, p.Name)
		return "policy deleted: " + p.Namespace + "/" + p.Name
	case n < 70 && len(b.world.Policies) > 0:
		p := pick(g, b.world.Policies)
		b.setPolicy(g.policyNamed(p.Namespace, p.Name, p.Generation+1))
		return "policy changed: " + p.Namespace + "/" + p.Name
	case n < 73 && len(b.world.Policies) > 0:
		old := pick(g, b.world.Policies)
		p := *old.DeepCopy()
		if len(p.Spec.Ingress) == 0 {
			return "nothing"
		}
		p.Generation++
		rule := &p.Spec.Ingress[g.IntN(len(p.Spec.Ingress))]
		if len(rule.From) > 0 && g.chance(50) {
			rule.From = slices.Delete(rule.From, 0, 1)
		} else {
			rule.From = append(rule.From, networkingv1.NetworkPolicyPeer{IPBlock: g.block()})
		}
		b.setPolicy(p)
		return "peers of policy changed: " + p.Namespace + "/" + p.Name
	case n < 79 && len(b.world.ClusterPolicies) > 0:
		p := pick(g, b.world.ClusterPolicies)
		b.forgetClusterPolicy(p.Name)
		return "cluster policy deleted: " + p.Name
	case n < 86:
		g.policies++
		p := g.clusterPolicy(fmt.Sprint("cluster-", g.policies), 1)
		b.setClusterPolicy(p)
		return "cluster policy added: " + p.Name
	}
	p := g.policy()
	b.setPolicy(p)
	return "policy added: " + p.Namespace + "/" + p.Name
}

// follow hands the changes over and returns in what the result differs from that of computing everything anew. What does not fit must
// change nothing. The datapath does not depend on groups that keep their names: at times they are given others' names.
func (b *bench) follow(fresh *progtest.Harness, rename bool) (what, difference string) {
	before := b.dump(b.h)
	state := b.cluster.Policy()
	named := *state
	if rename {
		atoms := map[netip.Addr][]datapath.AtomID{}
		for addr := range state.Addresses.All() {
			atoms[addr] = state.AtomsOf(addr)
		}
		named.Addresses, named.Groups = datapath.Grouped(atoms)
	}
	if err := b.h.Load(&named); err != nil {
		if !errors.Is(err, bpfmap.ErrFull) {
			b.t.Fatal(err)
		}
		if after := b.dump(b.h); before != after {
			return "refused", fmt.Sprintf("a refused policy changes\n%s\nto\n%s", before, after)
		}
		return "refused", ""
	}
	whole := b.anew().Policy()
	if difference := comparePolicies(whole, state); difference != "" {
		return "taken", difference
	}
	defer b.clear(fresh)
	for uid := range b.endpoints {
		if err := fresh.Endpoint(datapath.EndpointID(uid), b.podOf(uid).IPs...); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := fresh.Load(whole); err != nil {
		b.t.Fatal(err)
	}
	if want, got := b.dump(fresh), b.dump(b.h); want != got {
		return "taken", fmt.Sprintf("anew:\n%s\nchanged:\n%s", want, got)
	}
	return "taken", ""
}

// clear empties the maps of the node that learns of everything at once.
func (b *bench) clear(h *progtest.Harness) {
	for uid := range b.endpoints {
		if err := h.RemoveEndpoint(datapath.EndpointID(uid)); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := h.Load(&datapath.PolicyState{}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) podOf(uid string) policymodel.Pod {
	return b.world.Pods[slices.IndexFunc(b.world.Pods, func(p policymodel.Pod) bool { return p.UID == uid })]
}

// anew is a translator that learns of the world at once. It has the same numbers of rules.
func (b *bench) anew() *intent.Cluster {
	c := intent.NewCluster(thisNode, b.rules)
	for _, p := range b.world.Policies {
		if _, err := c.SetNetworkPolicy(p.DeepCopy()); err != nil {
			b.t.Fatal(err)
		}
	}
	for _, p := range b.world.ClusterPolicies {
		if _, err := c.SetClusterPolicy(p.DeepCopy()); err != nil {
			b.t.Fatal(err)
		}
	}
	for _, n := range b.world.Nodes {
		c.SetNodePeer(apiNode(n))
	}
	for _, p := range b.world.Pods {
		c.SetPod(apiPod(p))
	}
	for _, ns := range b.world.Namespaces {
		c.SetNamespace(ns.Name, labels.Set(ns.Labels))
	}
	return c
}

// comparePolicies says in what two renderings differ but for the names of groups.
func comparePolicies(want, got *datapath.PolicyState) string {
	atoms := func(p *datapath.PolicyState) map[netip.Addr]string {
		out := map[netip.Addr]string{}
		for addr := range p.Addresses.All() {
			out[addr] = fmt.Sprint(slices.Sorted(slices.Values(p.AtomsOf(addr))))
		}
		return out
	}
	if a, b := atoms(want), atoms(got); !maps.Equal(a, b) || want.Groups.Len() != got.Groups.Len() {
		return fmt.Sprintf("addresses are %v in %d groups, want %v in %d", b, got.Groups.Len(), a, want.Groups.Len())
	}
	if !want.CIDRs.Equal(got.CIDRs, datapath.CIDR.Equal) {
		return fmt.Sprintf("CIDRs are %v, want %v", maps.Collect(got.CIDRs.All()), maps.Collect(want.CIDRs.All()))
	}
	sameSet := func(a, b datapath.PolicySet) bool { return a.ID == b.ID }
	if !maps.Equal(want.Endpoints, got.Endpoints) || !maps.EqualFunc(want.Sets, got.Sets, sameSet) {
		return fmt.Sprintf("endpoints are %v, want %v; sets %v, want %v", got.Endpoints, want.Endpoints, got.Sets, want.Sets)
	}
	return ""
}

// dump writes what programs find in the maps, without the numbers of classes, sets and places.
func (b *bench) dump(h *progtest.Harness) string {
	d := &dump{t: b.t, m: h.Maps}
	d.must(h.Node.Tidy())
	classes := d.classes()
	for _, uid := range slices.Sorted(maps.Keys(b.endpoints)) {
		ep, ok, err := h.EndpointEntry(datapath.EndpointID(uid))
		d.must(err)
		fmt.Fprintf(&d.out, "endpoint %s there %v, flags %d\n", uid, ok, ep.Flags)
		if ep.Flags&uint32(bpfobj.SkepEndpointFlagENDPOINT_POLICY) == 0 {
			continue
		}
		own := map[string]uint32{"own IPv4": ep.Class4, "own IPv6": ep.Class6}
		maps.Copy(own, classes)
		d.set("ingress", ep.IngressSet, own)
		d.set("egress", ep.EgressSet, own)
	}
	peers, err := d.m.Peer.All()
	d.must(err)
	sets := map[uint32]bool{}
	for key := range peers {
		sets[key.Set] = true
	}
	fmt.Fprintf(&d.out, "%d rows in %d sets\n", len(peers), len(sets))
	return d.out.String()
}

type dump struct {
	t   testing.TB
	m   *bpfmap.Maps
	out strings.Builder
}

func (d *dump) must(err error) {
	if err != nil {
		d.t.Fatal(err)
	}
}

// classes lists the classes of addresses and prefixes.
func (d *dump) classes() map[string]uint32 {
	out := map[string]uint32{}
	addresses, err := d.m.Address.All()
	d.must(err)
	for key, entry := range addresses {
		name := fmt.Sprintf("%v here %v", bpfmap.Addr(key), entry.Ifindex != 0)
		class, ok := bpfmap.ClassOf(entry)
		if !ok {
			name += " without class"
		}
		out[name] = class
	}
	prefixes, err := d.m.CIDR.All()
	d.must(err)
	for key, class := range prefixes {
		p := bpfmap.CIDRPrefix(key)
		out[fmt.Sprintf("%v/%d", netip.AddrFrom16(p.Addr), p.Bits)] = class
	}
	state, _, err := d.m.State.Get(0)
	d.must(err)
	fmt.Fprintf(&d.out, "state flags %d, flips odd %v\n", state.Flags, state.Flips%2 == 1)
	return out
}

// set writes a set: its rules, its ports, and the rules that hold for each address.
func (d *dump) set(name string, number uint32, classes map[string]uint32) {
	header, _, err := d.m.Set.Get(number)
	d.must(err)
	fmt.Fprintf(&d.out, " %s flags %d, rules %d\n", name, header.Flags, header.Rules)
	for i := range header.Rules + 2 { // the defaults are behind the rules
		rule, _, err := d.m.Rule.Get(header.FirstRule + i)
		d.must(err)
		rule.Counter = 0
		fmt.Fprintf(&d.out, "  rule %v\n", rule)
	}
	for i := range header.Ports {
		span, _, err := d.m.Port.Get(header.FirstPort + i)
		d.must(err)
		fmt.Fprintf(&d.out, "  from %#x %s\n", span.Start, d.row(span.Row))
	}
	for _, who := range slices.Sorted(maps.Keys(classes)) {
		class := classes[who]
		if class > header.CompleteClass {
			fmt.Fprintf(&d.out, "  %s is unknown\n", who)
			continue
		}
		row, ok, err := d.m.Peer.Get(bpfobj.SkepPeerKey{Set: number, Class: class})
		d.must(err)
		if !ok {
			row, ok, err = d.m.Peer.Get(bpfobj.SkepPeerKey{Set: number})
			d.must(err)
		}
		fmt.Fprintf(&d.out, "  %s %v %s\n", who, ok, d.row(row))
	}
}

func (d *dump) row(row bpfobj.SkepRow) string {
	var out strings.Builder
	for i, left := uint32(0), row.Blocks; left != 0; i, left = i+1, left&(left-1) {
		block, _, err := d.m.Block.Get(row.First + i)
		d.must(err)
		fmt.Fprintf(&out, "%d:%x ", bits.TrailingZeros32(left), block.Words)
	}
	return out.String()
}
