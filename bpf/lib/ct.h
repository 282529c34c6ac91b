/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Connection tracking: one entry for both directions, found through the outer map. */
#ifndef SKEP_LIB_CT_H
#define SKEP_LIB_CT_H

#include "packet.h"
#include "skep/config.h"

/* Fills the key of the flow between two ends; true when src is end a. */
static __always_inline bool ct_key_of(struct ct_key *key, const struct addr *src, const struct addr *dst,
				      __be16 sport, __be16 dport, __u8 proto)
{
	__u64 src_hi = addr_hi(src), dst_hi = addr_hi(dst), src_lo = addr_lo(src), dst_lo = addr_lo(dst);
	bool src_first = src_hi != dst_hi ? src_hi < dst_hi :
			 src_lo != dst_lo ? src_lo < dst_lo :
					    sport <= dport;

	if (src_first) {
		key->a = *src;
		key->b = *dst;
		key->port_a = sport;
		key->port_b = dport;
	} else {
		key->a = *dst;
		key->b = *src;
		key->port_a = dport;
		key->port_b = sport;
	}
	key->proto = proto;
	key->zero[0] = 0;
	key->zero[1] = 0;
	key->zero[2] = 0;
	return src_first;
}

/* The time that flows are stamped with: CLOCK_MONOTONIC, to the tick where the kernel has that (5.11) since it costs a tenth. */
static __always_inline __u64 clock_ns(void)
{
	return skep_has_coarse_clock ? bpf_ktime_get_coarse_ns() : bpf_ktime_get_ns();
}

static __always_inline void *ct_table(__u32 slot)
{
	return bpf_map_lookup_elem(&skep_ct, &slot);
}

/* A miss in the current table while another is being drained: take the entry over. */
static __always_inline struct ct_entry *ct_take_over(void *current, struct ct_key *key)
{
	void *previous = ct_table(CT_SLOT_PREVIOUS);
	struct ct_entry *entry;

	if (!previous)
		return NULL;
	entry = bpf_map_lookup_elem(previous, key);
	if (!entry)
		return NULL;
	bpf_map_update_elem(current, key, entry, BPF_NOEXIST);
	bpf_map_delete_elem(previous, key);
	return bpf_map_lookup_elem(current, key);
}

static __always_inline struct ct_entry *ct_lookup(struct ct_key *key)
{
	void *current = ct_table(CT_SLOT_CURRENT);
	struct ct_entry *entry;

	if (!current)
		return NULL;
	entry = bpf_map_lookup_elem(current, key);
	return entry ? entry : ct_take_over(current, key);
}

static __always_inline long ct_insert(struct ct_key *key, struct ct_entry *entry)
{
	void *current = ct_table(CT_SLOT_CURRENT);

	return current ? bpf_map_update_elem(current, key, entry, BPF_ANY) : -1;
}

/* A zeroed entry outside the stack, which has no room for it below the frames of the policy. Good until the next call. */
static __always_inline struct ct_entry *ct_scratch(void)
{
	__u32 zero = 0;
	struct ct_entry *entry = bpf_map_lookup_elem(&skep_scratch, &zero);

	if (entry)
		__builtin_memset(entry, 0, sizeof(*entry));
	return entry;
}

static __always_inline bool ct_from_initiator(const struct ct_entry *entry, bool src_is_a)
{
	return src_is_a == !(entry->flags & CT_FROM_B);
}

/* Both sides have closed, or one has reset: the tuple is free for a new connection. */
static __always_inline bool ct_closed(const struct ct_entry *entry)
{
	const __u8 both = CT_TCP_FIN_FORWARD | CT_TCP_FIN_BACK;

	return entry->tcp & CT_TCP_RST || (entry->tcp & both) == both;
}

static __always_inline __u8 ct_tcp_state(__u8 tcp, const struct packet *p, bool forward)
{
	if (!forward)
		tcp |= CT_TCP_REPLIED;
	if (!(p->flags & PACKET_TCP))
		return tcp;
	if (p->tcp_flags & TCP_SYN)
		tcp |= CT_TCP_SYN;
	else if (forward && tcp & CT_TCP_REPLIED)
		tcp |= CT_TCP_ESTABLISHED;
	if (p->tcp_flags & TCP_FIN)
		tcp |= forward ? CT_TCP_FIN_FORWARD : CT_TCP_FIN_BACK;
	if (p->tcp_flags & TCP_RST)
		tcp |= CT_TCP_RST;
	return tcp;
}

/* Accounts a packet to its flow. Counters are atomic: the two directions usually run on different CPUs. */
static __always_inline void ct_touch(struct ct_entry *entry, const struct packet *p, bool forward, __u64 now)
{
	__u8 tcp = ct_tcp_state(entry->tcp, p, forward);

	entry->last_seen = now;
	/* Setting bits races harmlessly: a lost one is set again by the next packet or ages out. */
	if (tcp != entry->tcp)
		entry->tcp = tcp;
	if (forward) {
		__sync_fetch_and_add(&entry->packets[0], 1);
		__sync_fetch_and_add(&entry->bytes[0], p->len);
	} else {
		__sync_fetch_and_add(&entry->packets[1], 1);
		__sync_fetch_and_add(&entry->bytes[1], p->len);
	}
}

#endif
