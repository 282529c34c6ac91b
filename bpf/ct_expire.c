// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Deletes flows that user space found old. Attached nowhere: user space runs it on a made-up packet that holds the requests. Each
 * entry is looked at once more here, so that one that came to life since is kept; from user space the check and the deletion
 * would be two calls with packets between them.
 */
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

#include "skep/maps.h"

enum {
	EXPIRE_BATCH = 64, /* requests in one packet; a test run takes at most about a page */
};

SEC("tc")
int skep_ct_expire(struct __sk_buff *skb)
{
	__u32 slot = CT_SLOT_CURRENT, off = ETH_HLEN, deleted = 0;
	void *table = bpf_map_lookup_elem(&skep_ct, &slot);
	int i;

	if (!table)
		return 0;
#pragma clang loop unroll(disable)
	for (i = 0; i < EXPIRE_BATCH; i++) {
		struct ct_expire request;
		struct ct_entry *entry;

		if (bpf_skb_load_bytes(skb, off, &request, sizeof(request)))
			break;
		off += sizeof(request);
		entry = bpf_map_lookup_elem(table, &request.key);
		if (entry && entry->last_seen == request.last_seen && !bpf_map_delete_elem(table, &request.key))
			deleted++;
	}
	return deleted;
}

char _license[] SEC("license") = "Dual BSD/GPL";
