/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Why a packet was dropped or handed on. Append only: numbers are in pinned counters and in stored flow records. Names
 * reach user space through BTF: SKEP_REASON_NO_POLICY is counted as "no_policy".
 */
#ifndef SKEP_REASONS_H
#define SKEP_REASONS_H

enum reason {
	/* Handed on. */
	SKEP_REASON_NONE = 0,
	SKEP_REASON_TO_LOCAL = 1, /* redirected into a pod of this node */
	SKEP_REASON_TO_STACK = 2, /* left to the kernel's routing */
	SKEP_REASON_TO_POD = 3, /* arrived through the stack and let in */
	SKEP_REASON_FROM_NODE = 4, /* originated by this node, always let in */
	SKEP_REASON_ALREADY_JUDGED = 5, /* carries the mark of the sender's side */
	SKEP_REASON_NEIGHBOUR = 6, /* ARP, neighbour discovery, MLD: outside policy */
	SKEP_REASON_RELATED = 7, /* ICMP error of a known flow */
	SKEP_REASON_UPLINK = 8, /* came in by the uplink, left to routing */

	/* Dropped. Everything from SKEP_REASON_FIRST_DROP on is a drop. */
	SKEP_REASON_FIRST_DROP = 32,
	SKEP_REASON_NO_ENDPOINT = 32, /* the device belongs to no known pod */
	SKEP_REASON_NO_POLICY = 33, /* the pod has no policy yet */
	SKEP_REASON_POLICY_EGRESS = 34, /* the initiator's egress policy */
	SKEP_REASON_POLICY_INGRESS = 35, /* the responder's ingress policy */
	SKEP_REASON_MIDFLOW_DENIED = 36, /* TCP without SYN and without entry, judged as its own direction and denied */
	SKEP_REASON_ESTABLISHED_DENIED = 37, /* admitted once, forbidden by a later policy */
	SKEP_REASON_SPOOFED_IPV4 = 38,
	SKEP_REASON_SPOOFED_IPV6 = 39,
	SKEP_REASON_SPOOFED_ARP = 40,
	SKEP_REASON_SPOOFED_ND = 41,
	SKEP_REASON_ROUTER_MESSAGE = 42, /* router advertisement or redirect from a pod */
	SKEP_REASON_DHCP_SERVER = 43, /* DHCP server's reply from a pod */
	SKEP_REASON_SPOOFED_UPLINK = 44, /* source on the uplink is a pod of this node or the node itself */
	SKEP_REASON_MALFORMED = 45, /* too short, or lengths that contradict each other */
	SKEP_REASON_L2_PROTOCOL = 46, /* neither IPv4, IPv6 nor ARP, or VLAN-tagged */
	SKEP_REASON_V4_MAPPED = 47, /* a v4-mapped address in an IPv6 header */
	SKEP_REASON_EXTENSION_HEADERS = 48, /* more than we look through */
	SKEP_REASON_FRAGMENT_UNKNOWN = 49, /* a later fragment whose first was not seen */
	SKEP_REASON_ICMP_NO_FLOW = 50, /* ICMP error or echo reply that belongs to no known flow */
	SKEP_REASON_NO_BACKEND = 51, /* Service without backends */
	SKEP_REASON_SERVICE_TUPLE = 52, /* a translated flow and a direct one share a tuple */
	SKEP_REASON_REWRITE = 53, /* the kernel refused to rewrite the packet */
	SKEP_REASON_CT_FULL = 54, /* no entry could be made */
	SKEP_REASON_SCTP_PORT = 55, /* SCTP to a Service whose target port differs, not balanced by the socket */
	SKEP_REASON_SERVICE_MIDFLOW = 56, /* TCP without SYN to a Service, of no known flow */

	/* Internal errors: never "no rule", always a drop. */
	SKEP_REASON_ERROR_SET = 60, /* the set is missing or incomplete */
	SKEP_REASON_ERROR_CLASS = 61, /* the class is newer than the set */
	SKEP_REASON_ERROR_ROW = 62, /* a row or block that must exist is missing */
	SKEP_REASON_ERROR_RULE = 63, /* the deciding bit has no rule */
	SKEP_REASON_ERROR_MAP = 64, /* a map that must exist is missing */

	SKEP_REASON_COUNT = 96, /* size of the counter array */
};

#endif
