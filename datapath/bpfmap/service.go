// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"net/netip"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfobj"
)

// ServiceKey is the key of a frontend.
func ServiceKey(f datapath.Frontend) bpfobj.SkepServiceKey {
	return bpfobj.SkepServiceKey{Addr: AddrOf(f.Addr), Port: PortOf(f.Port), Proto: uint8(f.Protocol)}
}

// Frontend is the frontend of a key.
func Frontend(k bpfobj.SkepServiceKey) datapath.Frontend {
	return datapath.Frontend{Addr: Addr(k.Addr), Port: PortOf(k.Port), Protocol: datapath.Protocol(k.Proto)}
}

// Backend is the entry of a backend.
func Backend(addr netip.Addr, port uint16) bpfobj.SkepBackend {
	return bpfobj.SkepBackend{Addr: AddrOf(addr), Port: PortOf(port)}
}
