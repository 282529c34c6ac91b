// SPDX-License-Identifier: Apache-2.0

package netdev

import (
	"fmt"

	"github.com/google/nftables"
)

// ForwardDrops lists the nftables chains that drop forwarded packets unless a rule accepts them, as "family table/chain". Docker and
// host firewalls make such chains; traffic between pods of different nodes is forwarded. The chains of iptables-legacy are not seen.
func (h *Handle) ForwardDrops() ([]string, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(h.ns))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	var out []string
	for _, family := range []struct {
		name   string
		number nftables.TableFamily
	}{{"ip", nftables.TableFamilyIPv4}, {"ip6", nftables.TableFamilyIPv6}, {"inet", nftables.TableFamilyINet}} {
		chains, err := conn.ListChainsOfTableFamily(family.number)
		if err != nil {
			return nil, fmt.Errorf("list nftables chains: %w", err)
		}
		for _, c := range chains {
			forward := c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward
			if forward && c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
				out = append(out, fmt.Sprintf("%s %s/%s", family.name, c.Table.Name, c.Name))
			}
		}
	}
	return out, nil
}
