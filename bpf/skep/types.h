/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Every struct and enum that crosses into user space. Go gets them by generation from the BTF of layout.c, so nothing here is
 * repeated by hand anywhere. Sizes are asserted; padding is named and zero.
 */
#ifndef SKEP_TYPES_H
#define SKEP_TYPES_H

#include <linux/types.h>

enum {
	SKEP_BLOCK_WORDS = 8,
	SKEP_BLOCK_BITS = 64 * SKEP_BLOCK_WORDS,
	/* One summary bit per block: 32 blocks are 16,384 rules in a set. */
	SKEP_MAX_BLOCKS = 32,
	/* How many ways a node of the port index leads, and how deep it can be: 15^5 is more than all ports of three protocols. */
	SKEP_PORT_WAYS = 15,
	SKEP_PORT_LEVELS = 5,
	SKEP_MAC_LEN = 6,
};

/* An address in network byte order; IPv4 is v4-mapped (::ffff:a.b.c.d). */
struct addr {
	__be32 w[4];
};
_Static_assert(sizeof(struct addr) == 16, "addr");

/* ---- endpoints ---------------------------------------------------------------------------------------------------- */

enum endpoint_flag {
	/* The two set numbers are valid. Without it all traffic is dropped. */
	ENDPOINT_POLICY = 1,
	/* The class of the address is valid; otherwise the prefix decides. */
	ENDPOINT_CLASS4 = 2,
	ENDPOINT_CLASS6 = 4,
};

/* A local pod, keyed by its host-side ifindex. Policy changes for a pod by one store into this entry. */
struct endpoint {
	struct addr addr4; /* zero when the pod has no IPv4 address */
	struct addr addr6; /* zero when the pod has no IPv6 address */
	/* From here to class6 user space changes the entry in place: the sets by one store, flags and class4 by another. */
	__u32 ingress_set;
	__u32 egress_set;
	__u32 flags; /* enum endpoint_flag */
	__u32 class4; /* of addr4 and addr6, as in their entries: spares the receiver's judgement a look-up */
	__u32 class6;
	__u8 mac[SKEP_MAC_LEN];
	__u8 host_mac[SKEP_MAC_LEN];
};
_Static_assert(sizeof(struct endpoint) == 64, "endpoint");

enum {
	SKEP_NAME_LEN = 256,
	SKEP_LABEL_LEN = 64,
	SKEP_IFNAME_LEN = 16,
};

/* What user space must find again after a restart; no program reads it. Strings end with NUL. */
struct endpoint_name {
	__u8 id[SKEP_LABEL_LEN];
	__u8 namespace[SKEP_LABEL_LEN];
	__u8 name[SKEP_NAME_LEN];
	__u8 ifname[SKEP_IFNAME_LEN];
};
_Static_assert(sizeof(struct endpoint_name) == 400, "endpoint_name");

enum address_flag {
	/* The class is valid; otherwise the longest prefix decides. */
	ADDRESS_CLASS = 1,
	/* Deliver through the device's egress path (a bandwidth limit sits there), not by redirection. */
	ADDRESS_NO_REDIRECT = 2,
};

/* What is known of an address: its class, and the way to it if a pod of this node has it. User space changes it in place: class and
 * flags by one store, and the ifindex after the rest of the way is written. */
struct address {
	__u32 class; /* among the policy's */
	__u32 flags; /* enum address_flag */
	__u32 ifindex; /* host-side device; 0 when no pod of this node has the address */
	__u32 macs[2 * SKEP_MAC_LEN / 4]; /* as a frame to the pod begins: its hardware address, then the host-side device's */
};
_Static_assert(sizeof(struct address) == 24, "address");

/* Requests to change an entry in place. */
struct address_change {
	struct addr addr;
	struct address to;
};
_Static_assert(sizeof(struct address_change) == 40, "address_change");

struct endpoint_change {
	__u32 ifindex;
	__u32 ingress_set; /* from here on as in struct endpoint */
	__u32 egress_set;
	__u32 flags;
	__u32 class4;
	__u32 class6;
};
_Static_assert(sizeof(struct endpoint_change) == 24, "endpoint_change");

enum node_flag {
	NODE_SELF = 1,
};

/* ---- policy ------------------------------------------------------------------------------------------------------- */

/* Class 0 is the class of addresses that no atom covers. */
enum {
	SKEP_CLASS_NONE = 0,
};

enum state_flag {
	/* skep_cidr is not empty. */
	STATE_HAS_CIDR = 1,
};

/* The one entry of skep_state. */
struct state {
	__u32 generation; /* of policy: entries judged under another one are judged again */
	__u32 flags; /* enum state_flag */
	__u32 next_class; /* numbers that user space hands out next; never reused */
	__u32 next_backends;
	__u32 next_service;
	__u32 flips; /* odd while addresses and endpoints change over to another policy */
};
_Static_assert(sizeof(struct state) == 24, "state");

struct cidr_key {
	__u32 prefix; /* in bits of the 128-bit form */
	struct addr addr;
};
_Static_assert(sizeof(struct cidr_key) == 20, "cidr_key");

/*
 * A row is a bit-vector over the rules of a set, stored sparsely: bit i of blocks says that block i is present, and the
 * present blocks lie one after the other in skep_block from index first.
 */
struct row {
	__u32 first;
	__u32 blocks;
};
_Static_assert(sizeof(struct row) == 8, "row");

struct block {
	__u64 words[SKEP_BLOCK_WORDS]; /* host order, rule i is bit i % 64 of word i / 64 */
};
_Static_assert(sizeof(struct block) == 64, "block");

enum set_flag {
	/* All rows of the set are in place. */
	SET_COMPLETE = 1,
	/* Some rule names ports: look for a port row. */
	SET_HAS_PORTS = 2,
	/* Some policy is in audit mode: the two views differ. */
	SET_AUDIT = 4,
};

enum action {
	ACTION_ALLOW = 0,
	ACTION_DENY = 1,
	/* Go on with the first rule of the next tier. */
	ACTION_PASS = 2,
};

/* A set gives two answers about a packet, by the same rows: each leaves out the rules that are not in its view. */
enum view {
	VIEW_ENFORCED = 0, /* without the policies in audit mode: what happens */
	VIEW_WOULD_BE = 1, /* as if those were enforced too */
	SKEP_VIEWS = 2,
};

struct set {
	__u32 flags; /* enum set_flag; written last */
	/* Rows exist for every class up to this one that shares an atom with the set. A later class is not known here yet. */
	__u32 complete_class;
	/* The rule of bit 0 in skep_rule; the others follow. Behind the last one stands for each view what decides when no rule did. */
	__u32 first_rule;
	__u32 rules; /* how many there are without those defaults; without any the defaults decide */
	__u32 first_port; /* the set's first span in skep_port, the others follow in order */
	__u32 ports;
	__u32 first_node; /* the root of the spans' index in skep_port_index, the other nodes follow */
	__u32 levels;
	struct row views[SKEP_VIEWS]; /* by enum view: the rules in it; with SET_AUDIT only */
};
_Static_assert(sizeof(struct set) == 48, "set");

/* Row of the rules whose peers include a class. Class SKEP_CLASS_NONE is always present. */
struct peer_key {
	__u32 set;
	__u32 class;
};
_Static_assert(sizeof(struct peer_key) == 8, "peer_key");

/*
 * A stretch of services, protocol << 16 | destination port in host order, from start to the next span's start, and the row of the
 * rules whose ports include them. The spans of a set cover everything: its first one starts at 0.
 */
struct port_span {
	__u32 start;
	struct row row;
	__u32 present; /* 1 */
};
_Static_assert(sizeof(struct port_span) == 16, "port_span");

/*
 * A node of the index over a set's spans; a cache line. It holds the starts of the first span below each of its ways. Way i of node n,
 * counted from the root, leads to node n * SKEP_PORT_WAYS + 1 + i, and on the last level to a span.
 */
struct port_node {
	__u32 present; /* 1 */
	__u32 start[SKEP_PORT_WAYS]; /* ascending; all ones where nothing is below */
};
_Static_assert(sizeof(struct port_node) == 64, "port_node");

enum rule_flag {
	/* An unused bit has an entry of zeros. */
	RULE_PRESENT = 1,
	/* The rule is in the would-be view alone: what it would decide is counted for it, though it decides nothing. */
	RULE_AUDIT = 2,
};

struct rule {
	__u32 id; /* for attribution; never reused */
	__u16 counter; /* index in skep_rule_count; 0 counts nothing */
	__u8 action; /* enum action */
	__u8 flags; /* enum rule_flag */
	__u32 next_block; /* where the next tier starts, for ACTION_PASS; tiers start at a block */
};
_Static_assert(sizeof(struct rule) == 12, "rule");

/* What one rule decided, or would have. */
struct rule_count {
	__u64 connections; /* when opened, or when judged again and another rule had decided before */
	__u64 packets; /* of those connections, in both directions */
	__u64 bytes;
	/* Connections about which the rule would have decided otherwise than was decided. */
	__u64 would_deny;
	__u64 would_allow;
};
_Static_assert(sizeof(struct rule_count) == 40, "rule_count");

/* Where a rule is counted, for user space only. */
struct rule_slot {
	__u64 since; /* ns since 1970: when the counters were at 0 */
	__u32 slot; /* index in skep_rule_count */
	__u32 zero;
};
_Static_assert(sizeof(struct rule_slot) == 16, "rule_slot");

struct metric {
	__u64 packets;
	__u64 bytes;
};
_Static_assert(sizeof(struct metric) == 16, "metric");

enum direction {
	SKEP_INGRESS = 0,
	SKEP_EGRESS = 1,
};

/* ---- connection tracking ------------------------------------------------------------------------------------------ */

/*
 * The two ends of a flow after translation, ordered so that both directions find one entry: a is the end that compares
 * lower as native words, hi then lo then port. ICMP echo has the identifier as port of the asking end and 0 as that of the
 * answering end.
 */
struct ct_key {
	struct addr a;
	struct addr b;
	__be16 port_a;
	__be16 port_b;
	__u8 proto;
	__u8 zero[3];
} __attribute__((aligned(8)));
_Static_assert(sizeof(struct ct_key) == 40, "ct_key");

enum ct_flag {
	/* The initiator is end b. */
	CT_FROM_B = 1,
	/* The initiator is a process of this node: its packets always pass. */
	CT_FROM_NODE = 2,
	/* The initiator addressed nat:nat_port; replies are given that source. */
	CT_SERVICE = 4,
	/* Not a flow: under the tuple before translation, nat:nat_port is the backend chosen. */
	CT_INDEX = 8,
	/* A later policy forbids the flow. Kept so that replies are not taken for a flow of their own. */
	CT_DENIED = 16,
	/* The first packet seen was not one that opens a connection. */
	CT_MIDFLOW = 32,
	/* With the policies in audit mode the answer would be the other one, by direction of policy. */
	CT_WOULD_DIFFER_INGRESS = 64,
	CT_WOULD_DIFFER_EGRESS = 128,
	/* Those that judging sets. */
	CT_JUDGED = CT_DENIED | CT_WOULD_DIFFER_INGRESS | CT_WOULD_DIFFER_EGRESS,
};

/* What one side's policy said about a flow. */
struct ct_side {
	__u32 rule; /* that decided; 0 when this node owes no such check, or nothing did */
	__u32 would_rule; /* that would decide with the policies in audit mode; 0 when it is the same */
	/* Where their packets are counted: index in skep_rule_count, 0 nowhere. Good for the entry's generation. */
	__u16 counter;
	__u16 would_counter;
};
_Static_assert(sizeof(struct ct_side) == 12, "ct_side");

enum ct_tcp {
	CT_TCP_SYN = 1,
	CT_TCP_REPLIED = 2, /* also set for other protocols */
	CT_TCP_FIN_FORWARD = 4,
	CT_TCP_FIN_BACK = 8,
	CT_TCP_RST = 16,
	CT_TCP_ESTABLISHED = 32, /* the initiator acknowledged the answer */
};

struct ct_entry {
	__u64 last_seen; /* ns, CLOCK_MONOTONIC */
	__u64 created;
	__u64 packets[2]; /* [0] from the initiator, [1] to it */
	__u64 bytes[2];
	struct addr nat;
	__be16 nat_port;
	__u8 flags; /* enum ct_flag */
	__u8 tcp; /* enum ct_tcp */
	__u32 generation; /* of the policy that admitted the flow */
	struct ct_side sides[2]; /* by enum direction: the responder's ingress set, the initiator's egress set */
};
_Static_assert(sizeof(struct ct_entry) == 96, "ct_entry");

/* One request to the sweeper: delete if nobody touched the entry since last_seen was read. */
struct ct_expire {
	struct ct_key key;
	__u64 last_seen;
};
_Static_assert(sizeof(struct ct_expire) == 48, "ct_expire");

/* What the programs know about a packet. For ICMP errors src and dst are those of the reported flow's reply direction. */
struct packet {
	struct addr src;
	struct addr dst;
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 tcp_flags;
	__u8 flags; /* enum packet_flag in lib/packet.h */
	__u8 icmp_type;
	__u16 l4; /* offset of the transport header */
	__be16 ethertype;
	__u32 len; /* of the whole frame */
	__be32 fragment_id; /* valid when fragment is not 0 */
	__u8 fragment; /* enum packet_fragment in lib/packet.h */
	__u8 zero[3];
	__u32 flips; /* those of skep_state before the sender was looked up; odd when that is not known */
} __attribute__((aligned(8)));
_Static_assert(sizeof(struct packet) == 64, "packet");

struct frag_key {
	struct addr src;
	struct addr dst;
	__be32 id;
	__u8 proto;
	__u8 zero[3];
} __attribute__((aligned(8)));
_Static_assert(sizeof(struct frag_key) == 40, "frag_key");

struct frag_ports {
	__be16 sport;
	__be16 dport;
};
_Static_assert(sizeof(struct frag_ports) == 4, "frag_ports");

/* ---- events -------------------------------------------------------------------------------------------------------- */

enum event_type {
	/* A connection about which the policies in audit mode would decide otherwise. */
	EVENT_AUDIT = 1,
};

struct event {
	__u64 time; /* ns, CLOCK_MONOTONIC */
	struct addr src; /* the initiator */
	struct addr dst; /* the responder, after translation */
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 type; /* enum event_type */
	__u8 direction; /* enum direction: whose policy it is about */
	__u8 would; /* enum action: what would be decided */
	__u32 rule; /* that decided */
	__u32 would_rule; /* that would decide */
};
_Static_assert(sizeof(struct event) == 56, "event");

/* ---- services ----------------------------------------------------------------------------------------------------- */

struct service_key {
	struct addr addr;
	__be16 port;
	__u8 proto;
	__u8 zero;
};
_Static_assert(sizeof(struct service_key) == 20, "service_key");

/* User space changes it in place, list and count by one store. */
struct service {
	__u32 backends; /* list number in skep_backend; a changed list has a new number */
	__u32 count; /* 0: refuse */
	__u32 affinity_seconds; /* 0: none */
	__u32 id; /* stable while the frontend exists; names it in skep_affinity */
};
_Static_assert(sizeof(struct service) == 16, "service");

/* A request to do so. */
struct service_change {
	struct service_key frontend;
	struct service to;
};
_Static_assert(sizeof(struct service_change) == 36, "service_change");

struct backend_key {
	__u32 backends;
	__u32 slot;
};
_Static_assert(sizeof(struct backend_key) == 8, "backend_key");

struct backend {
	struct addr addr;
	__be16 port;
	__u16 zero;
};
_Static_assert(sizeof(struct backend) == 20, "backend");

struct affinity_key {
	struct addr client; /* an address, or a network namespace's cookie in the last two words */
	__u32 service;
};
_Static_assert(sizeof(struct affinity_key) == 20, "affinity_key");

struct affinity {
	__u64 last_used; /* ns, CLOCK_MONOTONIC */
	struct backend backend;
	__u32 zero;
};
_Static_assert(sizeof(struct affinity) == 32, "affinity");

/* Which address a socket asked for when it was given a backend. */
struct origin_key {
	__u64 cookie;
	struct addr backend;
	__be16 port;
	__u8 proto;
	__u8 zero[5];
};
_Static_assert(sizeof(struct origin_key) == 32, "origin_key");

struct origin {
	struct addr addr;
	__be16 port;
	__u16 zero;
	__u32 service;
};
_Static_assert(sizeof(struct origin) == 24, "origin");

/* ---- questions ---------------------------------------------------------------------------------------------------- */

enum check_flag {
	/* The source is a pod of this node: its egress policy was asked. */
	CHECK_EGRESS = 1,
	/* The destination is one: its ingress policy was asked. */
	CHECK_INGRESS = 2,
	/* An address is said to be a pod's of this node, but there is no such pod. */
	CHECK_NO_ENDPOINT = 4,
};

/* What one side's policy says. */
struct check_side {
	__u32 reason; /* enum reason; SKEP_REASON_NONE allows */
	__u32 rule;
	/* The same in the other view. */
	__u32 would_reason;
	__u32 would_rule;
};

/* A question to skep_tc_check about the first packet of a connection; from generation on it is the answer. */
struct check {
	struct addr src;
	struct addr dst;
	__u32 service; /* protocol << 16 | destination port in host order */
	__u32 generation; /* of policy, read before the look-ups */
	__u32 flags; /* enum check_flag */
	struct check_side egress;
	struct check_side ingress;
};
_Static_assert(sizeof(struct check) == 76, "check");

#endif
