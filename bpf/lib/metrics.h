/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Counters, and how a program ends. */
#ifndef SKEP_LIB_METRICS_H
#define SKEP_LIB_METRICS_H

#include <linux/pkt_cls.h>

#include "skep/maps.h"

static __always_inline void count_reason(__u32 reason, __u32 len)
{
	struct metric *m = bpf_map_lookup_elem(&skep_metric, &reason);

	if (m) {
		m->packets++;
		m->bytes += len;
	}
}

/*
 * Ends a program: counts the reason and leaves it with the deciding rule in skb->cb, where tests that run the program see
 * it. Nothing else reads cb between here and the queueing layer.
 */
static __always_inline int finish(struct __sk_buff *skb, __u32 reason, __u32 rule)
{
	count_reason(reason, skb->len);
	skb->cb[0] = reason;
	skb->cb[1] = rule;
	return reason >= SKEP_REASON_FIRST_DROP ? TC_ACT_SHOT : TC_ACT_OK;
}

#endif
