// SPDX-License-Identifier: Apache-2.0
//
// Choosing the endpoint of a Service when a process connects over TCP, before there is a packet: the
// connection goes to the Pod directly, nothing is translated. What these programs do not know, they
// let through unchanged, and the rules in nftables treat it as they treat everybody's packets. So
// every doubt ends in "let through".
//
// Addresses are 16 bytes in network order, IPv4 mapped (::ffff:a.b.c.d), as a socket of either family
// may reach an IPv4 Service. The layout of the maps is that of layout.go.
//
// No helper used here asks for a GPL program (Linux 5.9).

#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ALLOW 1
#define DENY 0
#define TRIES 3 // an update may come between two reads; more than once is rare

#define SOCK_STREAM 1 // of the C library's headers
#define NS_PER_S 1000000000ULL

struct address {
	__be32 ip[4];
	__be16 port;
	__u16 zero;
};

// service is where a frontend leads. Its first field repeats the key: since Linux 6.1 the memory of a
// removed element may hold another one before its readers are done. The key is written first and read
// last, so an element that changed under a reader is seen as another's.
struct service {
	struct address frontend;
	__u32 affinity; // seconds; 0: none
	__u64 group;    // frontends that share their clients' affinity
	__u32 pool;     // whose endpoints
	__u32 count;    // of endpoints; 0: refuse
};

struct slot {
	__u32 pool, number;
};

// endpoint repeats its key for the reason given at service.
struct endpoint {
	struct slot at;
	struct address address;
	__u32 zero;
};

struct member {
	struct address address;
	__u32 pool;
};

struct client {
	__u64 netns; // cookie; a Pod is a network namespace
	__u64 group;
};

struct sticky {
	__u64 last; // use, by the monotonic clock, in ns
	struct address endpoint;
	__u32 zero;
};

struct origin {
	struct address frontend, endpoint;
};

// The sizes of the first three are given when they are made; programs and maps are replaced together
// when one of them gets too small.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct address);
	__type(value, struct service);
} services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct slot);
	__type(value, struct endpoint);
} endpoints SEC(".maps");

// members tells whether an address is an endpoint of a pool; only pools with affinity have any.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct member);
	__type(value, __u32);
} members SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, struct client);
	__type(value, struct sticky);
} affinity SEC(".maps");

// origins remembers what a socket asked for, by the socket's cookie, which no other ever has. It is
// written when the socket connects and removed when it is closed, so no socket pushes another one
// out. A full table costs the next ones their peer's name, not their connection. Elements are made
// beforehand: memory of the socket itself (BPF_MAP_TYPE_SK_STORAGE) needs no removal, but has to be
// allocated twice, which takes three times as long.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct origin);
} origins SEC(".maps");

enum outcome {
	BALANCED,
	REFUSED,
	UNSURE,
	UNNAMED, // balanced, and getpeername tells the endpoint
	OUTCOMES
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OUTCOMES);
	__type(key, __u32);
	__type(value, __u64);
} outcomes SEC(".maps");

// can_refuse says that the kernel has bpf_set_retval (Linux 5.18). Without it a frontend without
// endpoints is left to nftables, which answers with a reset.
const volatile __u32 can_refuse = 0;

static __always_inline void count(__u32 outcome)
{
	__u64 *n = bpf_map_lookup_elem(&outcomes, &outcome);
	if (n)
		*n += 1;
}

static __always_inline int same(const volatile struct address *a, const struct address *b)
{
	return a->ip[0] == b->ip[0] && a->ip[1] == b->ip[1] && a->ip[2] == b->ip[2] && a->ip[3] == b->ip[3] &&
	       a->port == b->port;
}

static __always_inline int chosen_before(const struct service *s, const struct client *c, __u64 now, struct address *to)
{
	struct sticky *st = bpf_map_lookup_elem(&affinity, c);
	if (!st || st->last + s->affinity * NS_PER_S <= now)
		return 0;
	struct member m = {.address = st->endpoint, .pool = s->pool};
	if (!bpf_map_lookup_elem(&members, &m))
		return 0;
	st->last = now;
	*to = m.address;
	return 1;
}

static __always_inline int choose(const struct service *s, struct address *to)
{
	struct slot at = {.pool = s->pool, .number = bpf_get_prandom_u32() % s->count};
	volatile struct endpoint *e = bpf_map_lookup_elem(&endpoints, &at);
	if (!e)
		return 0;
	to->ip[0] = e->address.ip[0];
	to->ip[1] = e->address.ip[1];
	to->ip[2] = e->address.ip[2];
	to->ip[3] = e->address.ip[3];
	to->port = e->address.port;
	to->zero = 0;
	return e->at.pool == at.pool && e->at.number == at.number;
}

static __always_inline int pick(struct bpf_sock_addr *ctx, const struct service *s, struct address *to)
{
	if (!s->affinity)
		return choose(s, to);
	struct client c = {.netns = bpf_get_netns_cookie(ctx), .group = s->group};
	__u64 now = bpf_ktime_get_ns();
	if (chosen_before(s, &c, now, to))
		return 1;
	if (!choose(s, to))
		return 0;
	struct sticky st = {.last = now, .endpoint = *to};
	bpf_map_update_elem(&affinity, &c, &st, BPF_ANY);
	return 1;
}

enum answer { UNKNOWN, FOUND, CHANGED };

// find reads the service of a frontend, and whether what was read belongs together.
static __always_inline enum answer find(const struct address *frontend, struct service *s)
{
	volatile struct service *found = bpf_map_lookup_elem(&services, frontend);
	if (!found)
		return UNKNOWN;
	s->pool = found->pool;
	s->count = found->count;
	s->group = found->group;
	s->affinity = found->affinity;
	return same(&found->frontend, frontend) ? FOUND : CHANGED;
}

static __always_inline long remember(struct bpf_sock_addr *ctx, const struct address *frontend, const struct address *to)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct origin o = {.frontend = *frontend, .endpoint = *to};
	return bpf_map_update_elem(&origins, &cookie, &o, BPF_ANY);
}

static __always_inline int refuse(void)
{
	if (!can_refuse)
		return ALLOW;
	count(REFUSED);
	bpf_set_retval(-ECONNREFUSED);
	return DENY;
}

// balance writes where to connect and returns ALLOW, or returns DENY. An unchanged `to` means that
// the connection is let through as it is.
static __always_inline int balance(struct bpf_sock_addr *ctx, const struct address *frontend, struct address *to)
{
	struct service s = {};
#pragma clang loop unroll(disable)
	for (int i = 0; i < TRIES; i++) {
		enum answer a = find(frontend, &s);
		if (a == UNKNOWN)
			return ALLOW;
		if (a == FOUND && !s.count)
			return refuse();
		if (a == FOUND && pick(ctx, &s, to)) {
			count(remember(ctx, frontend, to) ? UNNAMED : BALANCED);
			return ALLOW;
		}
		*to = *frontend;
	}
	count(UNSURE);
	return ALLOW;
}

static __always_inline const struct origin *recall(struct bpf_sock_addr *ctx, const struct address *peer)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct origin *o = bpf_map_lookup_elem(&origins, &cookie);
	// A socket may be connected anew, elsewhere.
	return o && same(&o->endpoint, peer) ? o : 0;
}

#define IS_TCP(ctx) ((ctx)->type == SOCK_STREAM && (ctx)->protocol == IPPROTO_TCP)

static __always_inline struct address address4(const struct bpf_sock_addr *ctx)
{
	struct address a = {.ip = {0, 0, bpf_htonl(0xffff), ctx->user_ip4}, .port = ctx->user_port};
	return a;
}

static __always_inline struct address address6(const struct bpf_sock_addr *ctx)
{
	struct address a = {
		.ip = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]},
		.port = ctx->user_port,
	};
	return a;
}

static __always_inline void put4(struct bpf_sock_addr *ctx, const struct address *a)
{
	ctx->user_ip4 = a->ip[3];
	ctx->user_port = a->port;
}

static __always_inline void put6(struct bpf_sock_addr *ctx, const struct address *a)
{
	ctx->user_ip6[0] = a->ip[0];
	ctx->user_ip6[1] = a->ip[1];
	ctx->user_ip6[2] = a->ip[2];
	ctx->user_ip6[3] = a->ip[3];
	ctx->user_port = a->port;
}

SEC("cgroup/connect4")
int weft_connect4(struct bpf_sock_addr *ctx)
{
	if (!IS_TCP(ctx))
		return ALLOW;
	struct address frontend = address4(ctx), to = frontend;
	if (balance(ctx, &frontend, &to) == DENY)
		return DENY;
	if (!same(&to, &frontend))
		put4(ctx, &to);
	return ALLOW;
}

SEC("cgroup/connect6")
int weft_connect6(struct bpf_sock_addr *ctx)
{
	if (!IS_TCP(ctx))
		return ALLOW;
	struct address frontend = address6(ctx), to = frontend;
	if (balance(ctx, &frontend, &to) == DENY)
		return DENY;
	if (!same(&to, &frontend))
		put6(ctx, &to);
	return ALLOW;
}

SEC("cgroup/getpeername4")
int weft_peername4(struct bpf_sock_addr *ctx)
{
	if (!IS_TCP(ctx))
		return ALLOW;
	struct address peer = address4(ctx);
	const struct origin *o = recall(ctx, &peer);
	if (o)
		put4(ctx, &o->frontend);
	return ALLOW;
}

SEC("cgroup/getpeername6")
int weft_peername6(struct bpf_sock_addr *ctx)
{
	if (!IS_TCP(ctx))
		return ALLOW;
	struct address peer = address6(ctx);
	const struct origin *o = recall(ctx, &peer);
	if (o)
		put6(ctx, &o->frontend);
	return ALLOW;
}

// The last of a socket: after it, nobody can ask for its peer any more.
SEC("cgroup/sock_release")
int weft_release(struct bpf_sock *ctx)
{
	if (!IS_TCP(ctx))
		return ALLOW;
	__u64 cookie = bpf_get_socket_cookie(ctx);
	// Most have nothing here, and removing takes a lock where looking takes none.
	if (bpf_map_lookup_elem(&origins, &cookie))
		bpf_map_delete_elem(&origins, &cookie);
	return ALLOW;
}

char licence[] SEC("license") = "Apache-2.0";
