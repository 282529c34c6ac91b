/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Policy by rule bit-vectors. The class of the peer's address gives one row of bits (rules whose peers include it), protocol
 * and port another (rules whose ports include them); the first bit set in both is the rule that decides.
 *
 * The steps are global functions with scalar arguments: each is verified once, which keeps the 5.10 verifier below a thousand
 * instructions where inlining takes 864,000. 5.10 counts each frame of a call chain in steps of 32 bytes towards the 512 of the stack.
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

/* First bit set in all three blocks, SKEP_BLOCK_BITS if none, BAD_BIT if a block is missing. */
__noinline __u32 skep_match_block(__u32 peer, __u32 port, __u32 view)
{
	struct block *a = bpf_map_lookup_elem(&skep_block, &peer);
	struct block *b = bpf_map_lookup_elem(&skep_block, &port);
	struct block *c = bpf_map_lookup_elem(&skep_block, &view);
	int i;

	if (!a || !b || !c)
		return BAD_BIT;
	/* Not unrolled: it would keep all words on the stack, which has no room for them on 5.10. */
#pragma clang loop unroll(disable)
	for (i = 0; i < SKEP_BLOCK_WORDS; i++) {
		__u64 all = a->words[i] & b->words[i] & c->words[i];

		if (all)
			return i * 64 + lowest_bit(all);
	}
	return SKEP_BLOCK_BITS;
}

static __always_inline __u32 block_of(const struct row *row, __u32 block)
{
	return row->first + count_bits(row->blocks & ((1U << block) - 1));
}

/* First bit set in all rows at or after block from; NO_BIT or BAD_BIT otherwise. */
static __always_inline __u32 match_rows(const struct row *peer, const struct row *port, const struct row *view, __u32 from)
{
	__u32 both = peer->blocks & port->blocks & view->blocks & (from < SKEP_MAX_BLOCKS ? ~0U << from : 0);
	int i;

#pragma clang loop unroll(disable)
	for (i = 0; i < SKEP_MAX_BLOCKS; i++) {
		__u32 block, bit;

		if (!both)
			break;
		block = lowest_bit(both) & (SKEP_MAX_BLOCKS - 1);
		both &= both - 1;
		bit = skep_match_block(block_of(peer, block), block_of(port, block), block_of(view, block));
		if (bit == BAD_BIT)
			return BAD_BIT;
		if (bit < SKEP_BLOCK_BITS)
			return block * SKEP_BLOCK_BITS + bit;
	}
	return NO_BIT;
}

static __always_inline struct address *address_of(const struct addr *addr)
{
	return bpf_map_lookup_elem(&skep_addr, addr);
}

/* The class of an address that has none of its own. */
__noinline __u32 skep_class_by_prefix(__u64 hi, __u64 lo)
{
	struct cidr_key key = { .prefix = 128 };
	struct state *state;
	__u32 zero = 0, *class;

	state = bpf_map_lookup_elem(&skep_state, &zero);
	if (!state || !(state->flags & STATE_HAS_CIDR))
		return SKEP_CLASS_NONE;
	addr_set(&key.addr, hi, lo);
	class = bpf_map_lookup_elem(&skep_cidr, &key);
	return class ? *class : SKEP_CLASS_NONE;
}

/* The class of an address, local to this node. known is its entry, if it has one. */
static __always_inline __u32 class_of(const struct address *known, const struct addr *addr)
{
	/* Class and flags by one load, as they are stored. */
	__u64 both = known ? *(const volatile __u64 *)&known->class : 0;

	if (both >> 32 & ADDRESS_CLASS)
		return (__u32)both;
	return skep_class_by_prefix(addr_hi(addr), addr_lo(addr));
}

/* How many of a node's starts are at or before a service: differences' signs are added up. The compiler would turn them back into the
 * branches that this avoids: a processor guesses them wrong, and the 5.10 verifier takes 162,000 instructions to follow them. */
static __always_inline __u32 starts_before(const struct port_node *node, __u32 service)
{
	__u64 minus = 0;
	int i;

#pragma clang loop unroll(full)
	for (i = 0; i < SKEP_PORT_WAYS; i++) {
		__s64 after = (__s64)node->start[i] - (__s64)service - 1;

		asm volatile("" : "+r"(after));
		minus += after >> 63;
	}
	return -minus;
}

/* The span that a service lies in: the last that starts at or before it. NULL when the index is not whole. */
static __always_inline struct port_span *span_of(const struct set *set, __u32 service)
{
	__u32 node_at = 0, span_at = 0;
	struct port_span *span;
	int i;

#pragma clang loop unroll(disable)
	for (i = 0; i < SKEP_PORT_LEVELS; i++) {
		__u32 at = set->first_node + node_at, way;
		struct port_node *node;

		if (i == set->levels)
			break;
		node = bpf_map_lookup_elem(&skep_port_index, &at);
		if (!node || !node->present)
			return NULL;
		way = starts_before(node, service) - 1;
		node_at = node_at * SKEP_PORT_WAYS + 1 + way;
		span_at = span_at * SKEP_PORT_WAYS + way;
	}
	span_at += set->first_port;
	span = bpf_map_lookup_elem(&skep_port, &span_at);
	return span && span->present && span->start <= service ? span : NULL;
}

/*
 * What a set decides: for each view the index in skep_rule of the rule that does, the enforced one below. An error has its reason below
 * and DECISION_ERROR.
 */
typedef __u64 decision;

#define DECISION_ERROR (1ULL << 63)

static __always_inline __u32 decision_rule(decision d, enum view view)
{
	return view == VIEW_WOULD_BE ? d >> 32 : (__u32)d;
}

static __always_inline struct rule *rule_at(__u32 index)
{
	struct rule *rule = bpf_map_lookup_elem(&skep_rule, &index);

	return rule && rule->flags & RULE_PRESENT ? rule : NULL;
}

/* A row as one scalar. */
static __always_inline __u64 row_pack(const struct row *row)
{
	return (__u64)row->blocks << 32 | row->first;
}

static __always_inline struct row row_unpack(__u64 packed)
{
	struct row row = { .first = (__u32)packed, .blocks = packed >> 32 };

	return row;
}

/* The index of the first rule of a view that is in both rows and does not pass on. An error has DECISION_ERROR. */
__noinline __u64 skep_decide(__u32 id, __u64 peer_row, __u64 port_row, __u32 view)
{
	struct set *set = bpf_map_lookup_elem(&skep_set, &id);
	struct row peer = row_unpack(peer_row), port = row_unpack(port_row), in_view;
	__u32 from = 0;
	int tier;

	if (!set)
		return DECISION_ERROR | SKEP_REASON_ERROR_SET;
	/* Where the views do not differ, all rules are in both: the peers' row is matched with itself. */
	in_view = peer;
	if (set->flags & SET_AUDIT)
		in_view = view == VIEW_WOULD_BE ? set->views[VIEW_WOULD_BE] : set->views[VIEW_ENFORCED];
#pragma clang loop unroll(disable)
	for (tier = 0; tier < TIERS; tier++) {
		__u32 bit = match_rows(&peer, &port, &in_view, from), index;
		struct rule *rule;

		if (bit == BAD_BIT)
			return DECISION_ERROR | SKEP_REASON_ERROR_ROW;
		if (bit == NO_BIT)
			break;
		index = set->first_rule + bit;
		rule = rule_at(index);
		if (!rule)
			return DECISION_ERROR | SKEP_REASON_ERROR_RULE;
		if (rule->action != ACTION_PASS)
			return index;
		from = rule->next_block;
	}
	return set->first_rule + set->rules + view;
}

/*
 * What a set says about peers of a class, in both views by the same look-ups. service is protocol << 16 | port in host order. Nothing is
 * counted. Set and class belong together, see judged_peer.
 */
__noinline __u64 skep_judge(__u32 id, __u32 class, __u32 service)
{
	struct peer_key peer_key = { .set = id, .class = class };
	struct set *set = bpf_map_lookup_elem(&skep_set, &id);
	struct row *peer, *port;
	decision enforced, would;

	if (!set || !(set->flags & SET_COMPLETE))
		return DECISION_ERROR | SKEP_REASON_ERROR_SET;
	if (class > set->complete_class)
		return DECISION_ERROR | SKEP_REASON_ERROR_CLASS;
	if (!set->rules)
		return (__u64)(set->first_rule + (set->flags & SET_AUDIT ? VIEW_WOULD_BE : VIEW_ENFORCED)) << 32 | set->first_rule;
	peer = bpf_map_lookup_elem(&skep_peer, &peer_key);
	if (!peer && class != SKEP_CLASS_NONE) {
		peer_key.class = SKEP_CLASS_NONE;
		peer = bpf_map_lookup_elem(&skep_peer, &peer_key);
	}
	if (!peer)
		return DECISION_ERROR | SKEP_REASON_ERROR_ROW;
	/* Without ports in the rules every port is in all of them: the peers' row is matched with itself. */
	port = peer;
	if (set->flags & SET_HAS_PORTS && peer->blocks) {
		struct port_span *span = span_of(set, service);

		if (!span)
			return DECISION_ERROR | SKEP_REASON_ERROR_ROW;
		port = &span->row;
	}
	enforced = skep_decide(id, row_pack(peer), row_pack(port), VIEW_ENFORCED);
	would = enforced;
	if (set->flags & SET_AUDIT && !(enforced & DECISION_ERROR))
		would = skep_decide(id, row_pack(peer), row_pack(port), VIEW_WOULD_BE);
	return would & DECISION_ERROR ? would : would << 32 | enforced;
}

#endif
