// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"skep.dev/skep/datapath"
)

// Service is a frontend with the backends that it chooses from.
type Service struct {
	Frontend datapath.Frontend
	Backends []Backend
	// Affinity in whole seconds, 0 without.
	Affinity uint32
}

// Backend is where a Service's packets go.
type Backend struct {
	Addr netip.Addr
	Port uint16
}

// NewServices compiles Services by frontend. Backends are sorted and unique. When two Services claim one frontend the one
// whose ID sorts first gets it and the others are returned as an error beside the result.
func NewServices(services []datapath.Service) (map[datapath.Frontend]Service, error) {
	out := make(map[datapath.Frontend]Service, len(services))
	owner := make(map[datapath.Frontend]datapath.ServiceID, len(services))
	var conflict error
	sorted := slices.Clone(services)
	slices.SortStableFunc(sorted, func(a, b datapath.Service) int { return cmp.Compare(a.ID, b.ID) })
	for _, s := range sorted {
		s.Frontend.Addr = s.Frontend.Addr.Unmap()
		if first, taken := owner[s.Frontend]; taken {
			if conflict == nil {
				conflict = fmt.Errorf("services %s and %s both claim %s port %d", first, s.ID, s.Frontend.Addr, s.Frontend.Port)
			}
			continue
		}
		owner[s.Frontend] = s.ID
		out[s.Frontend] = Service{
			Frontend: s.Frontend,
			Backends: backends(s),
			Affinity: uint32((s.AffinityTimeout + time.Second - 1) / time.Second),
		}
	}
	return out, conflict
}

func backends(s datapath.Service) []Backend {
	var out []Backend
	for _, b := range s.Backends {
		addr := b.Addr.Unmap()
		if (s.LocalOnly && !b.Local) || addr.Is4() != s.Frontend.Addr.Is4() {
			continue
		}
		out = append(out, Backend{Addr: addr, Port: b.Port})
	}
	slices.SortFunc(out, func(a, b Backend) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port))
	})
	return slices.Compact(out)
}
