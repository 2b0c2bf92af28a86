// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * What happens to each frame that an interface receives, in this order:
 *
 *   1. a rule of the filter may drop it (source prefix, protocol, port; or a rate per source);
 *   2. if the stack wants it (destination, protocol, port, EtherType), it goes to the AF_XDP socket
 *      of its queue;
 *   3. everything else goes to the kernel, as if this program were not there.
 *
 * Userspace writes the maps (../maps.rs has the same layouts). What the words mean is said at
 * `Selector` and `Rule` in underpass-devices, which do the same in software; a test compares both.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Linux's name for this is in no header that a BPF program can include. */
#define PROTOCOL_ICMPV6 58
#define NEIGHBOR_SOLICITATION 135
#define NEIGHBOR_ADVERTISEMENT 136

/* IPv6 extension headers that are looked behind. */
#define MAX_EXTENSIONS 4

/* Which fields of a key count. With a family in the low bits it makes keys of different kinds differ. */
enum shape {
	SHAPE_WHOLE = 0x10,	/* neither protocol nor port */
	SHAPE_PROTOCOL = 0x20,
	SHAPE_PORT = 0x30,	/* protocol and port */
};

enum family {
	FAMILY_ANY = 0,
	FAMILY_IPV4 = 4,
	FAMILY_IPV6 = 6,
	FAMILY_ETHER_TYPE = 8,
};

/* Kinds of entries that a map has, so that no look-up is made for a kind that it has none of. */
enum {
	HAS_WHOLE = 1 << 0,
	HAS_PROTOCOL = 1 << 1,
	HAS_PORT = 1 << 2,
	HAS_ANY_WHOLE = 1 << 3,
	HAS_ANY_PROTOCOL = 1 << 4,
	HAS_ANY_PORT = 1 << 5,
	HAS_ETHER_TYPE = 1 << 6,
};

struct settings {
	__u32 flags;
	__u32 targets;	/* HAS_ of the map of that name */
	__u16 vlan;	/* of the frames for the stack; 0: untagged */
	__u8 mac[ETH_ALEN];	/* the stack's */
};

/* Every frame is for the stack. */
#define TAKE_ALL (1 << 0)
/* The stack's MAC address is not the interface's: what is sent to it is for the stack. */
#define OWN_MAC (1 << 1)

/* What the stack wants. */
struct target {
	__u8 address[16];	/* or the big-endian VLAN of an EtherType */
	__be16 port;	/* or EtherType */
	__u8 protocol;
	__u8 kind;	/* family | shape */
};

/* Packets to the address. */
#define TARGET_PACKETS (1 << 0)
/* Questions and answers about its link address. */
#define TARGET_NEIGHBOR (1 << 1)

/* A key of an LPM trie: the prefix covers everything in front of the address. */
struct rule_key {
	__u32 prefix_len;
	__u8 protocol;
	__u8 kind;	/* family | shape */
	__be16 port;
	__u8 source[16];
};

#define RULE_PREFIX 32

enum action {
	ACTION_ALLOW,
	ACTION_DENY,
	ACTION_LIMIT,
};

struct rule {
	__u32 slot;	/* of its counters, from 1 */
	__u32 source_len;
	__u32 action;
	__u32 per_second;	/* as it was given */
	__u32 burst;
	__u32 epoch;	/* another one each time the rule is written */
	__u64 interval;	/* nanoseconds per packet */
	__u64 tolerance;	/* nanoseconds */
};

struct source {
	__u32 slot;	/* of the rule, which is about one family */
	__u32 epoch;
	__u8 address[16];
};

enum verdict {
	VERDICT_PASS,
	VERDICT_REDIRECT,
	VERDICT_DROP,
	VERDICTS,
};

struct tally {
	__u64 packets;
	__u64 bytes;
};

/* The sizes are those of userspace, which may set others when it loads the program. */

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 64);
	__type(key, __u32);	/* queue */
	__type(value, __u32);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct target);
	__type(value, __u32);
} targets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct rule_key);
	__type(value, struct rule);
} rules SEC(".maps");

/* HAS_ of `rules`. Apart from `settings`, since it may be another process that changes the rules. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} rule_kinds SEC(".maps");

/* One for each slot and verdict; slot 0 counts what no rule matches. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1025 * VERDICTS);
	__type(key, __u32);
	__type(value, struct tally);
} tallies SEC(".maps");

/* When each limited source may send again, on bpf_ktime_get_ns's clock. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct source);
	__type(value, __u64);
} sources SEC(".maps");

/* What the headers of a frame say. */
struct packet {
	__u16 vlan;
	__u16 ether_type;
	__u8 family;	/* FAMILY_ANY: not IP */
	__u8 protocol;
	bool has_port;
	bool asks_neighbor;	/* about `neighbor`, over `neighbor_family` */
	__u8 neighbor_family;
	__be16 port;
	__u8 source[16];
	__u8 destination[16];
	__u8 neighbor[16];
};

static __always_inline bool has_ports(__u8 protocol)
{
	/* TCP, UDP, DCCP, SCTP, UDP-Lite: the ports come first. */
	return protocol == 6 || protocol == 17 || protocol == 33 || protocol == 132 ||
	       protocol == 136;
}

static __always_inline void parse_transport(struct packet *p, void *at, void *end)
{
	__u8 *bytes = at;

	if (has_ports(p->protocol)) {
		if (at + 4 > end)
			return;
		p->has_port = true;
		p->port = *(__be16 *)(bytes + 2);
	} else if (p->protocol == PROTOCOL_ICMPV6 && p->family == FAMILY_IPV6) {
		if (at + 24 > end)
			return;
		if (bytes[0] != NEIGHBOR_SOLICITATION && bytes[0] != NEIGHBOR_ADVERTISEMENT)
			return;
		p->asks_neighbor = true;
		p->neighbor_family = FAMILY_IPV6;
		__builtin_memcpy(p->neighbor, bytes + 8, 16);
	}
}

/* RFC 791 section 3.1 */
static __always_inline void parse_ipv4(struct packet *p, void *at, void *end)
{
	__u8 *bytes = at;
	__u32 header_len;

	if (at + 20 > end || bytes[0] >> 4 != 4)
		return;
	header_len = (bytes[0] & 0x0f) * 4;
	if (header_len < 20)
		return;
	p->family = FAMILY_IPV4;
	p->protocol = bytes[9];
	__builtin_memcpy(p->source, bytes + 12, 4);
	__builtin_memcpy(p->destination, bytes + 16, 4);
	/* Only the first fragment has ports. */
	if ((*(__be16 *)(bytes + 6) & bpf_htons(0x1fff)) == 0)
		parse_transport(p, at + header_len, end);
}

/* RFC 8200 section 3 and 4 */
static __always_inline void parse_ipv6(struct packet *p, void *at, void *end)
{
	__u8 *bytes = at;
	__u32 offset = 40;

	if (at + 40 > end || bytes[0] >> 4 != 6)
		return;
	p->family = FAMILY_IPV6;
	p->protocol = bytes[6];
	__builtin_memcpy(p->source, bytes + 8, 16);
	__builtin_memcpy(p->destination, bytes + 24, 16);
#pragma unroll
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		__u8 *header = at + offset;
		__u8 kind = p->protocol;

		/* Hop-by-hop and destination options, routing, fragment, authentication (RFC 4302). */
		if (kind != 0 && kind != 60 && kind != 43 && kind != 44 && kind != 51)
			break;
		if ((void *)(header + 8) > end)
			return;
		p->protocol = header[0];
		if (kind == 44) {
			offset += 8;
			if (*(__be16 *)(header + 2) & bpf_htons(0xfff8))
				return;
		} else if (kind == 51) {
			offset += (header[1] + 2) * 4;
		} else {
			offset += (header[1] + 1) * 8;
		}
	}
	parse_transport(p, at + offset, end);
}

/* RFC 826, of Ethernet and IPv4 */
static __always_inline void parse_arp(struct packet *p, void *at, void *end)
{
	__u8 *bytes = at;

	if (at + 28 > end)
		return;
	p->asks_neighbor = true;
	p->neighbor_family = FAMILY_IPV4;
	__builtin_memcpy(p->neighbor, bytes + 24, 4);
}

/* False: there is no whole Ethernet header. */
static __always_inline bool parse(struct packet *p, void *at, void *end)
{
	__u8 *bytes = at;

	if (at + ETH_HLEN > end)
		return false;
	p->ether_type = bytes[12] << 8 | bytes[13];
	at += ETH_HLEN;
	if (p->ether_type == ETH_P_8021Q) {
		if (at + 4 > end)
			return true;
		bytes = at;
		p->vlan = (bytes[0] << 8 | bytes[1]) & 0x0fff;
		p->ether_type = bytes[2] << 8 | bytes[3];
		at += 4;
	}
	switch (p->ether_type) {
	case ETH_P_IP:
		parse_ipv4(p, at, end);
		break;
	case ETH_P_IPV6:
		parse_ipv6(p, at, end);
		break;
	case ETH_P_ARP:
		parse_arp(p, at, end);
		break;
	}
	return true;
}

static __always_inline struct rule *find_rule(struct packet *p, __u32 kinds)
{
	struct rule_key key = { .prefix_len = RULE_PREFIX + 128 };
	struct rule *best = NULL, *rule;

	__builtin_memcpy(key.source, p->source, 16);
	if (kinds & HAS_PORT && p->has_port) {
		key.kind = SHAPE_PORT | p->family;
		key.protocol = p->protocol;
		key.port = p->port;
		best = bpf_map_lookup_elem(&rules, &key);
	}
	if (kinds & HAS_PROTOCOL) {
		key.kind = SHAPE_PROTOCOL | p->family;
		key.protocol = p->protocol;
		key.port = 0;
		rule = bpf_map_lookup_elem(&rules, &key);
		if (rule && (!best || rule->source_len > best->source_len))
			best = rule;
	}
	if (kinds & HAS_WHOLE) {
		key.kind = SHAPE_WHOLE | p->family;
		key.protocol = 0;
		key.port = 0;
		rule = bpf_map_lookup_elem(&rules, &key);
		if (rule && (!best || rule->source_len > best->source_len))
			best = rule;
	}
	return best;
}

/*
 * The generic cell rate algorithm (ITU-T I.371): `next` is the theoretical arrival time of the
 * source's next packet.
 */
static __always_inline bool conforms(struct packet *p, struct rule *rule)
{
	struct source key = { .slot = rule->slot, .epoch = rule->epoch };
	__u64 now = bpf_ktime_get_ns(), *next, first = now + rule->interval;

	__builtin_memcpy(key.address, p->source, 16);
	next = bpf_map_lookup_elem(&sources, &key);
	if (!next) {
		if (bpf_map_update_elem(&sources, &key, &first, BPF_NOEXIST) == 0)
			return true;
		/* Another CPU was quicker. */
		next = bpf_map_lookup_elem(&sources, &key);
		if (!next)
			return true;
	}
#pragma unroll
	for (int i = 0; i < 4; i++) {
		__u64 was = *(volatile __u64 *)next;
		__u64 base = was > now ? was : now;

		if (was > now + rule->tolerance)
			return false;
		if (__sync_val_compare_and_swap(next, was, base + rule->interval) == was)
			return true;
	}
	/* Four other CPUs came between: this one packet is not counted against the rate. */
	return true;
}

static __always_inline bool has_target(struct target *key, __u32 wanted)
{
	__u32 *flags = bpf_map_lookup_elem(&targets, key);

	return flags && *flags & wanted;
}

static __always_inline bool is_for_stack(struct packet *p, struct settings *set, __u8 *mac)
{
	struct target key = {};
	__u32 kinds = set->targets;
	bool foreign = p->vlan != set->vlan;

	if (set->flags & TAKE_ALL)
		return true;
	/* Of other VLANs, what is selected by name. */
	if (foreign && (set->vlan != 0 || !(kinds & HAS_ETHER_TYPE)))
		return false;
	if (!(mac[0] & 1)) {
		bool to_us = true;

#pragma unroll
		for (int i = 0; i < ETH_ALEN; i++)
			to_us &= mac[i] == set->mac[i];
		if (!to_us)
			return false;
		if (set->flags & OWN_MAC && !foreign)
			return true;
	}
	if (kinds & HAS_ETHER_TYPE) {
		key.kind = FAMILY_ETHER_TYPE;
		key.port = bpf_htons(p->ether_type);
		if (foreign) {
			key.address[0] = p->vlan >> 8;
			key.address[1] = p->vlan;
		}
		if (has_target(&key, TARGET_PACKETS))
			return true;
	}
	if (foreign)
		return false;
	if (p->asks_neighbor && kinds & HAS_WHOLE) {
		__builtin_memcpy(key.address, p->neighbor, 16);
		key.kind = SHAPE_WHOLE | p->neighbor_family;
		key.port = 0;
		if (has_target(&key, TARGET_NEIGHBOR))
			return true;
	}
	if (p->family == FAMILY_ANY)
		return false;
	__builtin_memcpy(key.address, p->destination, 16);
	key.port = 0;
	if (kinds & HAS_WHOLE) {
		key.kind = SHAPE_WHOLE | p->family;
		if (has_target(&key, TARGET_PACKETS))
			return true;
	}
	key.protocol = p->protocol;
	if (kinds & HAS_PROTOCOL) {
		key.kind = SHAPE_PROTOCOL | p->family;
		if (has_target(&key, TARGET_PACKETS))
			return true;
	}
	key.port = p->port;
	if (kinds & HAS_PORT && p->has_port) {
		key.kind = SHAPE_PORT | p->family;
		if (has_target(&key, TARGET_PACKETS))
			return true;
	}
	if (!(kinds & (HAS_ANY_WHOLE | HAS_ANY_PROTOCOL | HAS_ANY_PORT)))
		return false;
	if (kinds & HAS_ANY_WHOLE)
		return true;
	__builtin_memset(key.address, 0, 16);
	if (kinds & HAS_ANY_PORT && p->has_port) {
		key.kind = SHAPE_PORT | FAMILY_ANY;
		if (has_target(&key, TARGET_PACKETS))
			return true;
	}
	key.port = 0;
	if (kinds & HAS_ANY_PROTOCOL) {
		key.kind = SHAPE_PROTOCOL | FAMILY_ANY;
		if (has_target(&key, TARGET_PACKETS))
			return true;
	}
	return false;
}

static __always_inline void count(__u32 slot, enum verdict verdict, __u64 bytes)
{
	__u32 index = slot * VERDICTS + verdict;
	struct tally *tally = bpf_map_lookup_elem(&tallies, &index);

	if (tally) {
		tally->packets += 1;
		tally->bytes += bytes;
	}
}

static __always_inline int decide(struct xdp_md *ctx, __u64 len)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct packet p = {};
	struct settings *set;
	__u32 zero = 0, slot = 0, *kinds;

	set = bpf_map_lookup_elem(&settings, &zero);
	kinds = bpf_map_lookup_elem(&rule_kinds, &zero);
	if (!set || !kinds || !parse(&p, data, end))
		return XDP_PASS;
	if (*kinds && p.family != FAMILY_ANY) {
		struct rule *rule = find_rule(&p, *kinds);

		if (rule) {
			slot = rule->slot;
			if (rule->action == ACTION_DENY ||
			    (rule->action == ACTION_LIMIT && !conforms(&p, rule))) {
				count(slot, VERDICT_DROP, len);
				return XDP_DROP;
			}
		}
	}
	if (is_for_stack(&p, set, data)) {
		/* On a queue without a socket it is the kernel's. */
		int action = bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS);

		count(slot, action == XDP_REDIRECT ? VERDICT_REDIRECT : VERDICT_PASS, len);
		return action;
	}
	count(slot, VERDICT_PASS, len);
	return XDP_PASS;
}

SEC("xdp")
int underpass(struct xdp_md *ctx)
{
	return decide(ctx, ctx->data_end - ctx->data);
}

/* The same for frames of several buffers (MTU above a page), since Linux 5.18. */
SEC("xdp.frags")
int underpass_frags(struct xdp_md *ctx)
{
	return decide(ctx, bpf_xdp_get_buff_len(ctx));
}

char _license[] SEC("license") = "Dual MIT/GPL";
