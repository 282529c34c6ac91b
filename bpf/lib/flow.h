/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What happens to a packet of a flow: judged when it opens one, judged again when the policy has changed since, otherwise
 * passed. A flow is always judged by its initiator's tuple, by each check that this node owes: the initiator's egress
 * when the initiator is a pod of this node, the responder's ingress when the responder is.
 */
#ifndef SKEP_LIB_FLOW_H
#define SKEP_LIB_FLOW_H

#include "ct.h"
#include "metrics.h"
#include "policy.h"

static __always_inline __u32 policy_generation(void)
{
	__u32 zero = 0;
	struct state *state = bpf_map_lookup_elem(&skep_state, &zero);

	return state ? *(volatile __u32 *)&state->generation : 0;
}

static __always_inline __u32 policy_flips(void)
{
	__u32 zero = 0;
	struct state *state = bpf_map_lookup_elem(&skep_state, &zero);

	return state ? *(volatile __u32 *)&state->flips : FLIPS_UNKNOWN;
}

/* The pod of this node that has an address; NULL for everybody else. *missing says that there is one, but no endpoint. */
static __always_inline struct endpoint *endpoint_of(const struct address *known, bool *missing)
{
	struct endpoint *ep;
	__u32 ifindex;

	if (!known || !known->ifindex)
		return NULL;
	ifindex = known->ifindex;
	ep = bpf_map_lookup_elem(&skep_endpoint, &ifindex);
	*missing |= !ep;
	return ep;
}

/* What policy judges a packet's ports by: the protocol and a port of the responder's. */
static __always_inline __u32 service_of(const struct packet *p, __be16 port)
{
	return (__u32)p->proto << 16 | bpf_ntohs(port);
}

/* What judging a connection gave. */
struct judgement {
	__u32 generation; /* read before the look-ups: a policy that changes meanwhile judges the flow again */
	__u32 egress_rule;
	__u32 ingress_rule;
};

/*
 * The class of an initiator, after the responder was looked up. A new set must not meet an old class. What the initiator's endpoint
 * says was read before the responder's set, so it holds only when no policy has begun to take over since before that.
 */
static __always_inline __u32 initiator_class(const struct endpoint *from, const struct addr *addr, __u32 flips)
{
	if (from && !(flips & 1) && flips == policy_flips()) {
		if (addr_is4(addr)) {
			if (from->flags & ENDPOINT_CLASS4)
				return from->class4;
		} else if (from->flags & ENDPOINT_CLASS6) {
			return from->class6;
		}
	}
	return class_of(address_of(addr), addr);
}

/* Judges a connection by each check that is owed (without endpoint none is): the first denial, egress before ingress. known is the
 * responder's entry if it was looked up after from, flips are those from before from was, len that of the packet that gave cause. */
static __always_inline verdict judge(const struct addr *initiator, const struct endpoint *from, __u32 flips,
				     const struct addr *responder, const struct address *known,
				     const struct endpoint *to, __u32 service, __u32 len, struct judgement *j)
{
	verdict v = verdict_of(SKEP_REASON_NONE, 0);

	j->generation = policy_generation();
	j->egress_rule = 0;
	j->ingress_rule = 0;
	barrier();
	if (from) {
		v = judge_pod(from, SKEP_EGRESS, class_of(known ? known : address_of(responder), responder), service,
			      len);
		j->egress_rule = verdict_rule(v);
		if (verdict_reason(v))
			return v;
	}
	if (to) {
		v = judge_pod(to, SKEP_INGRESS, initiator_class(from, initiator, flips), service, len);
		j->ingress_rule = verdict_rule(v);
	}
	return v;
}

/* Judges a known flow again. The entry of a flow that is now forbidden stays, marked: without it the responder's packets
 * would be taken for a connection of its own. */
static __always_inline verdict judge_again(struct ct_entry *entry, const struct packet *p, bool forward)
{
	struct endpoint *src = NULL, *dst = NULL;
	bool missing = false;
	struct judgement j;
	verdict v;

	if (!(entry->flags & CT_FROM_NODE)) {
		src = endpoint_of(address_of(&p->src), &missing);
		dst = endpoint_of(address_of(&p->dst), &missing);
		if (missing)
			return verdict_of(SKEP_REASON_NO_ENDPOINT, 0);
	}
	if (forward)
		v = judge(&p->src, src, FLIPS_UNKNOWN, &p->dst, NULL, dst, service_of(p, p->dport), p->len, &j);
	else
		v = judge(&p->dst, dst, FLIPS_UNKNOWN, &p->src, NULL, src, service_of(p, p->sport), p->len, &j);
	entry->egress_rule = j.egress_rule;
	entry->ingress_rule = j.ingress_rule;
	if (verdict_reason(v))
		entry->flags |= CT_DENIED;
	else
		entry->flags &= ~CT_DENIED;
	entry->generation = j.generation;
	return v;
}

/* A packet whose flow is known. */
static __always_inline verdict flow_known(struct ct_entry *entry, const struct packet *p, bool forward)
{
	if (entry->generation != policy_generation()) {
		verdict v = judge_again(entry, p, forward);

		if (verdict_reason(v) == SKEP_REASON_POLICY_EGRESS || verdict_reason(v) == SKEP_REASON_POLICY_INGRESS)
			return verdict_of(SKEP_REASON_ESTABLISHED_DENIED, verdict_rule(v));
		if (verdict_reason(v))
			return v;
	} else if (entry->flags & CT_DENIED) {
		return verdict_of(SKEP_REASON_ESTABLISHED_DENIED,
				  entry->ingress_rule ? entry->ingress_rule : entry->egress_rule);
	}
	/* An error message reports on the flow; it is not one of its packets. */
	if (!(p->flags & PACKET_ICMP_ERROR))
		ct_touch(entry, p, forward, clock_ns());
	return verdict_of(SKEP_REASON_NONE, forward ? entry->egress_rule : entry->ingress_rule);
}

/* Whether a known flow explains the packet. A packet that opens something is never explained as a reply, nor by a flow that
 * has ended. */
static __always_inline bool flow_explains(const struct ct_entry *entry, const struct packet *p, bool forward)
{
	if (!(p->flags & PACKET_OPENS))
		return true;
	return forward && !ct_closed(entry);
}

/*
 * A packet without a flow: judged as its own direction, entered when allowed. known is the entry of the destination's address if
 * it was looked up after src, flags are the flow's, nat the Service address when CT_SERVICE is among them.
 */
static __always_inline verdict flow_new(struct ct_key *key, const struct packet *p, const struct endpoint *src,
					const struct address *known, const struct endpoint *dst, __u8 flags,
					const struct addr *nat, __be16 nat_port)
{
	bool midflow = p->flags & PACKET_TCP && !(p->flags & PACKET_OPENS);
	struct ct_entry *entry;
	struct judgement j;
	verdict v;

	if (p->flags & (PACKET_ONLY_REPLY | PACKET_ICMP_ERROR))
		return verdict_of(SKEP_REASON_ICMP_NO_FLOW, 0);
	v = judge(&p->src, src, p->flips, &p->dst, known, dst, service_of(p, p->dport), p->len, &j);
	if (midflow && (verdict_reason(v) == SKEP_REASON_POLICY_EGRESS ||
			verdict_reason(v) == SKEP_REASON_POLICY_INGRESS))
		return verdict_of(SKEP_REASON_MIDFLOW_DENIED, verdict_rule(v));
	if (verdict_reason(v))
		return v;
	entry = ct_scratch();
	if (!entry)
		return verdict_of(SKEP_REASON_ERROR_MAP, 0);
	entry->created = entry->last_seen = clock_ns();
	entry->packets[0] = 1;
	entry->bytes[0] = p->len;
	entry->flags = flags | (midflow ? CT_MIDFLOW : 0);
	entry->tcp = ct_tcp_state(0, p, true);
	entry->generation = j.generation;
	entry->egress_rule = j.egress_rule;
	entry->ingress_rule = j.ingress_rule;
	if (flags & CT_SERVICE) {
		entry->nat = *nat;
		entry->nat_port = nat_port;
	}
	if (ct_insert(key, entry))
		return verdict_of(SKEP_REASON_CT_FULL, 0);
	return v;
}

#endif
