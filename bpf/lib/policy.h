/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Policy by rule bit-vectors. The class of the peer's address gives one row of bits (rules whose peers include it), protocol
 * and port another (rules whose ports include them); the first bit set in both is the rule that decides.
 *
 * The steps are global functions with scalar arguments: each is verified once, where inlining everything takes the 5.10
 * verifier 864,000 instructions. 5.10 counts each frame of a call chain in steps of 32 bytes towards the 512 of the stack.
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

/* A number whose 64 windows of six bits are all different: multiplied by a power of two, its upper six bits tell which. */
#define BIT_WINDOWS 0x03f79d71b4cb0a89ULL

static const __u8 bit_of_window[64] = {
	0, 1, 48, 2, 57, 49, 28, 3, 61, 58, 50, 42, 38, 29, 17, 4,
	62, 55, 59, 36, 53, 51, 43, 22, 45, 39, 33, 30, 24, 18, 12, 5,
	63, 47, 56, 27, 60, 41, 37, 16, 54, 35, 52, 21, 44, 32, 23, 11,
	46, 26, 40, 15, 34, 20, 31, 10, 25, 14, 19, 9, 13, 8, 7, 6,
};

/* Index of the lowest set bit of a word that is not zero: 5.10 has no instruction for that. */
static __always_inline __u32 lowest_bit(__u64 word)
{
	return bit_of_window[((word & -word) * BIT_WINDOWS) >> 58];
}

static __always_inline __u32 count_bits(__u32 x)
{
	x = x - ((x >> 1) & 0x55555555);
	x = (x & 0x33333333) + ((x >> 2) & 0x33333333);
	x = (x + (x >> 4)) & 0x0f0f0f0f;
	return (x * 0x01010101) >> 24;
}

static __always_inline __u32 block_of(const struct row *row, __u32 block)
{
	return row->first + count_bits(row->blocks & ((1U << block) - 1));
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

enum {
	NO_BIT = SKEP_BLOCK_BITS,
	BAD_BIT = NO_BIT + 1,
};

/* First bit set in a block of all three rows; NO_BIT if none, BAD_BIT if the block is missing. */
static __always_inline __u32 match_block(const struct row *peer, const struct row *port, const struct row *view, __u32 block)
{
	__u32 at_peer = block_of(peer, block), at_port = block_of(port, block), at_view = block_of(view, block);
	struct block *a = bpf_map_lookup_elem(&skep_block, &at_peer);
	struct block *b = bpf_map_lookup_elem(&skep_block, &at_port);
	struct block *c = bpf_map_lookup_elem(&skep_block, &at_view);
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
	return NO_BIT;
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
static __always_inline decision decide_in(const struct set *set, const struct row *peer, const struct row *port, enum view view)
{
	/* Where the views do not differ, all rules are in both: the peers' row is matched with itself. */
	struct row in_view = set->flags & SET_AUDIT ? set->views[view] : *peer;
	__u32 common = peer->blocks & port->blocks & in_view.blocks;
	int i;

#pragma clang loop unroll(disable)
	for (i = 0; i < SKEP_MAX_BLOCKS; i++) {
		__u32 block, bit, index;
		struct rule *rule;

		if (!common)
			break;
		block = lowest_bit(common) & (SKEP_MAX_BLOCKS - 1);
		common &= common - 1;
		bit = match_block(peer, port, &in_view, block);
		if (bit == BAD_BIT)
			return DECISION_ERROR | SKEP_REASON_ERROR_ROW;
		if (bit == NO_BIT)
			continue;
		index = set->first_rule + block * SKEP_BLOCK_BITS + bit;
		rule = rule_at(index);
		if (!rule)
			return DECISION_ERROR | SKEP_REASON_ERROR_RULE;
		if (rule->action != ACTION_PASS)
			return index;
		common &= rule->next_block < SKEP_MAX_BLOCKS ? ~0U << rule->next_block : 0;
	}
	return set->first_rule + set->rules + view;
}

/* What a set decides about what is in two of its rows. Global, so that the verifier does not walk it once for each way in which the rows
 * were found. */
__noinline __u64 skep_decide(__u32 id, __u64 peer_row, __u64 port_row)
{
	struct row peer = row_unpack(peer_row), port = row_unpack(port_row);
	struct set *set = bpf_map_lookup_elem(&skep_set, &id);
	decision both = 0, one = 0;
	__u32 view;

	if (!set)
		return DECISION_ERROR | SKEP_REASON_ERROR_SET;
	/* A loop, so that the verifier sees one walk. Without audit the second view is the first. */
#pragma clang loop unroll(disable)
	for (view = VIEW_ENFORCED; view < SKEP_VIEWS; view++) {
		if (view == VIEW_ENFORCED || set->flags & SET_AUDIT)
			one = decide_in(set, &peer, &port, view);
		if (one & DECISION_ERROR)
			return one;
		both |= one << 32 * view;
	}
	return both;
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
	return skep_decide(id, row_pack(peer), row_pack(port));
}

#endif
