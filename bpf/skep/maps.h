/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Every map. Sizes here are defaults; the loader sets those that the configuration names. */
#ifndef SKEP_MAPS_H
#define SKEP_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "types.h"
#include "reasons.h"

#define SKEP_HASH(name, key_type, value_type, entries)     \
	struct {                                           \
		__uint(type, BPF_MAP_TYPE_HASH);           \
		__uint(max_entries, entries);              \
		__uint(map_flags, BPF_F_NO_PREALLOC);      \
		__type(key, key_type);                     \
		__type(value, value_type);                 \
	} name SEC(".maps")

#define SKEP_LRU(name, key_type, value_type, entries)      \
	struct {                                           \
		__uint(type, BPF_MAP_TYPE_LRU_HASH);       \
		__uint(max_entries, entries);              \
		__type(key, key_type);                     \
		__type(value, value_type);                 \
	} name SEC(".maps")

#define SKEP_LPM(name, key_type, value_type, entries)      \
	struct {                                           \
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);       \
		__uint(max_entries, entries);              \
		__uint(map_flags, BPF_F_NO_PREALLOC);      \
		__type(key, key_type);                     \
		__type(value, value_type);                 \
	} name SEC(".maps")

#define SKEP_ARRAY(name, value_type, entries)              \
	struct {                                           \
		__uint(type, BPF_MAP_TYPE_ARRAY);          \
		__uint(max_entries, entries);              \
		__type(key, __u32);                        \
		__type(value, value_type);                 \
	} name SEC(".maps")

#define SKEP_PERCPU_ARRAY(name, value_type, entries)       \
	struct {                                           \
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);   \
		__uint(max_entries, entries);              \
		__type(key, __u32);                        \
		__type(value, value_type);                 \
	} name SEC(".maps")

/* Endpoints, by host-side ifindex. */
SKEP_HASH(skep_endpoint, __u32, struct endpoint, 4096);
SKEP_HASH(skep_ep_name, __u32, struct endpoint_name, 4096);
/* Addresses of the cluster's pods that some policy tells apart, and of all pods of this node. */
SKEP_HASH(skep_addr, struct addr, struct address, 270336);
/* Addresses of nodes: enum node_flag. */
SKEP_HASH(skep_node, struct addr, __u32, 16384);

/* Policy: address -> class, then (set, class) and (set, port) -> rows, then (set, bit) -> rule. What is no pod finds its class by
 * prefix. */
SKEP_ARRAY(skep_state, struct state, 1);
SKEP_LPM(skep_cidr, struct cidr_key, __u32, 65536);
SKEP_ARRAY(skep_set, struct set, 8192);
SKEP_HASH(skep_peer, struct peer_key, struct row, 1048576);
SKEP_ARRAY(skep_port, struct port_span, 262144);
SKEP_ARRAY(skep_port_index, struct port_node, 32768);
SKEP_ARRAY(skep_rule, struct rule, 131072);
SKEP_ARRAY(skep_block, struct block, 131072);
/* Counters lie where rules say; skep_rule_slot finds them again by the rule's number, for user space only. */
SKEP_PERCPU_ARRAY(skep_rule_count, struct rule_count, 16384);
SKEP_HASH(skep_rule_slot, __u32, struct rule_slot, 16384);

/* What user space hears at once, and how many events found no room: those are lost as events, counters have them. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} skep_events SEC(".maps");
SKEP_PERCPU_ARRAY(skep_events_lost, __u64, 1);

/* Packets by reason. */
SKEP_PERCPU_ARRAY(skep_metric, struct metric, SKEP_REASON_COUNT);

/*
 * Flows. Eviction of the LRU is only approximately oldest-first. Slot 0 takes new entries; slot 1 is empty except while
 * the table is being replaced by one of another size or layout, when entries are moved over as they are used.
 */
enum ct_slot {
	CT_SLOT_CURRENT = 0,
	CT_SLOT_PREVIOUS = 1,
	CT_SLOTS = 2,
};

struct skep_ct_table {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__type(key, struct ct_key);
	__type(value, struct ct_entry);
};

struct skep_ct_table skep_ct_first SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, CT_SLOTS);
	__type(key, __u32);
	__array(values, struct skep_ct_table);
} skep_ct SEC(".maps") = {
	.values = { [CT_SLOT_CURRENT] = &skep_ct_first },
};

/* Where a program puts a new entry together: the stack has no room for it below the policy's frames. */
SKEP_PERCPU_ARRAY(skep_scratch, struct ct_entry, 1);
SKEP_PERCPU_ARRAY(skep_packet, struct packet, 1);

SKEP_LRU(skep_frag, struct frag_key, struct frag_ports, 8192);

/* Services: frontend -> list number and length -> backends. */
SKEP_HASH(skep_service, struct service_key, struct service, 65536);
SKEP_HASH(skep_backend, struct backend_key, struct backend, 262144);
SKEP_LRU(skep_affinity, struct affinity_key, struct affinity, 65536);
SKEP_LRU(skep_origin, struct origin_key, struct origin, 65536);

#endif
