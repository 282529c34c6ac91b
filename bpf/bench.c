// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Programs that are only measured, never attached.
 *
 *   skep_bench_reference  the yardstick: parses IPv4 and does one LRU look-up and update, with a key and an entry of our size
 *   skep_bench_first      from-pod with a new source port in every run, so that each run sees the first packet of a flow
 *   skep_bench_to         to-pod for what comes from elsewhere, where a test run cannot say by which device (5.10)
 */
#include "tc_pod.c"

SKEP_LRU(skep_bench_lru, struct ct_key, struct ct_entry, 131072);

SEC("tc")
int skep_bench_reference(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = data + ETH_HLEN;
	struct ports *ports = data + ETH_HLEN + sizeof(*ip);
	struct ct_entry *entry, fresh = {};
	struct ct_key key = {};

	if ((void *)(ports + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP) || ip->ihl != 5)
		return TC_ACT_SHOT;
	addr_set4(&key.a, ip->saddr);
	addr_set4(&key.b, ip->daddr);
	key.port_a = ports->source;
	key.port_b = ports->dest;
	key.proto = ip->protocol;
	entry = bpf_map_lookup_elem(&skep_bench_lru, &key);
	if (!entry) {
		fresh.last_seen = bpf_ktime_get_ns();
		bpf_map_update_elem(&skep_bench_lru, &key, &fresh, BPF_ANY);
		return TC_ACT_OK;
	}
	entry->last_seen = bpf_ktime_get_ns();
	__sync_fetch_and_add(&entry->packets[0], 1);
	__sync_fetch_and_add(&entry->bytes[0], skb->len);
	return TC_ACT_OK;
}

/* The port of the run before, host order. */
__u32 skep_bench_port = 1024;

SEC("tc")
int skep_bench_first(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ports *ports = data + ETH_HLEN + sizeof(struct iphdr);

	if ((void *)(ports + 1) > end)
		return TC_ACT_SHOT;
	ports->source = bpf_htons(++skep_bench_port);
	return handle_from_pod(skb);
}

SEC("tc")
int skep_bench_to(struct __sk_buff *skb)
{
	return handle_to_pod(skb, false);
}
