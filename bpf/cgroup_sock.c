// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Socket-level load balancing: a Service address becomes a backend's once per connection, or per datagram of an unconnected
 * socket, and never again on the way.
 *
 *   connect4/6      Service -> backend; which Service it was is kept by the socket's cookie
 *   sendmsg4/6      the same for datagrams of unconnected UDP sockets
 *   recvmsg4/6      backend -> Service in the sender's address of a datagram
 *   getpeername4/6  backend -> Service in the peer's address
 *
 * An AF_INET6 socket that talks to a v4-mapped address is an IPv4 one: in the one address form the look-ups are the same.
 */
#include <asm/errno.h>
#include <linux/in.h>

#include "lib/lb.h"

enum {
	SOCK_DENY = 0, /* the call fails, with EPERM unless bpf_set_retval said otherwise */
	SOCK_ALLOW = 1,
};

/* The address that a socket call names, in the one form. */
struct sock_to {
	struct addr addr;
	__be16 port;
	__u8 proto;
} __attribute__((aligned(8)));

static __always_inline void sock_to4(struct bpf_sock_addr *ctx, struct sock_to *to)
{
	addr_set4(&to->addr, ctx->user_ip4);
	to->port = ctx->user_port;
	to->proto = ctx->protocol;
}

static __always_inline void sock_to6(struct bpf_sock_addr *ctx, struct sock_to *to)
{
	to->addr.w[0] = ctx->user_ip6[0];
	to->addr.w[1] = ctx->user_ip6[1];
	to->addr.w[2] = ctx->user_ip6[2];
	to->addr.w[3] = ctx->user_ip6[3];
	to->port = ctx->user_port;
	to->proto = ctx->protocol;
}

static __always_inline void sock_set4(struct bpf_sock_addr *ctx, const struct addr *addr, __be16 port)
{
	ctx->user_ip4 = addr->w[3];
	ctx->user_port = port;
}

static __always_inline void sock_set6(struct bpf_sock_addr *ctx, const struct addr *addr, __be16 port)
{
	ctx->user_ip6[0] = addr->w[0];
	ctx->user_ip6[1] = addr->w[1];
	ctx->user_ip6[2] = addr->w[2];
	ctx->user_ip6[3] = addr->w[3];
	ctx->user_port = port;
}

static __always_inline bool sock_balanced(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP;
}

/*
 * A Service without backends. Refusing with EPERM is all that a program can do before 5.18, so connect is sent to port 0 of the
 * caller's own loopback, where nothing can listen: TCP is refused at once, UDP with the first datagram.
 */
static __always_inline int sock_refuse(void)
{
	if (skep_has_set_retval)
		bpf_set_retval(-ECONNREFUSED);
	return SOCK_DENY;
}

enum sock_choice {
	SOCK_NO_SERVICE = 0,
	SOCK_REFUSE = 1,
	SOCK_BACKEND = 2,
};

/*
 * What a backend is chosen by. Datagrams of one unconnected socket belong together (QUIC, DTLS), so the socket decides: its
 * cookie, stirred because cookies are counted up.
 */
static __always_inline __u32 sock_word(__u8 proto, __u64 cookie)
{
	if (proto == IPPROTO_TCP)
		return bpf_get_prandom_u32();
	cookie ^= cookie >> 33;
	cookie *= 0xff51afd7ed558ccdULL;
	cookie ^= cookie >> 33;
	cookie *= 0xc4ceb9fe1a85ec53ULL;
	return cookie >> 32;
}

/* Chooses a backend and keeps what was asked for. */
static __always_inline enum sock_choice sock_choose(struct bpf_sock_addr *ctx, struct sock_to *to,
						    struct backend *backend)
{
	struct origin_key key = {};
	struct origin origin = {};
	struct addr client = {};
	struct service service;
	struct origin *known;

	if (!sock_balanced(to->proto) || !lb_may_be_service(&to->addr))
		return SOCK_NO_SERVICE;
	if (!lb_service(&to->addr, to->port, to->proto, &service))
		return SOCK_NO_SERVICE;
	if (!service.count)
		return SOCK_REFUSE;
	if (service.affinity_seconds)
		addr_set(&client, 0, bpf_get_netns_cookie(ctx));
	key.cookie = bpf_get_socket_cookie(ctx);
	if (!lb_choose(&service, &client, sock_word(to->proto, key.cookie), backend))
		return SOCK_REFUSE;
	key.backend = backend->addr;
	key.port = backend->port;
	key.proto = to->proto;
	origin.addr = to->addr;
	origin.port = to->port;
	origin.service = service.id;
	/* With each datagram the same: to write it again would be to replace it under whoever receives. */
	known = bpf_map_lookup_elem(&skep_origin, &key);
	if (!known || !addr_equal(&known->addr, &origin.addr) || known->port != origin.port || known->service != origin.service)
		bpf_map_update_elem(&skep_origin, &key, &origin, BPF_ANY);
	return SOCK_BACKEND;
}

/* What the socket asked for when it was given this peer. */
static __always_inline struct origin *sock_origin(struct bpf_sock_addr *ctx, const struct sock_to *peer)
{
	struct origin_key key = {};

	if (!sock_balanced(peer->proto))
		return NULL;
	key.cookie = bpf_get_socket_cookie(ctx);
	key.backend = peer->addr;
	key.port = peer->port;
	key.proto = peer->proto;
	return bpf_map_lookup_elem(&skep_origin, &key);
}

SEC("cgroup/connect4")
int skep_connect4(struct bpf_sock_addr *ctx)
{
	struct addr nowhere = { .w = { [3] = bpf_htonl(0x7f000001) } };
	struct backend backend;
	struct sock_to to = {};

	sock_to4(ctx, &to);
	switch (sock_choose(ctx, &to, &backend)) {
	case SOCK_REFUSE:
		if (skep_has_set_retval)
			return sock_refuse();
		sock_set4(ctx, &nowhere, 0);
		break;
	case SOCK_BACKEND:
		sock_set4(ctx, &backend.addr, backend.port);
		break;
	case SOCK_NO_SERVICE:
		break;
	}
	return SOCK_ALLOW;
}

SEC("cgroup/connect6")
int skep_connect6(struct bpf_sock_addr *ctx)
{
	struct addr nowhere = { .w = { [3] = bpf_htonl(1) } };
	struct backend backend;
	struct sock_to to = {};

	sock_to6(ctx, &to);
	switch (sock_choose(ctx, &to, &backend)) {
	case SOCK_REFUSE:
		if (skep_has_set_retval)
			return sock_refuse();
		if (addr_is4(&to.addr))
			addr_set4(&nowhere, bpf_htonl(0x7f000001));
		sock_set6(ctx, &nowhere, 0);
		break;
	case SOCK_BACKEND:
		sock_set6(ctx, &backend.addr, backend.port);
		break;
	case SOCK_NO_SERVICE:
		break;
	}
	return SOCK_ALLOW;
}

SEC("cgroup/sendmsg4")
int skep_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct backend backend;
	struct sock_to to = {};
	enum sock_choice choice;

	sock_to4(ctx, &to);
	choice = sock_choose(ctx, &to, &backend);
	if (choice == SOCK_REFUSE)
		return sock_refuse();
	if (choice == SOCK_BACKEND)
		sock_set4(ctx, &backend.addr, backend.port);
	return SOCK_ALLOW;
}

SEC("cgroup/sendmsg6")
int skep_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct backend backend;
	struct sock_to to = {};
	enum sock_choice choice;

	sock_to6(ctx, &to);
	choice = sock_choose(ctx, &to, &backend);
	if (choice == SOCK_REFUSE)
		return sock_refuse();
	if (choice == SOCK_BACKEND)
		sock_set6(ctx, &backend.addr, backend.port);
	return SOCK_ALLOW;
}

static __always_inline int sock_restore4(struct bpf_sock_addr *ctx)
{
	struct sock_to peer = {};
	struct origin *origin;

	sock_to4(ctx, &peer);
	origin = sock_origin(ctx, &peer);
	if (origin)
		sock_set4(ctx, &origin->addr, origin->port);
	return SOCK_ALLOW;
}

static __always_inline int sock_restore6(struct bpf_sock_addr *ctx)
{
	struct sock_to peer = {};
	struct origin *origin;

	sock_to6(ctx, &peer);
	origin = sock_origin(ctx, &peer);
	if (origin)
		sock_set6(ctx, &origin->addr, origin->port);
	return SOCK_ALLOW;
}

SEC("cgroup/recvmsg4")
int skep_recvmsg4(struct bpf_sock_addr *ctx)
{
	return sock_restore4(ctx);
}

SEC("cgroup/recvmsg6")
int skep_recvmsg6(struct bpf_sock_addr *ctx)
{
	return sock_restore6(ctx);
}

SEC("cgroup/getpeername4")
int skep_peername4(struct bpf_sock_addr *ctx)
{
	return sock_restore4(ctx);
}

SEC("cgroup/getpeername6")
int skep_peername6(struct bpf_sock_addr *ctx)
{
	return sock_restore6(ctx);
}

char _license[] SEC("license") = "Dual BSD/GPL";
