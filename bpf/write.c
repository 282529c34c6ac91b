// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Changes entries where they are. Attached nowhere: user space runs a program on a made-up packet that holds the requests.
 *
 * An update from user space replaces a hash's entry. Who has looked the old one up goes on to hold it, while the kernel gives its memory
 * to the next entry that is made: at once, since 6.1 or with preallocation. Whoever holds it then reads what is said of somebody else.
 *
 *   skep_write_address   skep_addr: all of an entry
 *   skep_write_endpoint  skep_endpoint: what policy says in it
 *   skep_write_service   skep_service: all but the number that names it
 *
 * Each returns how many of the entries were there.
 */
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <stddef.h>

#include "skep/maps.h"

enum {
	WRITE_BATCH = 64, /* requests in one packet; a test run takes at most about a page */
};

/* Two words of an entry by one store. */
static __always_inline void store_pair(__u32 *words, __u32 first, __u32 second)
{
	*(volatile __u64 *)words = (__u64)second << 32 | first;
}

_Static_assert(offsetof(struct address, class) % 8 == 0 && offsetof(struct address, flags) == offsetof(struct address, class) + 4, "one store");
_Static_assert(offsetof(struct endpoint, ingress_set) % 8 == 0 && offsetof(struct endpoint, egress_set) == offsetof(struct endpoint, ingress_set) + 4, "one store");
_Static_assert(offsetof(struct service, backends) % 8 == 0 && offsetof(struct service, count) == offsetof(struct service, backends) + 4, "one store");
_Static_assert(offsetof(struct endpoint, flags) % 8 == 0 && offsetof(struct endpoint, class4) == offsetof(struct endpoint, flags) + 4, "one store");

SEC("tc")
int skep_write_address(struct __sk_buff *skb)
{
	__u32 off = ETH_HLEN, written = 0;
	int i;

#pragma clang loop unroll(disable)
	for (i = 0; i < WRITE_BATCH; i++) {
		struct address_change change;
		volatile struct address *entry;

		if (bpf_skb_load_bytes(skb, off, &change, sizeof(change)))
			break;
		off += sizeof(change);
		entry = bpf_map_lookup_elem(&skep_addr, &change.addr);
		if (!entry)
			continue;
		store_pair((__u32 *)&entry->class, change.to.class, change.to.flags);
		/* The way to another pod is never half of each: there is none while it changes. */
		if (entry->ifindex != change.to.ifindex)
			entry->ifindex = 0;
		entry->macs[0] = change.to.macs[0];
		entry->macs[1] = change.to.macs[1];
		entry->macs[2] = change.to.macs[2];
		entry->ifindex = change.to.ifindex;
		written++;
	}
	return written;
}

SEC("tc")
int skep_write_endpoint(struct __sk_buff *skb)
{
	__u32 off = ETH_HLEN, written = 0;
	int i;

#pragma clang loop unroll(disable)
	for (i = 0; i < WRITE_BATCH; i++) {
		struct endpoint_change change;
		struct endpoint *entry;

		if (bpf_skb_load_bytes(skb, off, &change, sizeof(change)))
			break;
		off += sizeof(change);
		entry = bpf_map_lookup_elem(&skep_endpoint, &change.ifindex);
		if (!entry)
			continue;
		store_pair(&entry->ingress_set, change.ingress_set, change.egress_set);
		*(volatile __u32 *)&entry->class6 = change.class6;
		/* The flags say that the rest is valid. */
		store_pair(&entry->flags, change.flags, change.class4);
		written++;
	}
	return written;
}

SEC("tc")
int skep_write_service(struct __sk_buff *skb)
{
	__u32 off = ETH_HLEN, written = 0;
	int i;

#pragma clang loop unroll(disable)
	for (i = 0; i < WRITE_BATCH; i++) {
		struct service_change change;
		struct service *entry;

		if (bpf_skb_load_bytes(skb, off, &change, sizeof(change)))
			break;
		off += sizeof(change);
		entry = bpf_map_lookup_elem(&skep_service, &change.frontend);
		if (!entry)
			continue;
		store_pair(&entry->backends, change.to.backends, change.to.count);
		*(volatile __u32 *)&entry->affinity_seconds = change.to.affinity_seconds;
		written++;
	}
	return written;
}

char _license[] SEC("license") = "Dual BSD/GPL";
