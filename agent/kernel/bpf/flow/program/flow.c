// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// A fast path for the packets of established connections between two Pods of this node: from the host
// end of one Pod's link straight into the other Pod, past routing and the rules, as a flow table of
// netfilter does it. What decides is the node's own connection tracking: the ordinary way has let the
// connection come to be, and whoever ends it or marks it there ends it here.
//
// Every doubt ends in "the ordinary way", which is also where all packets go that change what
// connection tracking knows: the first ones, the last ones, and one now and then, so that an entry in
// use never ages.
//
// The kernel answers programs about TCP and UDP only, so ICMP echoes go by notes: a second program, at the
// end of the ordinary way, writes down for a moment which echo between which Pods has come through.
//
// Addresses are 16 bytes in network order, IPv4 mapped (::ffff:a.b.c.d). The layout of the maps is that
// of flows.go.
//
// The kernel lets programs look into connection tracking only under a licence compatible with the GPL
// (Linux 5.18).

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ORDINARY_WAY -1 // TC_ACT_UNSPEC

#define PACKET_HOST 0
#define DONT_FRAGMENT 0x4000

// The kernel's connection tracking, as far as it is read; where the fields are comes from its BTF.
enum {
	SEEN_REPLY = 1 << 1,
	ASSURED = 1 << 2,
	CONFIRMED = 1 << 3,
	SRC_NAT = 1 << 4,
	DST_NAT = 1 << 5,
	SEQ_ADJUST = 1 << 6,
	DYING = 1 << 9,
	NAT_CLASH = 1 << 12,
	HELPER = 1 << 13,
	OFFLOAD = 1 << 14,
	HW_OFFLOAD = 1 << 15,
};
#define NEEDED (SEEN_REPLY | CONFIRMED)
#define REFUSED (SRC_NAT | DST_NAT | SEQ_ADJUST | DYING | NAT_CLASH | HELPER | OFFLOAD | HW_OFFLOAD)
#define TCP_ESTABLISHED 3
#define CT_INFO 7UL   // what else is in the packet's pointer to its entry: of which side it is
#define CT_IS_REPLY 3 // and above: the other one's

// Echoes of ICMP (RFC 792) and of ICMPv6 (RFC 4443), whose headers are alike.
enum { ECHO_REPLY = 0, ECHO_REQUEST = 8, ECHO6_REQUEST = 128, ECHO6_REPLY = 129 };

struct echohdr {
	__u8 type, code;
	__sum16 checksum;
	__be16 id, sequence;
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct ip_ct_tcp {
	__u8 state;
};
union nf_conntrack_proto {
	struct ip_ct_tcp tcp;
};
struct nf_conntrack_zone {
	__u16 id;
};
union nf_inet_addr {
	__be32 all[4];
};
struct nf_conntrack_man {
	union nf_inet_addr u3;
};
struct nf_conntrack_tuple {
	struct nf_conntrack_man src;
	struct {
		union nf_inet_addr u3;
	} dst;
};
struct nf_conntrack_tuple_hash {
	struct nf_conntrack_tuple tuple;
};
struct nf_conn {
	struct nf_conntrack_zone zone; // only in kernels with zones
	struct nf_conntrack_tuple_hash tuplehash[2];
	__u32 timeout; // jiffies at which it ends
	unsigned long status;
	__u32 mark;
	union nf_conntrack_proto proto;
};
struct sk_buff {
	unsigned long _nfct;
};
#pragma clang attribute pop

struct bpf_ct_opts {
	__s32 netns_id;
	__s32 error;
	__u8 l4proto;
	__u8 dir;
	__u8 reserved[2];
};

extern struct nf_conn *bpf_skb_ct_lookup(struct __sk_buff *skb, struct bpf_sock_tuple *tuple, __u32 tuple_size,
					 struct bpf_ct_opts *opts, __u32 opts_size) __ksym;
extern void bpf_ct_release(struct nf_conn *ct) __ksym;
extern void *bpf_cast_to_kern_ctx(void *skb) __ksym; // Linux 6.2

struct address {
	__be32 ip[4];
};

// pod is where an address is. Its first field repeats the key: since Linux 6.1 the memory of a removed
// element may hold another one before its readers are done. The key is written first and read last.
struct pod {
	struct address address;
	__u32 link; // the host end
	__u32 mtu;
};

// pods holds the addresses of the Pods whose packets may take the fast path.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct address);
	__type(value, struct pod);
} pods SEC(".maps");

// echo is one direction of an exchange of echoes.
struct echo {
	struct address from, to;
	__be16 id;
	__u8 type, unused;
};

// note says that the ordinary way let an echo through. It repeats its key as pod does: an element that made room
// for another is used again at once.
struct note {
	struct echo echo;
	__u32 generation;
	__u64 until; // jiffies
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct echo);
	__type(value, struct note);
} echoes SEC(".maps");

// The notes of other generations are void. The agent changes it after what echoes depend on: policies, and who has an address.
volatile __u32 generation = 0;

// valid_echo is for how long a note holds, in jiffies. Its use does not renew it, so that the ordinary way sees an
// exchange that goes on now and then. 0: no echo takes the fast path.
volatile __u32 valid_echo = 0;

enum outcome { FAST, ORDINARY, OUTCOMES };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OUTCOMES);
	__type(key, __u32);
	__type(value, __u64);
} outcomes SEC(".maps");

// An entry with less time to live than this, in jiffies, needs a packet on the ordinary way to renew
// it. 0: no such connection takes the fast path. A stream is UDP that has been going on for a while.
volatile __u32 fresh_tcp = 0;
volatile __u32 fresh_udp = 0;
volatile __u32 fresh_udp_stream = 0;

// packet is what was read of one, and who it is between.
struct packet {
	struct address from, to;
	struct bpf_sock_tuple tuple; // of TCP and UDP
	__u32 headers;               // of network and transport, in bytes
	__be16 id;                   // of an echo, as is its type
	__u8 type;
	__u8 protocol;
};

static __always_inline void count(__u32 outcome)
{
	__u64 *n = bpf_map_lookup_elem(&outcomes, &outcome);
	if (n)
		*n += 1;
}

static __always_inline int same(const volatile struct address *a, const struct address *b)
{
	return a->ip[0] == b->ip[0] && a->ip[1] == b->ip[1] && a->ip[2] == b->ip[2] && a->ip[3] == b->ip[3];
}

static __always_inline int find(const struct address *at, __u32 *link, __u32 *mtu)
{
	volatile struct pod *p = bpf_map_lookup_elem(&pods, at);
	if (!p)
		return 0;
	*link = p->link;
	*mtu = p->mtu;
	return same(&p->address, at);
}

// transport reads the ports. What opens or ends a connection is not for the fast path.
static __always_inline int transport(void *l4, void *end, __u8 protocol, __be16 *from, __be16 *to, __u32 *headers)
{
	if (protocol == IPPROTO_TCP) {
		struct tcphdr *t = l4;
		if ((void *)(t + 1) > end || t->syn || t->fin || t->rst)
			return 0;
		*from = t->source;
		*to = t->dest;
		*headers += t->doff * 4;
		return 1;
	}
	struct udphdr *u = l4;
	if (protocol != IPPROTO_UDP || (void *)(u + 1) > end)
		return 0;
	*from = u->source;
	*to = u->dest;
	*headers += sizeof(*u);
	return 1;
}

static __always_inline int read_echo(void *l4, void *end, struct packet *p, __u8 request, __u8 reply)
{
	struct echohdr *h = l4;
	if ((void *)(h + 1) > end || h->code || (h->type != request && h->type != reply))
		return 0;
	p->id = h->id;
	p->type = h->type;
	p->headers += sizeof(*h);
	return 1;
}

static __always_inline int read4(void *l3, void *end, struct packet *p)
{
	struct iphdr *ip = l3;
	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl != 5 || ip->ttl <= 1)
		return 0;
	if (ip->frag_off & ~bpf_htons(DONT_FRAGMENT))
		return 0;
	p->from.ip[2] = p->to.ip[2] = bpf_htonl(0xffff);
	p->from.ip[3] = p->tuple.ipv4.saddr = ip->saddr;
	p->to.ip[3] = p->tuple.ipv4.daddr = ip->daddr;
	p->headers = sizeof(*ip);
	p->protocol = ip->protocol;
	if (ip->protocol == IPPROTO_ICMP)
		return read_echo(ip + 1, end, p, ECHO_REQUEST, ECHO_REPLY);
	return transport(ip + 1, end, ip->protocol, &p->tuple.ipv4.sport, &p->tuple.ipv4.dport, &p->headers);
}

static __always_inline int read6(void *l3, void *end, struct packet *p)
{
	struct ipv6hdr *ip = l3;
	if ((void *)(ip + 1) > end || ip->version != 6 || ip->hop_limit <= 1)
		return 0;
	__builtin_memcpy(&p->from, &ip->saddr, sizeof(p->from));
	__builtin_memcpy(&p->to, &ip->daddr, sizeof(p->to));
	__builtin_memcpy(p->tuple.ipv6.saddr, &ip->saddr, sizeof(p->from));
	__builtin_memcpy(p->tuple.ipv6.daddr, &ip->daddr, sizeof(p->to));
	p->headers = sizeof(*ip);
	p->protocol = ip->nexthdr;
	if (ip->nexthdr == IPPROTO_ICMPV6)
		return read_echo(ip + 1, end, p, ECHO6_REQUEST, ECHO6_REPLY);
	return transport(ip + 1, end, ip->nexthdr, &p->tuple.ipv6.sport, &p->tuple.ipv6.dport, &p->headers);
}

static __always_inline int read(const struct __sk_buff *skb, struct packet *p)
{
	void *end = (void *)(long)skb->data_end;
	void *l3 = (void *)(long)skb->data + ETH_HLEN;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return read4(l3, end, p);
	return skb->protocol == bpf_htons(ETH_P_IPV6) && read6(l3, end, p);
}

// fits says that no packet that the Pod receives is larger than its MTU.
static __always_inline int fits(const struct __sk_buff *skb, const struct packet *p, __u32 mtu)
{
	__u32 segment = skb->gso_size;
	return segment ? segment + p->headers <= mtu : skb->len - ETH_HLEN <= mtu;
}

// lasts is how much time to live a connection needs that is established in both directions.
static __always_inline __u32 lasts(const struct nf_conn *ct, __u64 status, __u8 protocol)
{
	if (protocol == IPPROTO_UDP)
		return status & ASSURED ? fresh_udp_stream : fresh_udp;
	return status & ASSURED && ct->proto.tcp.state == TCP_ESTABLISHED ? fresh_tcp : 0;
}

// settled says that the connection is established, untouched and not about to be forgotten. A mark is
// somebody's wish, such as the policy engine's that the connection be cut.
static __always_inline int settled(const struct nf_conn *ct, __u8 protocol)
{
	__u64 status = ct->status;
	if ((status & (NEEDED | REFUSED)) != NEEDED || ct->mark)
		return 0;
	__u32 fresh = lasts(ct, status, protocol);
	__s32 left = ct->timeout - (__u32)bpf_jiffies64();
	return fresh && left > 0 && (__u32)left >= fresh;
}

static __always_inline int tracked(struct __sk_buff *skb, struct packet *p)
{
	struct bpf_ct_opts opts = {.netns_id = -1, .l4proto = p->protocol};
	struct nf_conn *ct;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		ct = bpf_skb_ct_lookup(skb, &p->tuple, sizeof(p->tuple.ipv4), &opts, sizeof(opts));
	else
		ct = bpf_skb_ct_lookup(skb, &p->tuple, sizeof(p->tuple.ipv6), &opts, sizeof(opts));
	if (!ct)
		return 0;
	int ok = settled(ct, p->protocol);
	bpf_ct_release(ct);
	return ok;
}

static __always_inline struct echo echo_of(const struct packet *p)
{
	struct echo e = {.from = p->from, .to = p->to, .id = p->id, .type = p->type};
	return e;
}

// noted says that the ordinary way has let such an echo through a moment ago.
static __always_inline int noted(const struct packet *p)
{
	struct echo e = echo_of(p);
	volatile struct note *n = bpf_map_lookup_elem(&echoes, &e);
	if (!n)
		return 0;
	__u32 of = n->generation;
	__u64 until = n->until;
	return n->echo.id == e.id && n->echo.type == e.type && same(&n->echo.from, &e.from) && same(&n->echo.to, &e.to) &&
	       of == generation && valid_echo && until > bpf_jiffies64();
}

static __always_inline int known(struct __sk_buff *skb, struct packet *p)
{
	return p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP ? tracked(skb, p) : noted(p);
}

// age does what every router does.
static __always_inline int age(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	void *l3 = data + ETH_HLEN;
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = l3;
		if ((void *)(ip + 1) > end)
			return 0;
		ip->hop_limit--;
		return 1;
	}
	struct iphdr *ip = l3;
	if ((void *)(ip + 1) > end)
		return 0;
	__u32 sum = (__u32)ip->check + bpf_htons(0x0100); // RFC 1141
	ip->check = sum + (sum >= 0xffff);
	ip->ttl--;
	return 1;
}

SEC("classifier")
int weft_flow(struct __sk_buff *skb)
{
	struct packet p = {};
	if (skb->pkt_type != PACKET_HOST || skb->vlan_present || !read(skb, &p))
		return ORDINARY_WAY;
	__u32 source, link, mtu;
	if (!find(&p.to, &link, &mtu))
		return ORDINARY_WAY;
	if (!find(&p.from, &source, &(__u32){0}) || source != skb->ifindex || link == source || !fits(skb, &p, mtu) ||
	    !known(skb, &p) || !age(skb)) {
		count(ORDINARY);
		return ORDINARY_WAY;
	}
	count(FAST);
	return bpf_redirect_peer(link, 0);
}

// is_icmp is all that most packets to a Pod are asked at the end of the ordinary way.
static __always_inline int is_icmp(const struct __sk_buff *skb)
{
	void *end = (void *)(long)skb->data_end;
	void *l3 = (void *)(long)skb->data + ETH_HLEN;
	struct iphdr *ip = l3;
	struct ipv6hdr *ip6 = l3;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return (void *)(ip + 1) <= end && ip->protocol == IPPROTO_ICMP;
	return skb->protocol == bpf_htons(ETH_P_IPV6) && (void *)(ip6 + 1) <= end && ip6->nexthdr == IPPROTO_ICMPV6;
}

static __always_inline int is(const struct address *a, const union nf_inet_addr *entry, __be16 protocol)
{
	if (protocol == bpf_htons(ETH_P_IP))
		return a->ip[3] == entry->all[0];
	return a->ip[0] == entry->all[0] && a->ip[1] == entry->all[1] && a->ip[2] == entry->all[2] && a->ip[3] == entry->all[3];
}

// between says that the entry is of this packet as it is, whoever may have rewritten it without connection tracking.
static __always_inline int between(const struct nf_conn *ct, int reply, const struct packet *p, __be16 protocol)
{
	union nf_inet_addr from, to;
	if (reply) {
		BPF_CORE_READ_INTO(&from, ct, tuplehash[1].tuple.src.u3);
		BPF_CORE_READ_INTO(&to, ct, tuplehash[1].tuple.dst.u3);
	} else {
		BPF_CORE_READ_INTO(&from, ct, tuplehash[0].tuple.src.u3);
		BPF_CORE_READ_INTO(&to, ct, tuplehash[0].tuple.dst.u3);
	}
	return is(&p->from, &from, protocol) && is(&p->to, &to, protocol);
}

// lasting says that connection tracking has the packet in an entry that nobody has translated or marked, and that outlives
// a note by as much again, for the answer. A note only ever is of what an entry can be cut for.
static __always_inline int lasting(struct __sk_buff *skb, const struct packet *p)
{
	struct sk_buff *kernel = bpf_cast_to_kern_ctx(skb);
	struct nf_conn *ct = (void *)(kernel->_nfct & ~CT_INFO);
	if (!ct || !between(ct, (kernel->_nfct & CT_INFO) >= CT_IS_REPLY, p, skb->protocol))
		return 0;
	if ((BPF_CORE_READ(ct, status) & (CONFIRMED | REFUSED)) != CONFIRMED || BPF_CORE_READ(ct, mark))
		return 0;
	if (bpf_core_field_exists(ct->zone) && BPF_CORE_READ(ct, zone.id))
		return 0;
	__s32 left = BPF_CORE_READ(ct, timeout) - (__u32)bpf_jiffies64();
	return left > 0 && (__u32)left >= 2 * valid_echo;
}

// weft_echo is where the ordinary way leads out to a Pod: what comes here has passed all rules, and nothing comes here that
// took the fast path.
SEC("classifier")
int weft_echo(struct __sk_buff *skb)
{
	if (!is_icmp(skb))
		return ORDINARY_WAY;
	// With a barrier, before all else that is asked: what changes later voids the note.
	__u32 present = __sync_fetch_and_add(&generation, 0);
	struct packet p = {};
	if (!valid_echo || skb->mark || skb->vlan_present || !read(skb, &p))
		return ORDINARY_WAY;
	__u32 source, link;
	if (!find(&p.to, &link, &(__u32){0}) || link != skb->ifindex || !find(&p.from, &source, &(__u32){0}) ||
	    source != skb->ingress_ifindex || source == link || !lasting(skb, &p))
		return ORDINARY_WAY;
	struct note n = {.echo = echo_of(&p), .generation = present, .until = bpf_jiffies64() + valid_echo};
	bpf_map_update_elem(&echoes, &n.echo, &n, BPF_ANY);
	return ORDINARY_WAY;
}

char licence[] SEC("license") = "GPL";
