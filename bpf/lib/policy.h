/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Policy by rule bit-vectors. The class of the peer's address gives one row of bits (rules whose peers include it), protocol
 * and port another (rules whose ports include them); the first bit set in both is the rule that decides.
 *
 * The steps are global functions with scalar arguments: each is verified once, which keeps the 5.10 verifier below a thousand
 * instructions where inlining takes 864,000. Words are chosen by masks instead of branches for the same reason.
 */
#ifndef SKEP_LIB_POLICY_H
#define SKEP_LIB_POLICY_H

#include "addr.h"
#include "skep/maps.h"

/* A verdict is one scalar: rule id below, reason above; reason SKEP_REASON_NONE allows. */
typedef __u64 verdict;

static __always_inline verdict verdict_of(__u32 reason, __u32 rule)
{
	return (__u64)reason << 32 | rule;
}

static __always_inline __u32 verdict_reason(verdict v)
{
	return v >> 32;
}

static __always_inline __u32 verdict_rule(verdict v)
{
	return (__u32)v;
}

enum {
	NO_BIT = SKEP_BLOCK_BITS * SKEP_MAX_BLOCKS,
	BAD_BIT = NO_BIT + 1,
	/* In place of a row's first block: all bits are set. */
	ROW_OF_ONES = 0xffffffff,
	TIERS = 3,
};

/* 1 unless x is 0. The compiler knows what this computes and would turn it back into the branch that it avoids: of six branches in
 * a row the verifier follows 64 paths. */
static __always_inline __u64 non_zero(__u64 x)
{
	__u64 y = x | -x;

	asm volatile("" : "+r"(y));
	return y >> 63;
}

/* Index of the lowest set bit of a word that is not zero, by halving: 5.10 has no such instruction. */
static __always_inline __u32 lowest_bit(__u64 word)
{
	__u32 n = 0, shift;

	shift = (__u32)(1 ^ non_zero(word & 0xffffffff)) << 5;
	word >>= shift;
	n += shift;
	shift = (__u32)(1 ^ non_zero(word & 0xffff)) << 4;
	word >>= shift;
	n += shift;
	shift = (__u32)(1 ^ non_zero(word & 0xff)) << 3;
	word >>= shift;
	n += shift;
	shift = (__u32)(1 ^ non_zero(word & 0xf)) << 2;
	word >>= shift;
	n += shift;
	shift = (__u32)(1 ^ non_zero(word & 0x3)) << 1;
	word >>= shift;
	n += shift;
	return n + (__u32)(1 ^ (word & 1));
}

static __always_inline __u32 count_bits(__u32 x)
{
	x = x - ((x >> 1) & 0x55555555);
	x = (x & 0x33333333) + ((x >> 2) & 0x33333333);
	x = (x + (x >> 4)) & 0x0f0f0f0f;
	return (x * 0x01010101) >> 24;
}

/* First bit set in both blocks, SKEP_BLOCK_BITS if none, BAD_BIT if a block is missing. */
__noinline __u32 skep_match_block(__u32 peer, __u32 port)
{
	struct block *a = bpf_map_lookup_elem(&skep_block, &peer);
	struct block *b = bpf_map_lookup_elem(&skep_block, &port);
	__u64 word = 0, index = 0;
	int i;

	if (!a || !b)
		return BAD_BIT;
#pragma clang loop unroll(full)
	for (i = SKEP_BLOCK_WORDS - 1; i >= 0; i--) {
		__u64 both = a->words[i] & b->words[i];
		__u64 mask = -non_zero(both);

		word = (word & ~mask) | (both & mask);
		index = (index & ~mask) | (i & mask);
	}
	if (!word)
		return SKEP_BLOCK_BITS;
	return (__u32)index * 64 + lowest_bit(word);
}

/* First bit set in both rows at or after block from; NO_BIT or BAD_BIT otherwise. */
__noinline __u32 skep_match_rows(__u32 peer_first, __u32 peer_blocks, __u32 port_first, __u32 port_blocks,
				 __u32 from)
{
	__u32 both = peer_blocks & port_blocks & (from < SKEP_MAX_BLOCKS ? ~0U << from : 0);
	int i;

#pragma clang loop unroll(disable)
	for (i = 0; i < SKEP_MAX_BLOCKS; i++) {
		__u32 block, below, peer, bit;

		if (!both)
			break;
		block = lowest_bit(both) & (SKEP_MAX_BLOCKS - 1);
		both &= both - 1;
		below = (1U << block) - 1;
		peer = peer_first + count_bits(peer_blocks & below);
		bit = skep_match_block(peer, port_first == ROW_OF_ONES ?
						     peer :
						     port_first + count_bits(port_blocks & below));
		if (bit == BAD_BIT)
			return BAD_BIT;
		if (bit < SKEP_BLOCK_BITS)
			return block * SKEP_BLOCK_BITS + bit;
	}
	return NO_BIT;
}

/* The class of an address, local to this node. Pods are found exactly, everything else by prefix. */
__noinline __u32 skep_class_of(__u64 hi, __u64 lo)
{
	struct cidr_key key = { .prefix = 128 };
	struct state *state;
	__u32 zero = 0, *class;

	addr_set(&key.addr, hi, lo);
	class = bpf_map_lookup_elem(&skep_class, &key.addr);
	if (class)
		return *class;
	state = bpf_map_lookup_elem(&skep_state, &zero);
	if (!state || !(state->flags & STATE_HAS_CIDR))
		return SKEP_CLASS_NONE;
	class = bpf_map_lookup_elem(&skep_cidr, &key);
	return class ? *class : SKEP_CLASS_NONE;
}

/* The row of rules whose ports include proto and port. */
static __always_inline struct row *port_row(__u32 set, __u32 flags, __u8 proto, __be16 port)
{
	struct port_key key = { .set = set, .port = port, .proto = proto, .kind = PORT_EXACT };
	struct row *row = bpf_map_lookup_elem(&skep_port, &key);

	if (row)
		return row;
	if (flags & SET_HAS_RANGES) {
		struct range_key range = { .prefix = 64, .set = set, .proto = proto, .port = port };

		row = bpf_map_lookup_elem(&skep_range, &range);
		if (row)
			return row;
	}
	key.port = 0;
	key.kind = PORT_ANY_OF_PROTOCOL;
	row = bpf_map_lookup_elem(&skep_port, &key);
	if (row)
		return row;
	key.proto = 0;
	key.kind = PORT_ANY;
	return bpf_map_lookup_elem(&skep_port, &key);
}

/* A verdict by a rule, counted. Slot 0 takes the counts of rules that got no counter. */
static __always_inline verdict decided(__u32 action, const struct rule_ref *rule, __u32 len)
{
	__u32 slot = rule->counter;
	struct rule_count *count = bpf_map_lookup_elem(&skep_rule_count, &slot);

	if (count) {
		count->connections++;
		count->packets++;
		count->bytes += len;
	}
	return verdict_of(action == ACTION_ALLOW ? SKEP_REASON_NONE : SKEP_REASON_POLICY_INGRESS, rule->id);
}

/* What a set says about peers of a class. service is proto << 16 | port in network order, len that of the packet. */
__noinline __u64 skep_judge_class(__u32 id, __u32 class, __u32 service, __u32 len)
{
	struct peer_key peer_key = { .set = id, .class = class };
	struct set *set = bpf_map_lookup_elem(&skep_set, &id);
	struct row *peer, *port;
	__u32 port_first = ROW_OF_ONES, port_blocks = ~0U, from = 0;
	int tier;

	if (!set || !(set->flags & SET_COMPLETE))
		return verdict_of(SKEP_REASON_ERROR_SET, 0);
	if (class > set->complete_class)
		return verdict_of(SKEP_REASON_ERROR_CLASS, 0);
	peer = bpf_map_lookup_elem(&skep_peer, &peer_key);
	if (!peer && class != SKEP_CLASS_NONE) {
		peer_key.class = SKEP_CLASS_NONE;
		peer = bpf_map_lookup_elem(&skep_peer, &peer_key);
	}
	if (!peer)
		return verdict_of(SKEP_REASON_ERROR_ROW, 0);
	if (set->flags & SET_HAS_PORTS && peer->blocks) {
		port = port_row(id, set->flags, service >> 16, service & 0xffff);
		if (!port)
			return verdict_of(SKEP_REASON_ERROR_ROW, 0);
		port_first = port->first;
		port_blocks = port->blocks;
	}
#pragma clang loop unroll(disable)
	for (tier = 0; tier < TIERS; tier++) {
		__u32 bit = skep_match_rows(peer->first, peer->blocks, port_first, port_blocks, from), index;
		struct rule *rule;

		if (bit == BAD_BIT)
			return verdict_of(SKEP_REASON_ERROR_ROW, 0);
		if (bit == NO_BIT)
			break;
		index = set->first_rule + bit;
		rule = bpf_map_lookup_elem(&skep_rule, &index);
		if (!rule || !rule->present)
			return verdict_of(SKEP_REASON_ERROR_RULE, 0);
		if (rule->action != ACTION_PASS)
			return decided(rule->action, &rule->ref, len);
		from = rule->next_block;
	}
	return decided(set->default_action, &set->otherwise, len);
}

/* What a set says about a peer. The caller has read the set's number before: user space flips classes first, so a new set never
 * meets an old class. */
__noinline __u64 skep_judge(__u32 set, __u64 peer_hi, __u64 peer_lo, __u32 service, __u32 len)
{
	return skep_judge_class(set, skep_class_of(peer_hi, peer_lo), service, len);
}

enum direction {
	SKEP_INGRESS = 0,
	SKEP_EGRESS = 1,
};

/* What a pod of this node says about a peer. */
static __always_inline verdict judge_pod(const struct endpoint *ep, enum direction direction, const struct addr *peer,
					 __u32 service, __u32 len)
{
	__u32 set;
	verdict v;

	if (!(ep->flags & ENDPOINT_POLICY))
		return verdict_of(SKEP_REASON_NO_POLICY, 0);
	set = *(volatile __u32 *)(direction == SKEP_EGRESS ? &ep->egress_set : &ep->ingress_set);
	barrier();
	v = skep_judge(set, addr_hi(peer), addr_lo(peer), service, len);
	if (direction == SKEP_EGRESS && verdict_reason(v) == SKEP_REASON_POLICY_INGRESS)
		return verdict_of(SKEP_REASON_POLICY_EGRESS, verdict_rule(v));
	return v;
}

#endif
