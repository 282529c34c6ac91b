// SPDX-License-Identifier: Apache-2.0

package netdev

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"skep.dev/skep/datapath"
)

// notrackTable is our nftables table. Nobody else's rules are touched.
const notrackTable = "skep"

// SyncNotrack keeps the kernel's own connection tracking away from traffic between pods and between pods and nodes.
//
// Packets that BPF redirects pass netfilter in one direction only, so its conntrack sees half of a flow, takes the other half
// for invalid and lets a firewall that drops invalid packets break it. Traffic between nodes, and between pods and the world
// outside, stays tracked: firewalls and masquerading need that.
func (h *Handle) SyncNotrack(nodes []datapath.Node) error {
	conn, err := nftables.New(nftables.WithNetNSFd(h.ns))
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	// One transaction: added so that it is there to be deleted, deleted with its content, and made anew.
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: notrackTable})
	conn.DelTable(table)
	table = conn.AddTable(table)
	raw := *nftables.ChainPriorityRaw
	chains := []*nftables.Chain{
		conn.AddChain(&nftables.Chain{Name: "prerouting", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: &raw}),
		conn.AddChain(&nftables.Chain{Name: "output", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput, Priority: &raw}),
	}
	for _, f := range []ipFamily{ipv4, ipv6} {
		if err := addNotrack(conn, table, chains, f, nodes); err != nil {
			return err
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s: %w", notrackTable, err)
	}
	return nil
}

// HasNotrack says whether the rules that SyncNotrack wrote are all there: whoever flushes the ruleset, as a firewall does that starts anew,
// takes them along.
func (h *Handle) HasNotrack() (bool, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(h.ns))
	if err != nil {
		return false, fmt.Errorf("open nftables: %w", err)
	}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("list nftables chains: %w", err)
	}
	rules := 0
	for _, chain := range chains {
		if chain.Table.Name != notrackTable {
			continue
		}
		found, err := conn.GetRules(chain.Table, chain)
		if err != nil {
			return false, fmt.Errorf("list nftables table %s: %w", notrackTable, err)
		}
		rules += len(found)
	}
	return rules == notrackRules, nil
}

// notrackRules are three pairs of ends in two families and two chains.
const notrackRules = 3 * 2 * 2

// ipFamily is where a family's header has its addresses.
type ipFamily struct {
	name     string
	number   byte
	src, dst uint32
	length   uint32
	keyType  nftables.SetDatatype
}

var (
	ipv4 = ipFamily{name: "4", number: unix.NFPROTO_IPV4, src: 12, dst: 16, length: 4, keyType: nftables.TypeIPAddr}
	ipv6 = ipFamily{name: "6", number: unix.NFPROTO_IPV6, src: 8, dst: 24, length: 16, keyType: nftables.TypeIP6Addr}
)

// addNotrack adds the sets and rules of one family: from a pod to a pod or node, and from a node to a pod.
func addNotrack(conn *nftables.Conn, table *nftables.Table, chains []*nftables.Chain, f ipFamily, nodes []datapath.Node) error {
	pods, hosts := membersOf(f, nodes)
	sets := map[string]*nftables.Set{}
	for name, members := range map[string][]netip.Prefix{"pods" + f.name: pods, "nodes" + f.name: hosts} {
		set := &nftables.Set{Table: table, Name: name, KeyType: f.keyType, Interval: true}
		if err := conn.AddSet(set, intervals(members)); err != nil {
			return fmt.Errorf("nftables set %s: %w", name, err)
		}
		sets[name] = set
	}
	podSet, nodeSet := sets["pods"+f.name], sets["nodes"+f.name]
	for _, chain := range chains {
		for _, pair := range [][2]*nftables.Set{{podSet, podSet}, {podSet, nodeSet}, {nodeSet, podSet}} {
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: f.notrack(pair[0], pair[1])})
		}
	}
	return nil
}

func (f ipFamily) notrack(src, dst *nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f.number}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.src, Len: f.length},
		&expr.Lookup{SourceRegister: 1, SetName: src.Name, SetID: src.ID},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.dst, Len: f.length},
		&expr.Lookup{SourceRegister: 1, SetName: dst.Name, SetID: dst.ID},
		&expr.Notrack{},
	}
}

func membersOf(f ipFamily, nodes []datapath.Node) (pods, hosts []netip.Prefix) {
	v4 := f.length == 4
	for _, n := range nodes {
		for _, p := range n.PodCIDRs {
			if p.Addr().Is4() == v4 {
				pods = append(pods, p.Masked())
			}
		}
		for _, a := range n.Addrs {
			if a.Is4() == v4 {
				hosts = append(hosts, netip.PrefixFrom(a, a.BitLen()))
			}
		}
	}
	return disjoint(pods), disjoint(hosts)
}

// disjoint leaves out prefixes that others contain: an interval set takes no overlaps.
func disjoint(list []netip.Prefix) []netip.Prefix {
	slices.SortFunc(list, func(a, b netip.Prefix) int {
		if d := a.Addr().Compare(b.Addr()); d != 0 {
			return d
		}
		return a.Bits() - b.Bits()
	})
	var out []netip.Prefix
	for _, p := range list {
		if len(out) == 0 || !out[len(out)-1].Contains(p.Addr()) {
			out = append(out, p)
		}
	}
	return out
}

// intervals writes prefixes as the pairs of boundaries that the kernel wants. The end is the first address behind; a prefix
// that reaches the last address of its family has none.
func intervals(list []netip.Prefix) []nftables.SetElement {
	var out []nftables.SetElement
	for i, p := range list {
		if i == 0 && p.Addr() != zero(p.Addr()) {
			out = append(out, nftables.SetElement{Key: zero(p.Addr()).AsSlice(), IntervalEnd: true})
		}
		out = append(out, nftables.SetElement{Key: p.Addr().AsSlice()})
		if behind := lastOf(p).Next(); behind.IsValid() {
			out = append(out, nftables.SetElement{Key: behind.AsSlice(), IntervalEnd: true})
		}
	}
	return out
}

func zero(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
