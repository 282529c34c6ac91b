/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Rewriting addresses and ports, checksums kept. */
#ifndef SKEP_LIB_NAT_H
#define SKEP_LIB_NAT_H

#include <stddef.h>

#include "packet.h"

/* What skep_rewrite changes, packed into one scalar because global functions take no pointers before 5.12. */
#define REWRITE_SOURCE (1U << 31)
#define REWRITE_IP4 (1U << 30)
#define REWRITE_NO_PORTS (1U << 29)
#define REWRITE_PROTO(proto) ((__u32)(proto) << 16)
#define REWRITE_L4_MASK 0xffff

/* SCTP's checksum covers no pseudo-header but its ports; it is CRC32c, which we cannot update, so its ports stay. */
static __always_inline int csum_offset(__u32 proto)
{
	if (proto == IPPROTO_TCP)
		return offsetof(struct tcphdr, check);
	if (proto == IPPROTO_UDP)
		return offsetof(struct udphdr, check);
	return -1;
}

static __always_inline int rewrite_port(struct __sk_buff *skb, __u32 l4, __u32 check, __u64 flags, __be16 port,
					bool source)
{
	__u32 off = l4 + (source ? offsetof(struct ports, source) : offsetof(struct ports, dest));
	__be16 old;

	if (bpf_skb_load_bytes(skb, off, &old, sizeof(old)))
		return -1;
	if (old == port)
		return 0;
	if (bpf_l4_csum_replace(skb, check, old, port, flags | sizeof(port)))
		return -1;
	return bpf_skb_store_bytes(skb, off, &port, sizeof(port), 0);
}

/* Replaces the source or destination by an address and port; 0, or -1 when the kernel refuses. */
__noinline int skep_rewrite(struct __sk_buff *skb, __u64 hi, __u64 lo, __u32 port, __u32 how)
{
	__u32 l4 = how & REWRITE_L4_MASK, proto = how >> 16 & 0xff, size, off;
	bool source = how & REWRITE_SOURCE;
	int check = csum_offset(proto);
	/* A UDP checksum of 0 means none and must stay so. */
	__u64 flags = proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	struct addr old = {}, new;
	__s64 diff;

	addr_set(&new, hi, lo);
	if (how & REWRITE_IP4) {
		off = ETH_HLEN + (source ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr));
		size = sizeof(__be32);
		new.w[0] = new.w[3];
		if (bpf_skb_load_bytes(skb, off, &old, sizeof(__be32)))
			return -1;
		diff = bpf_csum_diff(old.w, sizeof(__be32), new.w, sizeof(__be32), 0);
	} else {
		off = ETH_HLEN + (source ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr));
		size = sizeof(struct addr);
		if (bpf_skb_load_bytes(skb, off, &old, sizeof(old)))
			return -1;
		diff = bpf_csum_diff(old.w, sizeof(old), new.w, sizeof(new), 0);
	}
	if (check >= 0 && !(how & REWRITE_NO_PORTS)) {
		if (bpf_l4_csum_replace(skb, l4 + check, 0, diff, flags | BPF_F_PSEUDO_HDR))
			return -1;
		if (rewrite_port(skb, l4, l4 + check, flags, port, source))
			return -1;
	}
	if (how & REWRITE_IP4) {
		if (bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), 0, diff, 0))
			return -1;
		return bpf_skb_store_bytes(skb, off, &new, sizeof(__be32), 0);
	}
	return bpf_skb_store_bytes(skb, off, &new, size, 0);
}

static __always_inline __u32 rewrite_of(const struct packet *p)
{
	return p->l4 | REWRITE_PROTO(p->proto) | (p->ethertype == bpf_htons(ETH_P_IP) ? REWRITE_IP4 : 0) |
	       (p->flags & PACKET_LATER_FRAGMENT ? REWRITE_NO_PORTS : 0);
}

static __always_inline int rewrite_dst(struct __sk_buff *skb, const struct packet *p)
{
	return skep_rewrite(skb, addr_hi(&p->dst), addr_lo(&p->dst), p->dport, rewrite_of(p));
}

static __always_inline int rewrite_src(struct __sk_buff *skb, const struct packet *p, const struct addr *addr,
				       __be16 port)
{
	return skep_rewrite(skb, addr_hi(addr), addr_lo(addr), port, rewrite_of(p) | REWRITE_SOURCE);
}

#endif
