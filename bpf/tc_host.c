// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * The program of the uplink.
 *
 *   skep_tc_host_in  tc ingress: what arrives from other nodes and from outside. Sources that only this node may use are
 *                    dropped; everything else is left to routing, replies to masqueraded flows included.
 */
#include "lib/addr.h"
#include "lib/metrics.h"
#include "skep/config.h"

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <stddef.h>

/* A pod of this node, or the node itself. */
static __always_inline bool is_ours(const struct addr *addr)
{
	struct address *known = bpf_map_lookup_elem(&skep_addr, addr);
	__u32 *node;

	if (known && known->ifindex)
		return true;
	node = bpf_map_lookup_elem(&skep_node, addr);
	return node && *node & NODE_SELF;
}

SEC("tc")
int skep_tc_host_in(struct __sk_buff *skb)
{
	struct addr src = {};
	__be32 v4;

	skb->mark &= ~SKEP_MARK_JUDGED;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, saddr), &v4, sizeof(v4)))
			return finish(skb, SKEP_REASON_MALFORMED, 0);
		addr_set4(&src, v4);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, saddr), &src, sizeof(src)))
			return finish(skb, SKEP_REASON_MALFORMED, 0);
		if (addr_is4(&src))
			return finish(skb, SKEP_REASON_V4_MAPPED, 0);
	} else {
		return finish(skb, SKEP_REASON_UPLINK, 0);
	}
	if (is_ours(&src))
		return finish(skb, SKEP_REASON_SPOOFED_UPLINK, 0);
	return finish(skb, SKEP_REASON_UPLINK, 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
