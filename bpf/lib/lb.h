/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* From a Service's address to one of its backends, for sockets and packets alike. */
#ifndef SKEP_LIB_LB_H
#define SKEP_LIB_LB_H

#include "addr.h"
#include "skep/config.h"
#include "skep/maps.h"

#define SKEP_NS_PER_S 1000000000ULL

/* Spares most packets the look-up: Services live in a prefix of each family. */
static __always_inline bool lb_may_be_service(const struct addr *a)
{
	if (addr_is4(a))
		return (addr_lo(a) & skep_service4[1]) == skep_service4[0];
	return (addr_hi(a) & skep_service6[2]) == skep_service6[0] && (addr_lo(a) & skep_service6[3]) == skep_service6[1];
}

/* Reads what is said of a frontend, all of it at once; false when nothing is. */
static __always_inline bool lb_service(const struct addr *addr, __be16 port, __u8 proto, struct service *to)
{
	struct service_key key = { .addr = *addr, .port = port, .proto = proto };
	const volatile struct service *service = bpf_map_lookup_elem(&skep_service, &key);
	__u64 list;

	if (!service)
		return false;
	list = *(const volatile __u64 *)&service->backends;
	to->backends = (__u32)list;
	to->count = list >> 32;
	to->affinity_seconds = service->affinity_seconds;
	to->id = service->id;
	return true;
}

static __always_inline bool lb_affine(const struct service *service, struct affinity_key *key, struct backend *to,
				      __u64 now)
{
	struct affinity *known = bpf_map_lookup_elem(&skep_affinity, key);

	if (!known || now - known->last_used > service->affinity_seconds * SKEP_NS_PER_S)
		return false;
	known->last_used = now;
	*to = known->backend;
	return true;
}

/* Chooses a backend of a service that has some by a word that is as good as random; client is what affinity goes by. False when
 * the lists contradict. */
static __always_inline bool lb_choose(const struct service *service, const struct addr *client, __u32 word,
				      struct backend *to)
{
	struct backend_key key = { .backends = service->backends };
	struct affinity_key who = { .service = service->id };
	struct backend *backend;
	__u32 count = service->count;
	__u64 now = 0;

	if (service->affinity_seconds) {
		now = bpf_ktime_get_ns();
		who.client = *client;
		if (lb_affine(service, &who, to, now))
			return true;
	}
	/* Scaling the word down instead of taking a remainder is as even and needs no check for zero. */
	key.slot = ((__u64)word * count) >> 32;
	backend = bpf_map_lookup_elem(&skep_backend, &key);
	if (!backend)
		return false;
	*to = *backend;
	if (service->affinity_seconds) {
		struct affinity fresh = { .last_used = now, .backend = *backend };

		bpf_map_update_elem(&skep_affinity, &who, &fresh, BPF_ANY);
	}
	return true;
}

#endif
