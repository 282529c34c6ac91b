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
#define REWRITE_QUOTED (1U << 28)
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

/* What skep_rewrite_quoted works on: offsets in the frame, and the address's change as a checksum sees it. */
struct quoted {
	__u32 check; /* of the ICMP message */
	__u32 l4; /* quoted transport header */
	__s64 diff;
};

/* The quoted packet's ports and checksum, in so far as they are quoted: 8 bytes are all that RFC 792 promises. */
static __always_inline int rewrite_quoted_ports(struct __sk_buff *skb, const struct quoted *q, __u32 proto, __be16 port, bool source)
{
	__u32 off = q->l4 + (source ? offsetof(struct ports, source) : offsetof(struct ports, dest)), sum_off;
	int check = csum_offset(proto);
	__be16 old, sum, new_sum;

	if (bpf_skb_load_bytes(skb, off, &old, sizeof(old)))
		return -1;
	if (old != port && (bpf_l4_csum_replace(skb, q->check, old, port, sizeof(port)) ||
			    bpf_skb_store_bytes(skb, off, &port, sizeof(port), 0)))
		return -1;
	if (check < 0)
		return 0;
	sum_off = q->l4 + check;
	if (bpf_skb_load_bytes(skb, sum_off, &sum, sizeof(sum)) || (proto == IPPROTO_UDP && !sum))
		return 0;
	if (bpf_l4_csum_replace(skb, sum_off, 0, q->diff, 0) || bpf_l4_csum_replace(skb, sum_off, old, port, sizeof(port)))
		return -1;
	if (bpf_skb_load_bytes(skb, sum_off, &new_sum, sizeof(new_sum)))
		return -1;
	return bpf_l4_csum_replace(skb, q->check, sum, new_sum, sizeof(sum));
}

/* Replaces an address in a quoted IPv4 header, and the outer one that is the same. A header's sum stays what it was, and with it the
 * message's. */
static __always_inline int rewrite_quoted4(struct __sk_buff *skb, struct quoted *q, __u32 ip, const struct addr *new, bool source)
{
	__u32 inner = ip + (source ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr));
	__u32 outer = ETH_HLEN + (source ? offsetof(struct iphdr, daddr) : offsetof(struct iphdr, saddr));
	__be32 old, other, to = new->w[3];
	__u8 first;

	if (bpf_skb_load_bytes(skb, ip, &first, sizeof(first)) || bpf_skb_load_bytes(skb, inner, &old, sizeof(old)) ||
	    bpf_skb_load_bytes(skb, outer, &other, sizeof(other)))
		return -1;
	q->l4 = ip + (first & 0xf) * 4;
	q->diff = bpf_csum_diff(&old, sizeof(old), &to, sizeof(to), 0);
	if (bpf_l3_csum_replace(skb, ip + offsetof(struct iphdr, check), 0, q->diff, 0) ||
	    bpf_skb_store_bytes(skb, inner, &to, sizeof(to), 0))
		return -1;
	if (other != old)
		return 0;
	if (bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), 0, q->diff, 0))
		return -1;
	return bpf_skb_store_bytes(skb, outer, &to, sizeof(to), 0);
}

/* The same for IPv6, whose headers have no sum while the message's covers the outer addresses too. */
static __always_inline int rewrite_quoted6(struct __sk_buff *skb, struct quoted *q, __u32 ip, struct addr *new, bool source)
{
	__u32 inner = ip + (source ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr));
	__u32 outer = ETH_HLEN + (source ? offsetof(struct ipv6hdr, daddr) : offsetof(struct ipv6hdr, saddr));
	struct addr old, other;

	if (bpf_skb_load_bytes(skb, inner, &old, sizeof(old)) || bpf_skb_load_bytes(skb, outer, &other, sizeof(other)))
		return -1;
	q->l4 = ip + sizeof(struct ipv6hdr);
	q->diff = bpf_csum_diff(old.w, sizeof(old), new->w, sizeof(*new), 0);
	if (bpf_l4_csum_replace(skb, q->check, 0, q->diff, 0) || bpf_skb_store_bytes(skb, inner, new, sizeof(*new), 0))
		return -1;
	if (!addr_equal(&other, &old))
		return 0;
	if (bpf_l4_csum_replace(skb, q->check, 0, q->diff, BPF_F_PSEUDO_HDR))
		return -1;
	return bpf_skb_store_bytes(skb, outer, new, sizeof(*new), 0);
}

/*
 * Translates an ICMP error, RFC 5508 section 4.2: the quoted packet becomes the one that its sender knows, and so does the address that
 * the message itself has from it. A router between the two ends keeps its own. An error goes against what it quotes: to
 * replace its source is to replace the quoted destination.
 */
__noinline int skep_rewrite_quoted(struct __sk_buff *skb, __u64 hi, __u64 lo, __u32 port, __u32 how)
{
	__u32 icmp = how & REWRITE_L4_MASK, ip = icmp + sizeof(struct icmp_head);
	struct quoted q = { .check = icmp + offsetof(struct icmp_head, csum) };
	bool source = !(how & REWRITE_SOURCE);
	__u32 proto = how >> 16 & 0xff;
	struct addr new;

	addr_set(&new, hi, lo);
	if (how & REWRITE_IP4 ? rewrite_quoted4(skb, &q, ip, &new, source) : rewrite_quoted6(skb, &q, ip, &new, source))
		return -1;
	return rewrite_quoted_ports(skb, &q, proto, port, source);
}

static __always_inline int rewrite(struct __sk_buff *skb, const struct addr *addr, __be16 port, __u32 how)
{
	if (how & REWRITE_QUOTED)
		return skep_rewrite_quoted(skb, addr_hi(addr), addr_lo(addr), port, how);
	return skep_rewrite(skb, addr_hi(addr), addr_lo(addr), port, how);
}

static __always_inline __u32 rewrite_of(const struct packet *p)
{
	return p->l4 | REWRITE_PROTO(p->proto) | (p->ethertype == bpf_htons(ETH_P_IP) ? REWRITE_IP4 : 0) |
	       (p->flags & PACKET_LATER_FRAGMENT ? REWRITE_NO_PORTS : 0) | (p->flags & PACKET_ICMP_ERROR ? REWRITE_QUOTED : 0);
}

static __always_inline int rewrite_dst(struct __sk_buff *skb, const struct packet *p)
{
	return rewrite(skb, &p->dst, p->dport, rewrite_of(p));
}

static __always_inline int rewrite_src(struct __sk_buff *skb, const struct packet *p, const struct addr *addr,
				       __be16 port)
{
	return rewrite(skb, addr, port, rewrite_of(p) | REWRITE_SOURCE);
}

#endif
