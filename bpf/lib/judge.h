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

/* The host-side device of the pod of this node that has an address, 0 when none has. It may change at any time: whoever goes by it twice
 * reads it once. */
static __always_inline __u32 ifindex_of(const struct address *known)
{
	return known ? *(const volatile __u32 *)&known->ifindex : 0;
}

/* The pod of this node that has a device; NULL without one. *missing says that there is a device, but no endpoint. */
static __always_inline struct endpoint *endpoint_at(__u32 ifindex, bool *missing)
{
	struct endpoint *ep;

	if (!ifindex)
		return NULL;
	ep = bpf_map_lookup_elem(&skep_endpoint, &ifindex);
	*missing |= !ep;
	return ep;
}

/* The pod of this node that has an address. */
static __always_inline struct endpoint *endpoint_of(const struct address *known, bool *missing)
{
	return endpoint_at(ifindex_of(known), missing);
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
static __always_inline void count_connection(__u32 slot)
{
	struct rule_count *count = rule_count_of(slot);

	if (count)
		count->connections++;
}

static __always_inline void count_packet(__u32 slot, __u32 len)
{
	struct rule_count *count = rule_count_of(slot);

	if (count) {
		count->packets++;
		count->bytes += len;
	}
}

/* Counts a packet for the rules that decided about its connection, and those that would have. */
static __always_inline void count_sides(const struct ct_side sides[2], __u32 len)
{
	count_packet(sides[SKEP_INGRESS].counter, len);
	count_packet(sides[SKEP_INGRESS].would_counter, len);
	count_packet(sides[SKEP_EGRESS].counter, len);
	count_packet(sides[SKEP_EGRESS].would_counter, len);
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

/* A set, and the class of a peer that it judges, as one scalar. */
typedef __u64 judged_peer;

static __always_inline judged_peer judged_peer_of(__u32 set, __u32 class)
{
	return (__u64)set << 32 | class;
}

static __always_inline __u32 judged_by(judged_peer peer)
{
	return peer >> 32;
}

static __always_inline __u32 judged_class(judged_peer peer)
{
	return (__u32)peer;
}

/* The number of a pod's set. It may change at any time. */
static __always_inline __u32 set_of(const struct endpoint *ep, enum direction direction)
{
	return direction == SKEP_EGRESS ? *(const volatile __u32 *)&ep->egress_set : *(const volatile __u32 *)&ep->ingress_set;
}

/* What a pod of this node says about a connection with a peer, noted in out. before is the flow's entry when it is judged
 * again, reply says that the packet in hand is the responder's. */
static __always_inline verdict judge_side(const struct endpoint *ep, enum direction direction, judged_peer peer, __u32 service,
					  const struct ct_entry *before, bool reply, struct ct_entry *out)
{
	struct ct_side *side = &out->sides[direction];
	struct rule *rule;
	__u64 would;
	decision d;

	if (!(ep->flags & ENDPOINT_POLICY))
		return verdict_of(SKEP_REASON_NO_POLICY, 0);
	d = skep_judge(judged_by(peer), judged_class(peer), service);
	if (d & DECISION_ERROR)
		return verdict_of((__u32)d, 0);
	rule = rule_at(decision_rule(d, VIEW_ENFORCED));
	if (!rule)
		return verdict_of(SKEP_REASON_ERROR_RULE, 0);
	side->rule = rule->id;
	side->counter = rule->counter;
	if (!before || before->sides[direction].rule != rule->id)
		count_connection(rule->counter);
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

/* Whether no policy has begun to take over since before flips was read. */
static __always_inline bool policy_stands(__u32 flips)
{
	return !(flips & 1) && flips == policy_flips();
}

/* The class of an address by what is said of it now. */
__noinline __u32 skep_class_now(__u64 hi, __u64 lo)
{
	struct addr addr;

	addr_set(&addr, hi, lo);
	return class_of(address_of(&addr), &addr);
}

/*
 * What judges a pod's peer, read while a policy may be taking over. The peer passes from the class that it had, by one that old sets and
 * new ones know, to the one that it will have, and between the two the pod goes from its old set to its new one. So a class that is
 * looked up between two looks at one and the same set is one that this set knows. When the set has changed meanwhile, what is looked
 * up after it is what the new one knows.
 */
static __always_inline judged_peer judged_now(const struct endpoint *ep, enum direction direction, const struct addr *peer)
{
	__u64 hi = addr_hi(peer), lo = addr_lo(peer);
	__u32 set = set_of(ep, direction), class = skep_class_now(hi, lo), again = set_of(ep, direction);

	if (again != set)
		class = skep_class_now(hi, lo);
	return judged_peer_of(again, class);
}

/* What judges the responder as the peer of a pod. known is its entry if it was looked up after flips was read. */
static __always_inline judged_peer egress_of(const struct endpoint *from, const struct address *known, const struct addr *responder,
					     __u32 flips)
{
	if (known) {
		__u32 set = set_of(from, SKEP_EGRESS), class = class_of(known, responder);

		if (policy_stands(flips))
			return judged_peer_of(set, class);
	}
	return judged_now(from, SKEP_EGRESS, responder);
}

static __always_inline __u32 own_class(const volatile struct endpoint *from, bool is4)
{
	if (is4)
		return from->class4;
	return from->class6;
}

/* What judges the initiator as the peer of a pod. from is its endpoint if it is a pod of this node, looked up after flips was read. */
static __always_inline judged_peer ingress_of(const struct endpoint *to, const struct endpoint *from, const struct addr *initiator,
					      __u32 flips)
{
	bool is4 = addr_is4(initiator);

	if (from && from->flags & (is4 ? ENDPOINT_CLASS4 : ENDPOINT_CLASS6)) {
		__u32 set = set_of(to, SKEP_INGRESS), class = own_class(from, is4);

		if (policy_stands(flips))
			return judged_peer_of(set, class);
	}
	return judged_now(to, SKEP_INGRESS, initiator);
}

/* Judges a connection by each check that is owed (without endpoint none is): the first denial, egress before ingress. flips are those from
 * before from was looked up, known is the responder's entry if it was looked up after that, before and reply as judge_side has them.
 * What was found goes into out, which is zeroed. */
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
		v = judge_side(from, SKEP_EGRESS, egress_of(from, known, responder, flips), service, before, reply, out);
		if (verdict_reason(v))
			return v;
	}
	if (to)
		v = judge_side(to, SKEP_INGRESS, ingress_of(to, from, initiator, flips), service, before, reply, out);
	return v;
}

#endif
