/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Addresses in the one 128-bit form. */
#ifndef SKEP_LIB_ADDR_H
#define SKEP_LIB_ADDR_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "skep/types.h"

#define SKEP_V4_MAPPED bpf_htonl(0xffff)

static __always_inline __u64 addr_hi(const struct addr *a)
{
	return (__u64)a->w[1] << 32 | a->w[0];
}

static __always_inline __u64 addr_lo(const struct addr *a)
{
	return (__u64)a->w[3] << 32 | a->w[2];
}

static __always_inline void addr_set(struct addr *a, __u64 hi, __u64 lo)
{
	a->w[0] = (__u32)hi;
	a->w[1] = hi >> 32;
	a->w[2] = (__u32)lo;
	a->w[3] = lo >> 32;
}

static __always_inline void addr_set4(struct addr *a, __be32 v4)
{
	a->w[0] = 0;
	a->w[1] = 0;
	a->w[2] = SKEP_V4_MAPPED;
	a->w[3] = v4;
}

static __always_inline bool addr_is4(const struct addr *a)
{
	return addr_hi(a) == 0 && a->w[2] == SKEP_V4_MAPPED;
}

static __always_inline bool addr_equal(const struct addr *a, const struct addr *b)
{
	return addr_hi(a) == addr_hi(b) && addr_lo(a) == addr_lo(b);
}

static __always_inline bool addr_is_zero(const struct addr *a)
{
	return (addr_hi(a) | addr_lo(a)) == 0;
}

static __always_inline bool addr_is_link_local6(const struct addr *a)
{
	return (a->w[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static __always_inline bool addr_is_multicast6(const struct addr *a)
{
	return (a->w[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

#endif
