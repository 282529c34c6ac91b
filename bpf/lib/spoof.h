/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Who may claim to be whom: checked before anything else looks at a packet from a pod. */
#ifndef SKEP_LIB_SPOOF_H
#define SKEP_LIB_SPOOF_H

#include "packet.h"

/* ARP for IPv4 over Ethernet, RFC 826. */
struct arp4 {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_len;
	__u8 protocol_len;
	__be16 op;
	__u8 sender_mac[SKEP_MAC_LEN];
	__u8 sender[4];
	__u8 target_mac[SKEP_MAC_LEN];
	__u8 target[4];
};

enum {
	DHCP_SERVER = 67,
	DHCP_CLIENT = 68,
	DHCP6_SERVER = 547,
	DHCP6_CLIENT = 546,
	GATEWAY6_LO = 1, /* the gateway is fe80::1 */
};

/* A pod speaks ARP for its own address, or for none (a probe, RFC 5227). */
static __always_inline enum reason spoof_arp(struct __sk_buff *skb, const struct endpoint *ep)
{
	struct arp4 arp;
	__u32 sender;
	int i;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &arp, sizeof(arp)))
		return SKEP_REASON_MALFORMED;
	__builtin_memcpy(&sender, arp.sender, sizeof(sender));
	if (sender && (sender != ep->addr4.w[3] || addr_is_zero(&ep->addr4)))
		return SKEP_REASON_SPOOFED_ARP;
#pragma clang loop unroll(full)
	for (i = 0; i < SKEP_MAC_LEN; i++)
		if (arp.sender_mac[i] != ep->mac[i])
			return SKEP_REASON_SPOOFED_ARP;
	return SKEP_REASON_NONE;
}

static __always_inline bool is_gateway6(const struct addr *a)
{
	return a->w[0] == bpf_htonl(0xfe800000) && a->w[1] == 0 && a->w[2] == 0 && a->w[3] == bpf_htonl(GATEWAY6_LO);
}

/* Neighbour discovery and MLD may come from the pod's address, its link-local one, or none; RFC 4861, 3810. They stay on the link:
 * policy does not judge them, so one that could be routed would be a way around it. */
static __always_inline enum reason spoof_nd(struct __sk_buff *skb, const struct packet *p,
					    const struct endpoint *ep)
{
	struct addr target;

	if (p->icmp_type == ICMP6_ROUTER_ADVERT || p->icmp_type == ICMP6_REDIRECT)
		return SKEP_REASON_ROUTER_MESSAGE;
	if (!addr_is_link_local6(&p->dst) && !addr_is_multicast6(&p->dst))
		return SKEP_REASON_SPOOFED_ND;
	if (!addr_equal(&p->src, &ep->addr6) && !addr_is_zero(&p->src) &&
	    (!addr_is_link_local6(&p->src) || is_gateway6(&p->src)))
		return SKEP_REASON_SPOOFED_ND;
	if (p->icmp_type != ICMP6_NEIGHBOUR_ADVERT)
		return SKEP_REASON_NONE;
	if (bpf_skb_load_bytes(skb, p->l4 + sizeof(struct icmp_head), &target, sizeof(target)))
		return SKEP_REASON_MALFORMED;
	if (addr_equal(&target, &ep->addr6) || (addr_is_link_local6(&target) && !is_gateway6(&target)))
		return SKEP_REASON_NONE;
	return SKEP_REASON_SPOOFED_ND;
}

static __always_inline bool is_dhcp_server(const struct packet *p)
{
	if (p->proto != IPPROTO_UDP)
		return false;
	return (p->sport == bpf_htons(DHCP_SERVER) && p->dport == bpf_htons(DHCP_CLIENT)) ||
	       (p->sport == bpf_htons(DHCP6_SERVER) && p->dport == bpf_htons(DHCP6_CLIENT));
}

#endif
