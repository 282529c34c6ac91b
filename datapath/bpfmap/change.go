// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"encoding/binary"
	"fmt"

	"github.com/cilium/ebpf"

	"skep.dev/skep/datapath/bpfobj"
)

// ChangeBatch is how many requests a program that changes entries takes at a time.
const ChangeBatch = 64

// etherLen is what precedes the requests in the made-up frame.
const etherLen = 14

// Changer has a program change entries of a map where they are. An update replaces the entry instead.
type Changer[K, V any] struct {
	Program *ebpf.Program
	// request is what the program reads: of fixed size and without padding.
	request func(K, V) any
}

// AddressChanger changes all of an entry of skep_addr.
func AddressChanger(program *ebpf.Program) Changer[bpfobj.SkepAddr, bpfobj.SkepAddress] {
	return Changer[bpfobj.SkepAddr, bpfobj.SkepAddress]{program, func(addr bpfobj.SkepAddr, to bpfobj.SkepAddress) any {
		return &bpfobj.SkepAddressChange{Addr: addr, To: to}
	}}
}

// EndpointChanger changes what policy says in an entry of skep_endpoint; see SamePod.
func EndpointChanger(program *ebpf.Program) Changer[uint32, bpfobj.SkepEndpoint] {
	return Changer[uint32, bpfobj.SkepEndpoint]{program, func(ifindex uint32, to bpfobj.SkepEndpoint) any {
		return &bpfobj.SkepEndpointChange{
			Ifindex: ifindex, IngressSet: to.IngressSet, EgressSet: to.EgressSet, Flags: to.Flags, Class4: to.Class4, Class6: to.Class6,
		}
	}}
}

// SamePod says whether two entries differ at most in what policy says.
func SamePod(a, b bpfobj.SkepEndpoint) bool {
	return a.Addr4 == b.Addr4 && a.Addr6 == b.Addr6 && a.Mac == b.Mac && a.HostMac == b.HostMac
}

// ServiceChanger changes all of an entry of skep_service but its number.
func ServiceChanger(program *ebpf.Program) Changer[bpfobj.SkepServiceKey, bpfobj.SkepService] {
	return Changer[bpfobj.SkepServiceKey, bpfobj.SkepService]{program, func(frontend bpfobj.SkepServiceKey, to bpfobj.SkepService) any {
		return &struct { // struct service_change
			Frontend bpfobj.SkepServiceKey
			To       bpfobj.SkepService
		}{frontend, to}
	}}
}

// Change gives entries other values, ChangeBatch of them at most, and returns how many were there. After an error none has changed.
func (c Changer[K, V]) Change(keys []K, values []V) (int, error) {
	frame := make([]byte, etherLen)
	for i := range keys {
		var err error
		if frame, err = binary.Append(frame, binary.NativeEndian, c.request(keys[i], values[i])); err != nil {
			return 0, fmt.Errorf("encode a change of an entry: %w", err)
		}
	}
	there, err := c.Program.Run(&ebpf.RunOptions{Data: frame})
	if err != nil {
		return 0, fmt.Errorf("run the program that changes entries: %w", err)
	}
	return int(there), nil
}
