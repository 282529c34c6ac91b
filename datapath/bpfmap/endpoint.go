// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfobj"
)

// Endpoint is the entry of a pod, without policy.
func Endpoint(ep datapath.Endpoint) bpfobj.SkepEndpoint {
	out := bpfobj.SkepEndpoint{Mac: ep.MAC, HostMac: ep.HostMAC}
	for _, addr := range ep.Addrs {
		if addr = addr.Unmap(); addr.Is4() {
			out.Addr4 = AddrOf(addr)
		} else {
			out.Addr6 = AddrOf(addr)
		}
	}
	return out
}

// SetOwnClass notes the class of one of the endpoint's addresses in its entry.
func SetOwnClass(e *bpfobj.SkepEndpoint, addr netip.Addr, class uint32) {
	if addr.Unmap().Is4() {
		e.Class4 = class
		e.Flags |= uint32(bpfobj.SkepEndpointFlagENDPOINT_CLASS4)
	} else {
		e.Class6 = class
		e.Flags |= uint32(bpfobj.SkepEndpointFlagENDPOINT_CLASS6)
	}
}

// EndpointName is what finds the endpoint again after a restart. It is an error when a name does not fit.
func EndpointName(ep datapath.Endpoint) (bpfobj.SkepEndpointName, error) {
	var out bpfobj.SkepEndpointName
	for _, field := range []struct {
		to   []byte
		from string
	}{
		{out.Id[:], string(ep.ID)}, {out.Namespace[:], ep.Namespace}, {out.Name[:], ep.Name}, {out.Ifname[:], ep.IfName},
	} {
		if len(field.from) >= len(field.to) {
			return out, fmt.Errorf("%q is longer than %d bytes", field.from, len(field.to)-1)
		}
		copy(field.to, field.from)
	}
	return out, nil
}

// AdoptEndpoint is the endpoint that two entries describe.
func AdoptEndpoint(ifindex uint32, entry bpfobj.SkepEndpoint, name bpfobj.SkepEndpointName) datapath.Endpoint {
	ep := datapath.Endpoint{
		ID: datapath.EndpointID(text(name.Id[:])), Namespace: text(name.Namespace[:]), Name: text(name.Name[:]),
		Ifindex: int(ifindex), IfName: text(name.Ifname[:]), MAC: entry.Mac, HostMAC: entry.HostMac,
	}
	for _, addr := range []netip.Addr{Addr(entry.Addr4), Addr(entry.Addr6)} {
		if addr.IsValid() {
			ep.Addrs = append(ep.Addrs, addr)
		}
	}
	return ep
}

func text(b []byte) string {
	before, _, _ := bytes.Cut(b, []byte{0})
	return string(before)
}

// Address is the entry of one of a pod's addresses, without class.
func Address(ep datapath.Endpoint) bpfobj.SkepAddress {
	out := bpfobj.SkepAddress{Ifindex: uint32(ep.Ifindex)}
	frame := slices.Concat(ep.MAC[:], ep.HostMAC[:])
	for i := range out.Macs {
		out.Macs[i] = binary.NativeEndian.Uint32(frame[4*i:])
	}
	return out
}

// WithClass is an address's entry with its class.
func WithClass(a bpfobj.SkepAddress, class uint32) bpfobj.SkepAddress {
	a.Class = class
	a.Flags |= uint32(bpfobj.SkepAddressFlagADDRESS_CLASS)
	return a
}

// ClassOf is the class in an address's entry; false when it has none of its own.
func ClassOf(a bpfobj.SkepAddress) (uint32, bool) {
	return a.Class, a.Flags&uint32(bpfobj.SkepAddressFlagADDRESS_CLASS) != 0
}
