/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Load-time constants and the marks we own. */
#ifndef SKEP_CONFIG_H
#define SKEP_CONFIG_H

#include <linux/types.h>

/*
 * skb->mark bit: the packet was judged, counted and translated on the sender's side of this node. Set by the from-pod
 * program, read by the to-pod program, cleared on everything that enters from a pod or the uplink, so that nobody else can
 * claim it.
 */
#define SKEP_MARK_JUDGED 0x00100000

/* Service prefixes as 128-bit address and mask, network order; a zero mask means that every destination may be a Service. */
volatile const __u64 skep_service4[2] = {}; /* last 64 bits: address, mask */
volatile const __u64 skep_service6[4] = {}; /* address hi lo, mask hi lo */

/* Whether bpf_set_retval exists for cgroup socket programs (5.18): then connect to a Service without backends returns
 * ECONNREFUSED directly. */
volatile const __u32 skep_has_set_retval = 0;

/* Whether bpf_ktime_get_coarse_ns exists (5.11). */
volatile const __u32 skep_has_coarse_clock = 0;

#endif
