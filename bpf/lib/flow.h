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

static __always_inline __u32 ifindex_of(const struct addr *addr)
{
	struct local *local = bpf_map_lookup_elem(&skep_local, addr);

	return local ? local->ifindex : 0;
}

/* What judging a connection gave. */
struct judgement {
	__u32 generation; /* read before the look-ups: a policy that changes meanwhile judges the flow again */
	__u32 egress_rule;
	__u32 ingress_rule;
};

/* Judges a connection by each check that is owed (an ifindex of 0 owes none): the first denial, egress before ingress. service is
 * proto << 16 | responder's port, len that of the packet that gave cause. */
static __always_inline verdict judge(const struct addr *initiator, __u32 initiator_ifindex,
				     const struct addr *responder, __u32 responder_ifindex, __u32 service,
				     __u32 len, struct judgement *j)
{
	verdict v;

	j->generation = policy_generation();
	j->ingress_rule = 0;
	barrier();
	v = skep_judge_pod(initiator_ifindex, addr_hi(responder), addr_lo(responder), service, SKEP_EGRESS);
	j->egress_rule = verdict_rule(v);
	if (j->egress_rule)
		count_rule(j->egress_rule, len);
	if (verdict_reason(v))
		return v;
	v = skep_judge_pod(responder_ifindex, addr_hi(initiator), addr_lo(initiator), service, SKEP_INGRESS);
	j->ingress_rule = verdict_rule(v);
	if (j->ingress_rule)
		count_rule(j->ingress_rule, len);
	return v;
}

/* Judges a known flow again. The entry of a flow that is now forbidden stays, marked: without it the responder's packets
 * would be taken for a connection of its own. */
static __always_inline verdict judge_again(struct ct_entry *entry, const struct packet *p, bool forward)
{
	__u32 src_ifindex = 0, dst_ifindex = 0;
	struct judgement j;
	verdict v;

	if (!(entry->flags & CT_FROM_NODE)) {
		src_ifindex = ifindex_of(&p->src);
		dst_ifindex = ifindex_of(&p->dst);
	}
	if (forward)
		v = judge(&p->src, src_ifindex, &p->dst, dst_ifindex, (__u32)p->proto << 16 | p->dport, p->len, &j);
	else
		v = judge(&p->dst, dst_ifindex, &p->src, src_ifindex, (__u32)p->proto << 16 | p->sport, p->len, &j);
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
		ct_touch(entry, p, forward, bpf_ktime_get_ns());
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
 * A packet without a flow: judged as its own direction, entered when allowed. flags are the entry's, nat the Service address
 * when CT_SERVICE is among them.
 */
static __always_inline verdict flow_new(struct ct_key *key, const struct packet *p, __u32 src_ifindex, __u32 dst_ifindex,
					__u8 flags, const struct addr *nat, __be16 nat_port)
{
	bool midflow = p->flags & PACKET_TCP && !(p->flags & PACKET_OPENS);
	struct ct_entry *entry;
	struct judgement j;
	verdict v;

	if (p->flags & (PACKET_ONLY_REPLY | PACKET_ICMP_ERROR))
		return verdict_of(SKEP_REASON_ICMP_NO_FLOW, 0);
	v = judge(&p->src, src_ifindex, &p->dst, dst_ifindex, (__u32)p->proto << 16 | p->dport, p->len, &j);
	if (midflow && (verdict_reason(v) == SKEP_REASON_POLICY_EGRESS ||
			verdict_reason(v) == SKEP_REASON_POLICY_INGRESS))
		return verdict_of(SKEP_REASON_MIDFLOW_DENIED, verdict_rule(v));
	if (verdict_reason(v))
		return v;
	entry = ct_scratch();
	if (!entry)
		return verdict_of(SKEP_REASON_ERROR_MAP, 0);
	entry->created = entry->last_seen = bpf_ktime_get_ns();
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
