// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Says what policy the maps hold about a connection. Attached nowhere: user space runs it on a made-up packet that holds the question,
 * and finds the answer in it. It asks as the attached programs do, by the same functions on the same maps, but knows no flows and
 * neither counts nor reports.
 */
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

#include "lib/judge.h"

static __always_inline __u32 refusal(const struct rule *rule, enum direction direction)
{
	if (rule->action == ACTION_ALLOW)
		return SKEP_REASON_NONE;
	return direction == SKEP_EGRESS ? SKEP_REASON_POLICY_EGRESS : SKEP_REASON_POLICY_INGRESS;
}

static __always_inline void ask_side(const struct endpoint *ep, enum direction direction, judged_peer peer, __u32 service,
				     struct check_side *side)
{
	struct rule *rule, *would;
	decision d;

	side->reason = SKEP_REASON_NO_POLICY;
	if (!(ep->flags & ENDPOINT_POLICY))
		return;
	d = skep_judge(judged_by(peer), judged_class(peer), service);
	side->reason = (__u32)d;
	if (d & DECISION_ERROR)
		return;
	rule = rule_at(decision_rule(d, VIEW_ENFORCED));
	would = rule_at(decision_rule(d, VIEW_WOULD_BE));
	side->reason = SKEP_REASON_ERROR_RULE;
	if (!rule || !would)
		return;
	side->reason = refusal(rule, direction);
	side->rule = rule->id;
	side->would_reason = refusal(would, direction);
	side->would_rule = would->id;
}

SEC("tc")
int skep_tc_check(struct __sk_buff *skb)
{
	struct check_side none = {};
	struct check c;
	struct endpoint *from, *to;
	struct address *known;
	bool missing = false;
	__u32 flips;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &c, sizeof(c)))
		return TC_ACT_SHOT;
	c.flags = 0;
	c.ingress = c.egress = none;
	c.generation = policy_generation();
	flips = policy_flips();
	barrier();
	from = endpoint_of(address_of(&c.src), &missing);
	known = address_of(&c.dst);
	to = endpoint_of(known, &missing);
	if (missing)
		c.flags |= CHECK_NO_ENDPOINT;
	if (from) {
		c.flags |= CHECK_EGRESS;
		ask_side(from, SKEP_EGRESS, egress_of(from, known, &c.dst, flips), c.service, &c.egress);
	}
	if (to) {
		c.flags |= CHECK_INGRESS;
		ask_side(to, SKEP_INGRESS, ingress_of(to, from, &c.src, flips), c.service, &c.ingress);
	}
	return bpf_skb_store_bytes(skb, ETH_HLEN, &c, sizeof(c), 0) ? TC_ACT_SHOT : TC_ACT_OK;
}

char _license[] SEC("license") = "Dual BSD/GPL";
