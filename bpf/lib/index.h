/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The index of translated flows: it names a flow's backend under the tuple that the initiator addresses. Without it the next packet
 * would be balanced like the first and reach another backend.
 *
 * Global functions on packet_scratch(), verified once however many paths lead to them.
 */
#ifndef SKEP_LIB_INDEX_H
#define SKEP_LIB_INDEX_H

#include "ct.h"
#include "lb.h"

enum {
	INDEX_SEARCH = 64, /* backends that are asked for a flow that has lost its index */
};

/* Enters the backend of the packet's flow, which addressed the Service hi, lo, port. A reply keeps the entry alive, and makes it again
 * if the table has evicted it: an initiator that only listens would lose it. 0, or -1 when it could not be made. */
__noinline int skep_index(__u64 hi, __u64 lo, __u32 port, __u32 reply)
{
	struct packet *p = packet_scratch();
	struct ct_entry *entry;
	struct addr service;
	struct ct_key key;
	bool client_is_a;

	if (!p)
		return -1;
	addr_set(&service, hi, lo);
	if (reply) {
		client_is_a = ct_key_of(&key, &p->dst, &service, p->dport, port, p->proto);
		entry = ct_lookup(&key);
		if (entry) {
			entry->last_seen = clock_ns();
			return 0;
		}
	} else {
		client_is_a = ct_key_of(&key, &p->src, &service, p->sport, port, p->proto);
	}
	entry = ct_scratch();
	if (!entry)
		return -1;
	entry->created = entry->last_seen = clock_ns();
	entry->nat = reply ? p->src : p->dst;
	entry->nat_port = reply ? p->sport : p->dport;
	entry->flags = CT_INDEX | (client_is_a ? 0 : CT_FROM_B);
	return ct_insert(&key, entry) ? -1 : 0;
}

/* Whether the packet's flow was translated to one backend of a list: 1, 0, or -1 behind the end of the list. */
__noinline int skep_flow_is_to(__u32 backends, __u32 slot)
{
	struct backend_key backend_key = { .backends = backends, .slot = slot };
	struct backend *backend = bpf_map_lookup_elem(&skep_backend, &backend_key);
	struct packet *p = packet_scratch();
	struct ct_entry *entry;
	struct ct_key key;
	bool src_is_a;

	if (!p || !backend)
		return -1;
	src_is_a = ct_key_of(&key, &p->src, &backend->addr, p->sport, backend->port, p->proto);
	entry = ct_lookup(&key);
	return entry && entry->flags & CT_SERVICE && ct_from_initiator(entry, src_is_a) && addr_equal(&entry->nat, &p->dst) &&
	       entry->nat_port == p->dport;
}

/* The slot of the backend, among the first ones of a list, to which the packet's flow was translated; INDEX_SEARCH if there is none. */
static __always_inline __u32 find_backend(__u32 backends)
{
	__u32 slot;

#pragma clang loop unroll(disable)
	for (slot = 0; slot < INDEX_SEARCH; slot++) {
		int found = skep_flow_is_to(backends, slot);

		if (found)
			return found > 0 ? slot : INDEX_SEARCH;
	}
	return INDEX_SEARCH;
}

#endif
