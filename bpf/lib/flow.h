/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What happens to a packet of a flow: judged when it opens one, judged again when the policy has changed since, otherwise
 * passed. A flow is always judged by its initiator's tuple, by each check that this node owes: the initiator's egress
 * when the initiator is a pod of this node, the responder's ingress when the responder is.
 */
#ifndef SKEP_LIB_FLOW_H
#define SKEP_LIB_FLOW_H

#include "judge.h"
#include "metrics.h"

/* Judges a known flow again. The entry of a flow that is now forbidden stays, marked: without it the responder's packets
 * would be taken for a connection of its own. */
static __always_inline verdict judge_again(struct ct_entry *entry, const struct packet *p, bool forward)
{
	struct endpoint *src = NULL, *dst = NULL;
	struct ct_entry *now = ct_scratch();
	bool missing = false;
	verdict v;

	if (!now)
		return verdict_of(SKEP_REASON_ERROR_MAP, 0);
	if (!(entry->flags & CT_FROM_NODE)) {
		src = endpoint_of(address_of(&p->src), &missing);
		dst = endpoint_of(address_of(&p->dst), &missing);
		if (missing)
			return verdict_of(SKEP_REASON_NO_ENDPOINT, 0);
	}
	if (forward)
		v = judge(&p->src, src, FLIPS_UNKNOWN, &p->dst, NULL, dst, service_of(p, p->dport), entry, false, now);
	else
		v = judge(&p->dst, dst, FLIPS_UNKNOWN, &p->src, NULL, src, service_of(p, p->sport), entry, true, now);
	entry->sides[SKEP_INGRESS] = now->sides[SKEP_INGRESS];
	entry->sides[SKEP_EGRESS] = now->sides[SKEP_EGRESS];
	entry->flags = (entry->flags & ~CT_JUDGED) | now->flags | (verdict_reason(v) ? CT_DENIED : 0);
	entry->generation = now->generation;
	return v;
}

/* A packet whose flow is known. */
static __always_inline verdict flow_known(struct ct_entry *entry, const struct packet *p, bool forward)
{
	/* An error message reports on the flow; it is not one of its packets. */
	bool counts = !(p->flags & PACKET_ICMP_ERROR);

	if (entry->generation != policy_generation()) {
		verdict v = judge_again(entry, p, forward);

		if (verdict_reason(v) && verdict_reason(v) != SKEP_REASON_POLICY_EGRESS &&
		    verdict_reason(v) != SKEP_REASON_POLICY_INGRESS)
			return v;
	}
	if (counts)
		count_sides(entry->sides, p->len);
	if (entry->flags & CT_DENIED)
		return verdict_of(SKEP_REASON_ESTABLISHED_DENIED, entry->sides[SKEP_INGRESS].rule ?: entry->sides[SKEP_EGRESS].rule);
	if (counts)
		ct_touch(entry, p, forward, clock_ns());
	return verdict_of(SKEP_REASON_NONE, entry->sides[forward ? SKEP_EGRESS : SKEP_INGRESS].rule);
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
	struct ct_entry *entry = ct_scratch();
	verdict v;

	if (p->flags & (PACKET_ONLY_REPLY | PACKET_ICMP_ERROR))
		return verdict_of(SKEP_REASON_ICMP_NO_FLOW, 0);
	if (!entry)
		return verdict_of(SKEP_REASON_ERROR_MAP, 0);
	v = judge(&p->src, src, p->flips, &p->dst, known, dst, service_of(p, p->dport), NULL, false, entry);
	count_sides(entry->sides, p->len);
	if (midflow && (verdict_reason(v) == SKEP_REASON_POLICY_EGRESS ||
			verdict_reason(v) == SKEP_REASON_POLICY_INGRESS))
		return verdict_of(SKEP_REASON_MIDFLOW_DENIED, verdict_rule(v));
	if (verdict_reason(v))
		return v;
	entry->created = entry->last_seen = clock_ns();
	entry->packets[0] = 1;
	entry->bytes[0] = p->len;
	entry->flags |= flags | (midflow ? CT_MIDFLOW : 0);
	entry->tcp = ct_tcp_state(0, p, true);
	if (flags & CT_SERVICE) {
		entry->nat = *nat;
		entry->nat_port = nat_port;
	}
	if (ct_insert(key, entry))
		return verdict_of(SKEP_REASON_CT_FULL, 0);
	return v;
}

#endif
