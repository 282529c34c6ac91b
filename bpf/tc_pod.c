// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * The two programs of a pod's host-side device.
 *
 *   skep_tc_pod_from  tc ingress: everything the pod sends
 *   skep_tc_pod_to    tc egress: what reaches the pod through the stack, that is from this node or from elsewhere
 *
 * Traffic between two pods of a node is judged for both ends by the first program and redirected straight into the other
 * pod; the second never sees it.
 */
#include "lib/flow.h"
#include "lib/index.h"
#include "lib/lb.h"
#include "lib/nat.h"
#include "lib/spoof.h"

/* The Service that a packet addressed before it was translated. */
struct translation {
	struct addr service;
	__be16 port;
};

/* Turns the packet's tuple towards the backend, remembering the Service. */
static __always_inline void translate(struct packet *p, struct translation *t, const struct addr *addr, __be16 port)
{
	t->service = p->dst;
	t->port = p->dport;
	p->flags |= PACKET_TRANSLATED;
	p->dst = *addr;
	p->dport = port;
}

/* The backend of a connection that the index does not know. Only a packet that opens one, or has no state, may choose. */
static __always_inline enum reason backend_of(const struct packet *p, const struct service *service, struct backend *to)
{
	struct backend_key slot = { .backends = service->backends };
	struct backend *backend;

	if (!service->count)
		return SKEP_REASON_NO_BACKEND;
	if (!(p->flags & PACKET_TCP) || p->flags & PACKET_OPENS)
		return lb_choose(service, &p->src, bpf_get_prandom_u32(), to) ? SKEP_REASON_NONE : SKEP_REASON_NO_BACKEND;
	slot.slot = find_backend(slot.backends);
	backend = slot.slot < INDEX_SEARCH ? bpf_map_lookup_elem(&skep_backend, &slot) : NULL;
	if (!backend)
		return SKEP_REASON_SERVICE_MIDFLOW;
	*to = *backend;
	return SKEP_REASON_NONE;
}

/* A packet to an address that no flow knows: to a Service perhaps. */
static __always_inline enum reason balance(struct packet *p, struct translation *t)
{
	struct service service;
	struct backend to;
	enum reason reason;

	if (!lb_may_be_service(&p->dst) || p->flags & (PACKET_ICMP_ERROR | PACKET_LATER_FRAGMENT))
		return SKEP_REASON_NONE;
	if (!lb_service(&p->dst, p->dport, p->proto, &service))
		return SKEP_REASON_NONE;
	reason = backend_of(p, &service, &to);
	if (reason)
		return reason;
	if (p->proto == IPPROTO_SCTP && to.port != p->dport)
		return SKEP_REASON_SCTP_PORT;
	translate(p, t, &to.addr, to.port);
	p->flags |= PACKET_BALANCED;
	return SKEP_REASON_NONE;
}

/*
 * Finds the flow of a packet from a pod, translating towards a backend on the way. On return p and key are those after
 * translation and *found is the entry, if any.
 */
static __always_inline enum reason find_flow(struct packet *p, struct ct_key *key, bool *src_is_a, struct ct_entry **found,
					     struct translation *t)
{
	struct ct_entry *entry;
	enum reason reason;

	*src_is_a = ct_key_of(key, &p->src, &p->dst, p->sport, p->dport, p->proto);
	entry = ct_lookup(key);
	if (entry && !(entry->flags & CT_INDEX)) {
		*found = entry;
		return SKEP_REASON_NONE;
	}
	if (entry) {
		entry->last_seen = clock_ns();
		translate(p, t, &entry->nat, entry->nat_port);
		*src_is_a = ct_key_of(key, &p->src, &p->dst, p->sport, p->dport, p->proto);
		*found = ct_lookup(key);
		/* A new connection from a port used before chooses afresh, datagrams whose flow is gone too: the old backend may be. */
		if (*found ? !(p->flags & PACKET_OPENS) || !ct_closed(*found) :
			     (p->flags & (PACKET_TCP | PACKET_OPENS)) == PACKET_TCP)
			return SKEP_REASON_NONE;
		p->dst = t->service;
		p->dport = t->port;
		p->flags &= ~PACKET_TRANSLATED;
		*src_is_a = ct_key_of(key, &p->src, &p->dst, p->sport, p->dport, p->proto);
	}
	*found = NULL;
	reason = balance(p, t);
	if (reason || !(p->flags & PACKET_TRANSLATED))
		return reason;
	*src_is_a = ct_key_of(key, &p->src, &p->dst, p->sport, p->dport, p->proto);
	*found = ct_lookup(key);
	return SKEP_REASON_NONE;
}

/* A flow under a translation and one without it cannot share a tuple: replies could not be told apart. */
static __always_inline bool tuple_conflict(const struct ct_entry *entry, const struct packet *p, const struct translation *t, bool forward)
{
	bool translated = p->flags & PACKET_TRANSLATED;

	if (!forward || !(entry->flags & CT_SERVICE))
		return translated;
	return !translated || !addr_equal(&entry->nat, &t->service) || entry->nat_port != t->port;
}

/* Gives a reply, or an error about what was sent, the address that the initiator knows. */
static __always_inline enum reason answer_as_service(struct __sk_buff *skb, const struct packet *p, const struct ct_entry *entry)
{
	if (rewrite_src(skb, p, &entry->nat, entry->nat_port))
		return SKEP_REASON_REWRITE;
	return skep_index(addr_hi(&entry->nat), addr_lo(&entry->nat), entry->nat_port, true) ? SKEP_REASON_CT_FULL : SKEP_REASON_NONE;
}

/* ifindex is that of to, as the packet was judged by it. */
static __always_inline int to_destination(struct __sk_buff *skb, const struct packet *p, const struct address *to, __u32 ifindex,
					  __u32 rule)
{
	void *data, *end;

	if (p->flags & PACKET_ICMP_ERROR) {
		/* p's tuple is the reported flow's; the frame's own destination is left to routing. */
		skb->mark |= SKEP_MARK_JUDGED;
		return finish(skb, SKEP_REASON_RELATED, rule);
	}
	if (!to || !ifindex)
		return finish(skb, SKEP_REASON_TO_STACK, rule);
	if (to->flags & ADDRESS_NO_REDIRECT) {
		skb->mark |= SKEP_MARK_JUDGED;
		return finish(skb, SKEP_REASON_TO_STACK, rule);
	}
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (data + ETH_HLEN <= end) {
		/* By words: as struct ethhdr, which has no alignment, clang would copy single bytes. */
		__u32 *eth = data;

		eth[0] = to->macs[0];
		eth[1] = to->macs[1];
		eth[2] = to->macs[2];
	}
	finish(skb, SKEP_REASON_TO_LOCAL, rule);
	return bpf_redirect_peer(ifindex, 0);
}

static __always_inline enum reason spoof_check(struct __sk_buff *skb, const struct packet *p, const struct addr *src,
					       const struct endpoint *ep)
{
	if (p->flags & PACKET_NEIGHBOUR)
		return spoof_nd(skb, p, ep);
	if (p->ethertype == bpf_htons(ETH_P_IP)) {
		if (!addr_equal(src, &ep->addr4))
			return SKEP_REASON_SPOOFED_IPV4;
	} else if (!addr_equal(src, &ep->addr6)) {
		return SKEP_REASON_SPOOFED_IPV6;
	}
	return is_dhcp_server(p) ? SKEP_REASON_DHCP_SERVER : SKEP_REASON_NONE;
}

/* The source in the frame's own header, whatever the packet reports on. */
static __always_inline enum reason frame_source(struct __sk_buff *skb, struct addr *src)
{
	__be32 v4;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, saddr), &v4, sizeof(v4)))
			return SKEP_REASON_MALFORMED;
		addr_set4(src, v4);
		return SKEP_REASON_NONE;
	}
	if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, saddr), src, sizeof(*src)))
		return SKEP_REASON_MALFORMED;
	return SKEP_REASON_NONE;
}

/* A packet that claims to be from a pod of this node but came in by another device than the pod's, which would have been checked: a second
 * uplink or a bridge of somebody else's. */
static __always_inline enum reason pod_by_another_way(struct __sk_buff *skb, const struct packet *p)
{
	struct addr src = p->src;
	__u32 ifindex;

	if (p->flags & PACKET_ICMP_ERROR && frame_source(skb, &src))
		return SKEP_REASON_MALFORMED;
	ifindex = ifindex_of(address_of(&src));
	if (!ifindex || ifindex == skb->ingress_ifindex)
		return SKEP_REASON_NONE;
	return p->ethertype == bpf_htons(ETH_P_IP) ? SKEP_REASON_SPOOFED_IPV4 : SKEP_REASON_SPOOFED_IPV6;
}

static __always_inline int from_pod(struct __sk_buff *skb, const struct endpoint *ep, struct packet *p)
{
	struct translation t = {};
	struct ct_entry *entry = NULL;
	bool src_is_a, forward, missing = false;
	struct endpoint *to;
	struct address *known;
	struct ct_key key;
	enum reason reason;
	__u32 ifindex;
	verdict v;

	reason = find_flow(p, &key, &src_is_a, &entry, &t);
	if (reason)
		return finish(skb, reason, 0);
	known = address_of(&p->dst);
	ifindex = ifindex_of(known);
	forward = entry && ct_from_initiator(entry, src_is_a);
	if (entry && flow_explains(entry, p, forward)) {
		if (!(p->flags & PACKET_ICMP_ERROR) && tuple_conflict(entry, p, &t, forward))
			return finish(skb, SKEP_REASON_SERVICE_TUPLE, 0);
		v = flow_known(entry, p, forward);
		if (verdict_reason(v))
			return finish(skb, verdict_reason(v), verdict_rule(v));
		if (!forward && entry->flags & CT_SERVICE) {
			reason = answer_as_service(skb, p, entry);
			if (reason)
				return finish(skb, reason, 0);
		}
	} else {
		to = endpoint_at(ifindex, &missing);
		if (missing)
			return finish(skb, SKEP_REASON_NO_ENDPOINT, 0);
		v = flow_new(&key, p, ep, known, to,
			     (src_is_a ? 0 : CT_FROM_B) | (p->flags & PACKET_TRANSLATED ? CT_SERVICE : 0), &t.service, t.port);
		if (verdict_reason(v))
			return finish(skb, verdict_reason(v), verdict_rule(v));
	}
	if (p->flags & PACKET_BALANCED && skep_index(addr_hi(&t.service), addr_lo(&t.service), t.port, false))
		return finish(skb, SKEP_REASON_CT_FULL, 0);
	if (p->flags & PACKET_TRANSLATED && rewrite_dst(skb, p))
		return finish(skb, SKEP_REASON_REWRITE, 0);
	return to_destination(skb, p, known, ifindex, verdict_rule(v));
}

static __always_inline int handle_from_pod(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex, flips = policy_flips();
	struct endpoint *ep = bpf_map_lookup_elem(&skep_endpoint, &ifindex);
	struct packet *p = packet_scratch();
	struct addr src;
	enum reason reason;

	skb->mark &= ~SKEP_MARK_JUDGED;
	if (!p)
		return finish(skb, SKEP_REASON_ERROR_MAP, 0);
	if (!ep)
		return finish(skb, SKEP_REASON_NO_ENDPOINT, 0);
	if (skb->protocol == bpf_htons(ETH_P_ARP) && !skb->vlan_present) {
		reason = spoof_arp(skb, ep);
		return finish(skb, reason ? reason : SKEP_REASON_NEIGHBOUR, 0);
	}
	reason = skep_parse(skb);
	if (reason == SKEP_REASON_MALFORMED || reason == SKEP_REASON_L2_PROTOCOL || reason == SKEP_REASON_V4_MAPPED)
		return finish(skb, reason, 0);
	if (p->flags & PACKET_ICMP_ERROR) {
		if (frame_source(skb, &src))
			return finish(skb, SKEP_REASON_MALFORMED, 0);
	} else {
		src = p->src;
	}
	reason = reason ?: spoof_check(skb, p, &src, ep);
	if (reason)
		return finish(skb, reason, 0);
	if (p->flags & PACKET_NEIGHBOUR)
		return finish(skb, SKEP_REASON_NEIGHBOUR, 0);
	/* A pod reports on its own flows only. */
	if (p->flags & PACKET_ICMP_ERROR && !addr_equal(&p->src, &src))
		return finish(skb, SKEP_REASON_ICMP_NO_FLOW, 0);
	if (!(ep->flags & ENDPOINT_POLICY))
		return finish(skb, SKEP_REASON_NO_POLICY, 0);
	p->flips = flips;
	return from_pod(skb, ep, p);
}

SEC("tc")
int skep_tc_pod_from(struct __sk_buff *skb)
{
	return handle_from_pod(skb);
}

static __always_inline int handle_to_pod(struct __sk_buff *skb, bool from_node)
{
	struct packet *p = packet_scratch();
	struct ct_entry *entry;
	bool src_is_a, forward;
	struct ct_key key;
	enum reason reason;
	verdict v;

	if (!p)
		return finish(skb, SKEP_REASON_ERROR_MAP, 0);
	if (skb->mark & SKEP_MARK_JUDGED) {
		skb->mark &= ~SKEP_MARK_JUDGED;
		return finish(skb, SKEP_REASON_ALREADY_JUDGED, 0);
	}
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return finish(skb, from_node ? SKEP_REASON_NEIGHBOUR : SKEP_REASON_L2_PROTOCOL, 0);
	reason = skep_parse(skb);
	if (p->flags & PACKET_NEIGHBOUR && from_node)
		return finish(skb, SKEP_REASON_NEIGHBOUR, 0);
	if (reason)
		return finish(skb, from_node ? SKEP_REASON_FROM_NODE : reason, 0);

	reason = from_node ? SKEP_REASON_NONE : pod_by_another_way(skb, p);
	if (reason)
		return finish(skb, reason, 0);
	src_is_a = ct_key_of(&key, &p->src, &p->dst, p->sport, p->dport, p->proto);
	entry = ct_lookup(&key);
	forward = entry && ct_from_initiator(entry, src_is_a);
	if (entry && !(entry->flags & CT_INDEX) && flow_explains(entry, p, forward)) {
		v = flow_known(entry, p, forward);
		if (verdict_reason(v) && !from_node)
			return finish(skb, verdict_reason(v), verdict_rule(v));
		if (!forward && entry->flags & CT_SERVICE) {
			reason = answer_as_service(skb, p, entry);
			if (reason)
				return finish(skb, reason, 0);
		}
		if (p->flags & PACKET_ICMP_ERROR)
			return finish(skb, SKEP_REASON_RELATED, verdict_rule(v));
	} else {
		__u32 ifindex = skb->ifindex;
		struct endpoint *ep = bpf_map_lookup_elem(&skep_endpoint, &ifindex);

		if (!ep && !from_node)
			return finish(skb, SKEP_REASON_NO_ENDPOINT, 0);
		/* A process of the node is exempt. The sender is no pod of this node: its packet would carry the mark. */
		v = flow_new(&key, p, NULL, NULL, from_node ? NULL : ep,
			     (src_is_a ? 0 : CT_FROM_B) | (from_node ? CT_FROM_NODE : 0), NULL, 0);
		if (verdict_reason(v) && !from_node)
			return finish(skb, verdict_reason(v), verdict_rule(v));
	}
	return finish(skb, from_node ? SKEP_REASON_FROM_NODE : SKEP_REASON_TO_POD, verdict_rule(v));
}

SEC("tc")
int skep_tc_pod_to(struct __sk_buff *skb)
{
	/* Nobody but this node's own stack sends packets that came in by no device. */
	return handle_to_pod(skb, skb->ingress_ifindex == 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
