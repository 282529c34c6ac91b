// SPDX-License-Identifier: Apache-2.0

// Package bpfmap is where Go values become map entries and back: byte order, padding and address form are settled here and
// nowhere else.
package bpfmap

import (
	"encoding/binary"
	"net/netip"

	"skep.dev/skep/datapath/bpfobj"
)

// AddrOf is the form of an address in maps: 128 bits, IPv4 as v4-mapped. The zero Addr is all zero.
func AddrOf(a netip.Addr) bpfobj.SkepAddr {
	if !a.IsValid() {
		return bpfobj.SkepAddr{}
	}
	return addr16(a.As16())
}

func addr16(b [16]byte) bpfobj.SkepAddr {
	var out bpfobj.SkepAddr
	for i := range out.W {
		out.W[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return out
}

// Addr is the address of a map entry; the zero Addr when the entry has none.
func Addr(a bpfobj.SkepAddr) netip.Addr {
	if a == (bpfobj.SkepAddr{}) {
		return netip.Addr{}
	}
	return netip.AddrFrom16(bytes16(a)).Unmap()
}

func bytes16(a bpfobj.SkepAddr) [16]byte {
	var b [16]byte
	for i, word := range a.W {
		binary.NativeEndian.PutUint32(b[4*i:], word)
	}
	return b
}

// PortOf turns a port into network order as maps hold it, and back.
func PortOf(port uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	return binary.NativeEndian.Uint16(b[:])
}
