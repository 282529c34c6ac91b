/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What policy says about a connection: by each check that this node owes, in both views, counted by rule. Where the policies in audit
 * mode would decide otherwise, user space is told.
 */
#ifndef SKEP_LIB_JUDGE_H
#define SKEP_LIB_JUDGE_H

#include "ct.h"
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

static __always_inline struct rule_count *rule_count_of(__u32 slot)
{
	return slot ? bpf_map_lookup_elem(&skep_rule_count, &slot) : NULL;
}

/* Counts a connection for a rule that decided about it. */
__noinline int skep_count_connection(__u32 slot)
{
	struct rule_count *count = rule_count_of(slot);

	if (count)
		count->connections++;
	return 0;
}

/* Counts a packet in four slots, 16 bits each. */
__noinline int skep_count_packet(__u64 slots, __u32 len)
{
	int i;

#pragma clang loop unroll(disable)
	for (i = 0; i < 4; i++) {
		struct rule_count *count = rule_count_of(slots & 0xffff);

		if (count) {
			count->packets++;
			count->bytes += len;
		}
		slots >>= 16;
	}
	return 0;
}

/* Counts a packet for the rules that decided about its connection, and those that would have. */
static __always_inline void count_sides(const struct ct_side sides[2], __u32 len)
{
	__u64 slots = (__u64)sides[0].counter | (__u64)sides[0].would_counter << 16 | (__u64)sides[1].counter << 32 |
		      (__u64)sides[1].would_counter << 48;

	if (slots)
		skep_count_packet(slots, len);
}

/* How an audit is asked for. */
enum audit_flag {
	AUDIT_EGRESS = 1, /* the policy is the initiator's egress */
	AUDIT_REPLY = 2, /* the packet in hand is the responder's */
	AUDIT_ALLOWED = 4, /* the enforced answer */
	AUDIT_DIFFERED = 8, /* the answers differed when the connection was judged before */
};

/* Tells user space that the answers about the connection of the packet in hand differ. */
static __always_inline void tell_audit(const struct packet *p, __u32 rule, const struct rule *would, __u32 how)
{
	struct event *event = bpf_ringbuf_reserve(&skep_events, sizeof(*event), 0);
	__u32 zero = 0;
	__u64 *lost;

	if (!event) {
		lost = bpf_map_lookup_elem(&skep_events_lost, &zero);
		if (lost)
			(*lost)++;
		return;
	}
	event->time = bpf_ktime_get_ns();
	event->src = how & AUDIT_REPLY ? p->dst : p->src;
	event->dst = how & AUDIT_REPLY ? p->src : p->dst;
	event->sport = how & AUDIT_REPLY ? p->dport : p->sport;
	event->dport = how & AUDIT_REPLY ? p->sport : p->dport;
	event->proto = p->proto;
	event->type = EVENT_AUDIT;
	event->direction = how & AUDIT_EGRESS ? SKEP_EGRESS : SKEP_INGRESS;
	event->would = would->action;
	event->rule = rule;
	event->would_rule = would->id;
	/* The reader comes by itself: waking it would cost more than judging did. */
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
}

/* What the other view says when another rule decides in it, about the connection of packet_scratch(): that rule's number, above it where
 * packets are counted for it, above that 1 if the answers differ. before is the rule that would have decided when the connection was
 * judged before: it has been counted and told. */
__noinline __u64 skep_would(__u32 index, __u32 rule, __u32 before, __u32 how)
{
	struct packet *p = packet_scratch();
	struct rule *would = rule_at(index);
	struct rule_count *count;
	bool differs, known;
	__u32 counter;

	if (!p || !would)
		return 0;
	/* The defaults of the two views are two rules, even when they are the same. */
	if (would->id == rule && (would->action == ACTION_ALLOW) == !!(how & AUDIT_ALLOWED))
		return 0;
	differs = (would->action == ACTION_ALLOW) != !!(how & AUDIT_ALLOWED);
	known = would->id == before && differs == !!(how & AUDIT_DIFFERED);
	counter = would->flags & RULE_AUDIT ? would->counter : 0;
	count = known ? NULL : rule_count_of(would->counter);
	if (count) {
		if (counter)
			count->connections++;
		if (differs && would->action == ACTION_ALLOW)
			count->would_allow++;
		else if (differs)
			count->would_deny++;
	}
	if (differs && !known)
		tell_audit(p, rule, would, how);
	return (__u64)differs << 48 | (__u64)counter << 32 | would->id;
}

static __always_inline __u32 differs_flag(enum direction direction)
{
	return direction == SKEP_EGRESS ? CT_WOULD_DIFFER_EGRESS : CT_WOULD_DIFFER_INGRESS;
}

/* What a pod of this node says about a connection with peers of a class, noted in out. before is the flow's entry when it is judged
 * again, reply says that the packet in hand is the responder's. */
static __always_inline verdict judge_side(const struct endpoint *ep, enum direction direction, __u32 class, __u32 service,
					  const struct ct_entry *before, bool reply, struct ct_entry *out)
{
	struct ct_side *side = &out->sides[direction];
	struct rule *rule;
	__u64 would;
	decision d;

	if (!(ep->flags & ENDPOINT_POLICY))
		return verdict_of(SKEP_REASON_NO_POLICY, 0);
	d = skep_judge(direction == SKEP_EGRESS ? ep->egress_set : ep->ingress_set, class, service);
	if (d & DECISION_ERROR)
		return verdict_of((__u32)d, 0);
	rule = rule_at(decision_rule(d, VIEW_ENFORCED));
	if (!rule)
		return verdict_of(SKEP_REASON_ERROR_RULE, 0);
	side->rule = rule->id;
	side->counter = rule->counter;
	if (!before || before->sides[direction].rule != rule->id)
		skep_count_connection(rule->counter);
	if (decision_rule(d, VIEW_WOULD_BE) != decision_rule(d, VIEW_ENFORCED)) {
		would = skep_would(decision_rule(d, VIEW_WOULD_BE), rule->id, before ? before->sides[direction].would_rule : 0,
				   (direction == SKEP_EGRESS ? AUDIT_EGRESS : 0) | (reply ? AUDIT_REPLY : 0) |
					   (rule->action == ACTION_ALLOW ? AUDIT_ALLOWED : 0) |
					   (before && before->flags & differs_flag(direction) ? AUDIT_DIFFERED : 0));
		side->would_rule = (__u32)would;
		side->would_counter = (__u16)(would >> 32);
		out->flags |= would >> 48 ? differs_flag(direction) : 0;
	}
	if (rule->action == ACTION_ALLOW)
		return verdict_of(SKEP_REASON_NONE, rule->id);
	return verdict_of(direction == SKEP_EGRESS ? SKEP_REASON_POLICY_EGRESS : SKEP_REASON_POLICY_INGRESS, rule->id);
}

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
 * responder's entry if it was looked up after from, flips are those from before from was, before and reply as judge_side has them. What
 * was found goes into out, which is zeroed. */
static __always_inline verdict judge(const struct addr *initiator, const struct endpoint *from, __u32 flips,
				     const struct addr *responder, const struct address *known,
				     const struct endpoint *to, __u32 service, const struct ct_entry *before, bool reply,
				     struct ct_entry *out)
{
	verdict v = verdict_of(SKEP_REASON_NONE, 0);

	/* Read before the look-ups: a policy that changes meanwhile judges the flow again. */
	out->generation = policy_generation();
	barrier();
	if (from) {
		v = judge_side(from, SKEP_EGRESS, class_of(known ? known : address_of(responder), responder), service, before,
			       reply, out);
		if (verdict_reason(v))
			return v;
	}
	if (to)
		v = judge_side(to, SKEP_INGRESS, initiator_class(from, initiator, flips), service, before, reply, out);
	return v;
}

#endif
