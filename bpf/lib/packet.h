/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* From bytes to a packet's tuple. Nothing here knows a policy; the only map is that of fragments. */
#ifndef SKEP_LIB_PACKET_H
#define SKEP_LIB_PACKET_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "addr.h"
#include "skep/maps.h"

enum {
	FLIPS_UNKNOWN = 1, /* in struct packet, in place of the state's */
};

enum packet_flag {
	PACKET_OPENS = 1, /* TCP SYN without ACK, or an echo request: never a reply */
	PACKET_ONLY_REPLY = 2, /* echo reply: never opens anything */
	PACKET_ICMP_ERROR = 4, /* the tuple is that of the flow it reports on, turned round */
	PACKET_NEIGHBOUR = 8, /* ND or MLD */
	PACKET_LATER_FRAGMENT = 16, /* has no transport header */
	PACKET_TCP = 32, /* tcp_flags is valid */
	/* dst and dport are a backend's by now. These two are noted here because the verifier follows every combination of what it can tell
	 * apart on the stack. */
	PACKET_TRANSLATED = 64,
	PACKET_BALANCED = 128, /* by a choice of this moment: not in the index yet */
};

/* The part of an ICMP or ICMPv6 header that both share. */
struct icmp_head {
	__u8 type;
	__u8 code;
	__be16 csum;
	__be16 id;
	__be16 sequence;
};

struct ports {
	__be16 source;
	__be16 dest;
};

/* A datagram's header, and the part of TCP's up to its flags. */
struct ports_head {
	struct ports ports;
	__be32 zero;
};

struct tcp_head {
	struct ports ports;
	__be32 sequence;
	__be32 acknowledged;
	__u8 offset;
	__u8 flags;
	__be16 window;
};

enum {
	ICMP4_ECHO_REPLY = 0,
	ICMP4_UNREACHABLE = 3,
	ICMP4_ECHO = 8,
	ICMP4_TIME_EXCEEDED = 11,
	ICMP4_PARAMETER = 12,
	ICMP6_UNREACHABLE = 1,
	ICMP6_PARAMETER = 4,
	ICMP6_ECHO = 128,
	ICMP6_ECHO_REPLY = 129,
	ICMP6_MLD_QUERY = 130,
	ICMP6_MLD_DONE = 132,
	ICMP6_ROUTER_SOLICIT = 133,
	ICMP6_ROUTER_ADVERT = 134,
	ICMP6_NEIGHBOUR_SOLICIT = 135,
	ICMP6_NEIGHBOUR_ADVERT = 136,
	ICMP6_REDIRECT = 137,
	ICMP6_MLD2_REPORT = 143,
};

enum {
	IP4_MORE_FRAGMENTS = 0x2000,
	IP4_OFFSET_MASK = 0x1fff,
	IP6_MORE_FRAGMENTS = 0x0001,
	IP6_OFFSET_MASK = 0xfff8,
	/* Headers between IPv6 and transport that we look through (RFC 8200 section 4.1 recommends at most one of each). */
	IP6_MAX_EXTENSIONS = 6,
	/* Headers that start further back are not read directly: the verifier wants a bound. */
	LINEAR_MAX = 256,
	TCP_FIN = 0x01,
	TCP_SYN = 0x02,
	TCP_RST = 0x04,
	TCP_ACK = 0x10,
};

/*
 * Copies a header from the packet; 0, or not 0 when the packet is too short. Headers usually lie in its linear part, where they are read
 * at a tenth of the helper's cost; the helper copes with the rest (GSO, fragments). A macro, for the type's alignment: by void
 * pointers clang would copy single bytes.
 */
#define load_header(skb, off, to)                                                                    \
	({                                                                                           \
		void *data = (void *)(long)(skb)->data, *end = (void *)(long)(skb)->data_end;        \
		__u64 at = (off);                                                                    \
		long failed = 0;                                                                     \
                                                                                                     \
		if (at < LINEAR_MAX && data + at + sizeof(*(to)) <= end)                             \
			*(to) = *(typeof(to))(data + at);                                            \
		else                                                                                 \
			failed = bpf_skb_load_bytes(skb, at, to, sizeof(*(to)));                     \
		failed;                                                                              \
	})

static __always_inline void ports_of_echo(struct packet *p, __be16 id, bool request)
{
	p->sport = request ? id : 0;
	p->dport = request ? 0 : id;
}

/* Protocols whose first four bytes are source and destination port. */
static __always_inline bool has_ports(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_SCTP ||
	       proto == IPPROTO_UDPLITE || proto == IPPROTO_DCCP;
}

/* The flow that an ICMP error reports on: the tuple of the quoted header, turned round. It goes to the sender of what it quotes and
 * to nobody else (RFC 792, RFC 4443 section 2.4), or a pod with one open flow could send anything to everybody. */
static __always_inline enum reason parse_quoted(struct __sk_buff *skb, struct packet *p, __u32 off)
{
	struct ports quoted_ports = {};
	__u8 proto;
	__u32 l4;

	if (p->ethertype == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, off, &ip, sizeof(ip)))
			return SKEP_REASON_MALFORMED;
		if (ip.version != 4 || ip.ihl < 5 || ip.frag_off & bpf_htons(IP4_OFFSET_MASK))
			return SKEP_REASON_ICMP_NO_FLOW;
		if (p->dst.w[3] != ip.saddr)
			return SKEP_REASON_ICMP_NO_FLOW;
		addr_set4(&p->src, ip.daddr);
		proto = ip.protocol;
		l4 = off + ip.ihl * 4;
	} else {
		struct ipv6hdr ip6;

		if (bpf_skb_load_bytes(skb, off, &ip6, sizeof(ip6)))
			return SKEP_REASON_MALFORMED;
		if (__builtin_memcmp(&p->dst, &ip6.saddr, sizeof(p->dst)))
			return SKEP_REASON_ICMP_NO_FLOW;
		__builtin_memcpy(&p->src, &ip6.daddr, sizeof(p->src));
		proto = ip6.nexthdr;
		l4 = off + sizeof(ip6);
	}
	if (has_ports(proto)) {
		if (bpf_skb_load_bytes(skb, l4, &quoted_ports, sizeof(quoted_ports)))
			return SKEP_REASON_MALFORMED;
		p->sport = quoted_ports.dest;
		p->dport = quoted_ports.source;
	} else if (proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6) {
		struct icmp_head head;

		if (bpf_skb_load_bytes(skb, l4, &head, sizeof(head)))
			return SKEP_REASON_MALFORMED;
		if (head.type == ICMP4_ECHO || head.type == ICMP6_ECHO)
			p->dport = head.id;
		else
			p->sport = head.id;
	}
	p->proto = proto;
	p->flags |= PACKET_ICMP_ERROR;
	return SKEP_REASON_NONE;
}

static __always_inline enum reason parse_icmp4(struct __sk_buff *skb, struct packet *p, __u32 l4)
{
	struct icmp_head head;

	if (bpf_skb_load_bytes(skb, l4, &head, sizeof(head)))
		return SKEP_REASON_MALFORMED;
	p->icmp_type = head.type;
	switch (head.type) {
	case ICMP4_ECHO:
		p->flags |= PACKET_OPENS;
		ports_of_echo(p, head.id, true);
		return SKEP_REASON_NONE;
	case ICMP4_ECHO_REPLY:
		p->flags |= PACKET_ONLY_REPLY;
		ports_of_echo(p, head.id, false);
		return SKEP_REASON_NONE;
	case ICMP4_UNREACHABLE:
	case ICMP4_TIME_EXCEEDED:
	case ICMP4_PARAMETER:
		return parse_quoted(skb, p, l4 + sizeof(head));
	}
	return SKEP_REASON_NONE;
}

static __always_inline enum reason parse_icmp6(struct __sk_buff *skb, struct packet *p, __u32 l4)
{
	struct icmp_head head = {};

	if (bpf_skb_load_bytes(skb, l4, &head, sizeof(head)))
		return SKEP_REASON_MALFORMED;
	p->icmp_type = head.type;
	if (head.type >= ICMP6_UNREACHABLE && head.type <= ICMP6_PARAMETER)
		return parse_quoted(skb, p, l4 + sizeof(head));
	if ((head.type >= ICMP6_MLD_QUERY && head.type <= ICMP6_REDIRECT) ||
	    head.type == ICMP6_MLD2_REPORT)
		p->flags |= PACKET_NEIGHBOUR;
	if (head.type == ICMP6_ECHO) {
		p->flags |= PACKET_OPENS;
		ports_of_echo(p, head.id, true);
	} else if (head.type == ICMP6_ECHO_REPLY) {
		p->flags |= PACKET_ONLY_REPLY;
		ports_of_echo(p, head.id, false);
	}
	return SKEP_REASON_NONE;
}

static __always_inline enum reason parse_l4(struct __sk_buff *skb, struct packet *p, __u32 l4)
{
	if (p->proto == IPPROTO_TCP) {
		struct tcp_head head;

		if (load_header(skb, l4, &head))
			return SKEP_REASON_MALFORMED;
		p->tcp_flags = head.flags;
		p->flags |= PACKET_TCP;
		if ((p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
			p->flags |= PACKET_OPENS;
		p->sport = head.ports.source;
		p->dport = head.ports.dest;
		return SKEP_REASON_NONE;
	}
	if (has_ports(p->proto)) {
		struct ports_head head;

		if (load_header(skb, l4, &head))
			return SKEP_REASON_MALFORMED;
		p->sport = head.ports.source;
		p->dport = head.ports.dest;
		return SKEP_REASON_NONE;
	}
	if (p->proto == IPPROTO_ICMP && p->ethertype == bpf_htons(ETH_P_IP))
		return parse_icmp4(skb, p, l4);
	if (p->proto == IPPROTO_ICMPV6 && p->ethertype == bpf_htons(ETH_P_IPV6))
		return parse_icmp6(skb, p, l4);
	return SKEP_REASON_NONE;
}

enum packet_fragment {
	FRAGMENT_NONE = 0,
	FRAGMENT_FIRST = 1, /* leaves its ports for the others */
	FRAGMENT_LATER = 2, /* has no transport header */
};

static __always_inline enum reason parse_transport(struct __sk_buff *skb, struct packet *p)
{
	struct frag_key key = { .id = p->fragment_id, .proto = p->proto };
	struct frag_ports ports, *known;
	enum reason reason;

	key.src = p->src;
	key.dst = p->dst;
	if (p->fragment == FRAGMENT_LATER) {
		p->flags |= PACKET_LATER_FRAGMENT;
		known = bpf_map_lookup_elem(&skep_frag, &key);
		if (!known)
			return SKEP_REASON_FRAGMENT_UNKNOWN;
		p->sport = known->sport;
		p->dport = known->dport;
		return SKEP_REASON_NONE;
	}
	reason = parse_l4(skb, p, p->l4);
	if (reason || p->fragment == FRAGMENT_NONE)
		return reason;
	ports.sport = p->sport;
	ports.dport = p->dport;
	bpf_map_update_elem(&skep_frag, &key, &ports, BPF_ANY);
	return SKEP_REASON_NONE;
}

static __always_inline enum reason parse_ip4(struct __sk_buff *skb, struct packet *p)
{
	struct iphdr ip;
	__u16 frag;

	if (load_header(skb, ETH_HLEN, &ip))
		return SKEP_REASON_MALFORMED;
	if (ip.version != 4 || ip.ihl < 5 || bpf_ntohs(ip.tot_len) < ip.ihl * 4 ||
	    bpf_ntohs(ip.tot_len) + ETH_HLEN > p->len)
		return SKEP_REASON_MALFORMED;
	addr_set4(&p->src, ip.saddr);
	addr_set4(&p->dst, ip.daddr);
	p->proto = ip.protocol;
	p->l4 = ETH_HLEN + ip.ihl * 4;
	frag = bpf_ntohs(ip.frag_off);
	p->fragment_id = ip.id;
	if (frag & IP4_OFFSET_MASK)
		p->fragment = FRAGMENT_LATER;
	else if (frag & IP4_MORE_FRAGMENTS)
		p->fragment = FRAGMENT_FIRST;
	return SKEP_REASON_NONE;
}

struct ext6 {
	__u8 next;
	__u8 len; /* in 8 bytes, the first 8 not counted; reserved in fragment headers */
	__be16 frag;
	__be32 id;
};

static __always_inline bool is_extension6(__u8 proto)
{
	return proto == IPPROTO_HOPOPTS || proto == IPPROTO_ROUTING || proto == IPPROTO_DSTOPTS ||
	       proto == IPPROTO_FRAGMENT;
}

static __always_inline void parse_fragment6(struct packet *p, const struct ext6 *ext)
{
	__u16 frag = bpf_ntohs(ext->frag);

	p->fragment_id = ext->id;
	if (frag & IP6_OFFSET_MASK)
		p->fragment = FRAGMENT_LATER;
	else if (frag & IP6_MORE_FRAGMENTS)
		p->fragment = FRAGMENT_FIRST;
}

static __always_inline enum reason parse_ip6(struct __sk_buff *skb, struct packet *p)
{
	struct ipv6hdr ip;
	int i;

	if (load_header(skb, ETH_HLEN, &ip))
		return SKEP_REASON_MALFORMED;
	if (ip.version != 6 || bpf_ntohs(ip.payload_len) + sizeof(ip) + ETH_HLEN > p->len)
		return SKEP_REASON_MALFORMED;
	__builtin_memcpy(&p->src, &ip.saddr, sizeof(p->src));
	__builtin_memcpy(&p->dst, &ip.daddr, sizeof(p->dst));
	if (addr_is4(&p->src) || addr_is4(&p->dst))
		return SKEP_REASON_V4_MAPPED;
	p->proto = ip.nexthdr;
	p->l4 = ETH_HLEN + sizeof(ip);
#pragma clang loop unroll(disable)
	for (i = 0; i < IP6_MAX_EXTENSIONS; i++) {
		struct ext6 ext;
		__u32 len;

		/* Behind a later fragment's header is data, not headers. */
		if (!is_extension6(p->proto) || p->fragment == FRAGMENT_LATER)
			return SKEP_REASON_NONE;
		if (bpf_skb_load_bytes(skb, p->l4, &ext, sizeof(ext)))
			return SKEP_REASON_MALFORMED;
		len = ((__u32)ext.len + 1) * 8;
		if (p->proto == IPPROTO_FRAGMENT) {
			parse_fragment6(p, &ext);
			len = sizeof(ext);
		}
		p->l4 += len;
		p->proto = ext.next;
	}
	return is_extension6(p->proto) ? SKEP_REASON_EXTENSION_HEADERS : SKEP_REASON_NONE;
}

/* This CPU's packet: programs parse into it and go on with it, so that it takes no stack. */
static __always_inline struct packet *packet_scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&skep_packet, &zero);
}

/*
 * Fills packet_scratch() from an IPv4 or IPv6 frame and returns an enum reason.
 *
 * A global function, with the result in a map: whatever path the parser took, what follows is verified once. In one piece
 * the 5.10 verifier needs 421,000 instructions.
 */
__noinline int skep_parse(struct __sk_buff *skb)
{
	struct packet *p = packet_scratch();
	enum reason reason;

	if (!p)
		return SKEP_REASON_ERROR_MAP;
	__builtin_memset(p, 0, sizeof(*p));
	p->flips = FLIPS_UNKNOWN;
	p->len = skb->len;
	p->ethertype = skb->protocol;
	if (skb->vlan_present)
		return SKEP_REASON_L2_PROTOCOL;
	if (p->ethertype == bpf_htons(ETH_P_IP))
		reason = parse_ip4(skb, p);
	else if (p->ethertype == bpf_htons(ETH_P_IPV6))
		reason = parse_ip6(skb, p);
	else
		reason = SKEP_REASON_L2_PROTOCOL;
	return reason ?: parse_transport(skb, p);
}

#endif
