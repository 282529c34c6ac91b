// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"skep.dev/skep/datapath/bpfobj"
)

// Tuple is a flow seen from its initiator.
type Tuple struct {
	Protocol uint8
	Src, Dst netip.AddrPort
}

// FlowKey is the key of a flow. It reports whether Src is end a. The order must be that of ct_key_of in bpf/lib/ct.h, which
// a test in tests/datapath checks against the program.
func FlowKey(t Tuple) (bpfobj.SkepCtKey, bool) {
	src, dst := AddrOf(t.Src.Addr()), AddrOf(t.Dst.Addr())
	sport, dport := PortOf(t.Src.Port()), PortOf(t.Dst.Port())
	key := bpfobj.SkepCtKey{Proto: t.Protocol}
	srcFirst := before(src, dst, sport, dport)
	if srcFirst {
		key.A, key.B, key.PortA, key.PortB = src, dst, sport, dport
	} else {
		key.A, key.B, key.PortA, key.PortB = dst, src, dport, sport
	}
	return key, srcFirst
}

func before(a, b bpfobj.SkepAddr, portA, portB uint16) bool {
	word := func(a bpfobj.SkepAddr, i int) uint64 { return uint64(a.W[i+1])<<32 | uint64(a.W[i]) }
	for _, i := range []int{0, 2} {
		if x, y := word(a, i), word(b, i); x != y {
			return x < y
		}
	}
	return portA <= portB
}

// FlowTuple is the flow of an entry, seen from its initiator.
func FlowTuple(key bpfobj.SkepCtKey, entry bpfobj.SkepCtEntry) Tuple {
	a := netip.AddrPortFrom(Addr(key.A), PortOf(key.PortA))
	b := netip.AddrPortFrom(Addr(key.B), PortOf(key.PortB))
	if bpfobj.SkepCtFlag(entry.Flags)&bpfobj.SkepCtFlagCT_FROM_B != 0 {
		a, b = b, a
	}
	return Tuple{Protocol: key.Proto, Src: a, Dst: b}
}

// FlowID is the key of a flow or of an index.
type FlowID = bpfobj.SkepCtKey

// IndexedFlow finds the flow that an index belongs to; false when it is gone, or another one has its tuple.
func IndexedFlow(flows map[FlowID]FlowEntry, id FlowID, index FlowEntry) (FlowID, bool) {
	tuple := FlowTuple(id, index)
	service := tuple.Dst
	tuple.Dst = natOf(index)
	owner, _ := FlowKey(tuple)
	flow, ok := flows[owner]
	return owner, ok && !Index(flow) && natOf(flow) == service
}

func natOf(e FlowEntry) netip.AddrPort { return netip.AddrPortFrom(Addr(e.Nat), PortOf(e.NatPort)) }

// FlowEntry is the entry of a flow.
type FlowEntry = bpfobj.SkepCtEntry

// Answered says that the responder has sent something.
func Answered(e FlowEntry) bool { return has(e.Tcp, bpfobj.SkepCtTcpCT_TCP_REPLIED) }

// Established says that a TCP handshake was completed.
func Established(e FlowEntry) bool { return has(e.Tcp, bpfobj.SkepCtTcpCT_TCP_ESTABLISHED) }

// Closed says that a TCP connection has ended.
func Closed(e FlowEntry) bool {
	return has(e.Tcp, bpfobj.SkepCtTcpCT_TCP_RST) ||
		(has(e.Tcp, bpfobj.SkepCtTcpCT_TCP_FIN_FORWARD) && has(e.Tcp, bpfobj.SkepCtTcpCT_TCP_FIN_BACK))
}

// Index says that the entry is not a flow but names a flow's backend under the tuple before translation.
func Index(e FlowEntry) bool { return bpfobj.SkepCtFlag(e.Flags)&bpfobj.SkepCtFlagCT_INDEX != 0 }

func has(state uint8, bit bpfobj.SkepCtTcp) bool { return bpfobj.SkepCtTcp(state)&bit != 0 }

// ExpireRequest asks the expiry program to delete an entry that is still as it was read.
func ExpireRequest(key bpfobj.SkepCtKey, entry FlowEntry) ([]byte, error) {
	var out bytes.Buffer
	var request bpfobj.SkepCtExpire
	for _, field := range []any{key, entry.LastSeen} {
		if err := binary.Write(&out, binary.NativeEndian, field); err != nil {
			return nil, fmt.Errorf("encode a request to expire: %w", err)
		}
	}
	if out.Len() != binary.Size(request) {
		return nil, fmt.Errorf("a request to expire takes %d bytes, not %d", binary.Size(request), out.Len())
	}
	return out.Bytes(), nil
}
