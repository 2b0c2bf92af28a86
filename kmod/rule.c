// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Which frames go to the ring. What the words mean is said at `Selector` in underpass-devices,
 * which does the same in software: the two are compared by a test.
 */

#include <linux/etherdevice.h>
#include <linux/if_arp.h>
#include <linux/if_vlan.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/jhash.h>
#include <linux/random.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <net/ip.h>
#include <net/ipv6.h>
#include <net/ndisc.h>

#include "ring.h"

/* IPv6 extension headers that are looked behind. */
#define MAX_EXTENSIONS 4

/* Kinds of targets that a rule has, so that nothing is looked up that is not there. */
#define HAS_WHOLE		BIT(0)
#define HAS_PROTOCOL		BIT(1)
#define HAS_PORT		BIT(2)
#define HAS_ANY_WHOLE		BIT(3)
#define HAS_ANY_PROTOCOL	BIT(4)
#define HAS_ANY_PORT		BIT(5)
#define HAS_ETHER_TYPE		BIT(6)

struct upr_rule {
	struct rcu_head rcu;
	u32 flags;
	u16 vlan;
	u8 mac[ETH_ALEN];
	u32 kinds;
	/* An open hash table of `mask` + 1 places, at most half of them taken; kind 0: free. */
	u32 seed;
	u32 mask;
	struct underpass_ring_target table[];
};

/* What the headers of a frame say. */
struct headers {
	u16 vlan;
	__be16 ether_type;
	u8 family;		/* FAMILY_ANY: no IP packet */
	u8 protocol;
	bool has_port;
	bool asks_neighbor;	/* about `neighbor`, over `neighbor_family` */
	u8 neighbor_family;
	__be16 port;
	u8 destination[16];
	u8 neighbor[16];
};

/* 0: there is no such kind. */
static u32 kind_bit(u8 kind)
{
	switch (kind) {
	case UNDERPASS_RING_SHAPE_WHOLE | UNDERPASS_RING_FAMILY_IPV4:
	case UNDERPASS_RING_SHAPE_WHOLE | UNDERPASS_RING_FAMILY_IPV6:
		return HAS_WHOLE;
	case UNDERPASS_RING_SHAPE_PROTOCOL | UNDERPASS_RING_FAMILY_IPV4:
	case UNDERPASS_RING_SHAPE_PROTOCOL | UNDERPASS_RING_FAMILY_IPV6:
		return HAS_PROTOCOL;
	case UNDERPASS_RING_SHAPE_PORT | UNDERPASS_RING_FAMILY_IPV4:
	case UNDERPASS_RING_SHAPE_PORT | UNDERPASS_RING_FAMILY_IPV6:
		return HAS_PORT;
	case UNDERPASS_RING_SHAPE_WHOLE | UNDERPASS_RING_FAMILY_ANY:
		return HAS_ANY_WHOLE;
	case UNDERPASS_RING_SHAPE_PROTOCOL | UNDERPASS_RING_FAMILY_ANY:
		return HAS_ANY_PROTOCOL;
	case UNDERPASS_RING_SHAPE_PORT | UNDERPASS_RING_FAMILY_ANY:
		return HAS_ANY_PORT;
	case UNDERPASS_RING_ETHER_TYPE:
		return HAS_ETHER_TYPE;
	default:
		return 0;
	}
}

/* The place of a target, or the free one where it would be. */
static u32 place_of(const struct upr_rule *rule, const struct underpass_ring_target *key)
{
	const u32 key_len = offsetof(struct underpass_ring_target, flags);
	u32 place = jhash(key, key_len, rule->seed) & rule->mask;

	while (rule->table[place].kind && memcmp(&rule->table[place], key, key_len))
		place = (place + 1) & rule->mask;
	return place;
}

static int add_target(struct upr_rule *rule, const struct underpass_ring_target *target)
{
	const u32 known = UNDERPASS_RING_PACKETS | UNDERPASS_RING_NEIGHBOR;
	struct underpass_ring_target *place;
	u32 bit = kind_bit(target->kind);

	if (!bit || !target->flags || target->flags & ~known)
		return -EINVAL;
	place = &rule->table[place_of(rule, target)];
	if (place->kind) {
		place->flags |= target->flags;
	} else {
		*place = *target;
		rule->kinds |= bit;
	}
	return 0;
}

/* Takes the place of the rule before. */
int upr_rule_set(struct upr_ring *ring, const struct underpass_ring_rule *wanted)
{
	const struct underpass_ring_target __user *targets = u64_to_user_ptr(wanted->targets);
	const u32 known = UNDERPASS_RING_TAKE_ALL | UNDERPASS_RING_OWN_MAC;
	struct underpass_ring_target target;
	struct upr_rule *rule, *old;
	u32 i, places;
	int err = 0;

	if (wanted->flags & ~known || wanted->vlan >= VLAN_N_VID)
		return -EINVAL;
	if (wanted->target_count > UNDERPASS_RING_MAX_TARGETS)
		return -E2BIG;
	places = roundup_pow_of_two(2 * wanted->target_count + 1);
	rule = kvzalloc(struct_size(rule, table, places), GFP_KERNEL_ACCOUNT);
	if (!rule)
		return -ENOMEM;
	rule->flags = wanted->flags;
	rule->vlan = wanted->vlan;
	ether_addr_copy(rule->mac, wanted->mac);
	rule->seed = get_random_u32();
	rule->mask = places - 1;
	for (i = 0; !err && i < wanted->target_count; i++) {
		err = copy_from_user(&target, &targets[i], sizeof(target)) ?
			-EFAULT : add_target(rule, &target);
	}
	if (err) {
		kvfree(rule);
		return err;
	}
	mutex_lock(&ring->control);
	old = rcu_replace_pointer(ring->rule, rule, lockdep_is_held(&ring->control));
	mutex_unlock(&ring->control);
	if (old)
		kvfree_rcu(old, rcu);
	return 0;
}

/* Nobody looks at it any more. */
void upr_rule_free(struct upr_ring *ring)
{
	kvfree(rcu_dereference_protected(ring->rule, true));
}

static bool has_ports(u8 protocol)
{
	/* The ports come first in all of these. */
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_DCCP ||
	       protocol == IPPROTO_SCTP || protocol == IPPROTO_UDPLITE;
}

static void read_transport(struct headers *h, const struct sk_buff *skb, unsigned int offset)
{
	if (has_ports(h->protocol)) {
		__be16 buffer[2];
		const __be16 *ports = skb_header_pointer(skb, offset, sizeof(buffer), buffer);

		if (ports) {
			h->has_port = true;
			h->port = ports[1];
		}
	} else if (h->protocol == IPPROTO_ICMPV6 && h->family == UNDERPASS_RING_FAMILY_IPV6) {
		struct nd_msg buffer;
		const struct nd_msg *nd = skb_header_pointer(skb, offset, sizeof(buffer), &buffer);

		if (!nd || (nd->icmph.icmp6_type != NDISC_NEIGHBOUR_SOLICITATION &&
			    nd->icmph.icmp6_type != NDISC_NEIGHBOUR_ADVERTISEMENT))
			return;
		h->asks_neighbor = true;
		h->neighbor_family = UNDERPASS_RING_FAMILY_IPV6;
		memcpy(h->neighbor, &nd->target, sizeof(nd->target));
	}
}

/* RFC 791 section 3.1 */
static void read_ipv4(struct headers *h, const struct sk_buff *skb, unsigned int offset)
{
	struct iphdr buffer;
	const struct iphdr *ip = skb_header_pointer(skb, offset, sizeof(buffer), &buffer);

	if (!ip || ip->version != 4 || ip->ihl < 5)
		return;
	h->family = UNDERPASS_RING_FAMILY_IPV4;
	h->protocol = ip->protocol;
	memcpy(h->destination, &ip->daddr, sizeof(ip->daddr));
	/* Only the first fragment has ports. */
	if (!(ip->frag_off & htons(IP_OFFSET)))
		read_transport(h, skb, offset + ip->ihl * 4);
}

/* RFC 8200 sections 3 and 4 */
static void read_ipv6(struct headers *h, const struct sk_buff *skb, unsigned int offset)
{
	struct ipv6hdr buffer;
	const struct ipv6hdr *ip = skb_header_pointer(skb, offset, sizeof(buffer), &buffer);
	unsigned int i;

	if (!ip || ip->version != 6)
		return;
	h->family = UNDERPASS_RING_FAMILY_IPV6;
	h->protocol = ip->nexthdr;
	memcpy(h->destination, &ip->daddr, sizeof(ip->daddr));
	offset += sizeof(*ip);
	for (i = 0; i < MAX_EXTENSIONS; i++) {
		u8 kind = h->protocol, bytes[8];
		const u8 *header;

		if (kind != NEXTHDR_HOP && kind != NEXTHDR_DEST && kind != NEXTHDR_ROUTING &&
		    kind != NEXTHDR_FRAGMENT && kind != NEXTHDR_AUTH)
			break;
		header = skb_header_pointer(skb, offset, sizeof(bytes), bytes);
		if (!header)
			return;
		h->protocol = header[0];
		if (kind == NEXTHDR_FRAGMENT) {
			offset += 8;
			if (header[2] || header[3] & 0xf8)
				return;
		} else if (kind == NEXTHDR_AUTH) {
			offset += (header[1] + 2) * 4;
		} else {
			offset += (header[1] + 1) * 8;
		}
	}
	read_transport(h, skb, offset);
}

/* RFC 826, of Ethernet and IPv4 */
static void read_arp(struct headers *h, const struct sk_buff *skb, unsigned int offset)
{
	u8 buffer[28];
	const u8 *arp = skb_header_pointer(skb, offset, sizeof(buffer), buffer);

	if (!arp)
		return;
	h->asks_neighbor = true;
	h->neighbor_family = UNDERPASS_RING_FAMILY_IPV4;
	memcpy(h->neighbor, arp + 24, 4);
}

/* The first byte of `skb` is the one behind its Ethernet header and its tag, if it has one. */
static void read_headers(struct headers *h, const struct sk_buff *skb)
{
	h->ether_type = eth_hdr(skb)->h_proto;
	if (skb_vlan_tag_present(skb)) {
		if (skb->vlan_proto != htons(ETH_P_8021Q)) {
			h->ether_type = skb->vlan_proto;
			return;
		}
		h->vlan = skb_vlan_tag_get_id(skb);
	}
	switch (h->ether_type) {
	case htons(ETH_P_IP):
		read_ipv4(h, skb, 0);
		break;
	case htons(ETH_P_IPV6):
		read_ipv6(h, skb, 0);
		break;
	case htons(ETH_P_ARP):
		read_arp(h, skb, 0);
		break;
	}
}

static bool has_target(const struct upr_rule *rule, const struct underpass_ring_target *key,
		       u32 wanted)
{
	/* Free places have no flags. */
	return rule->table[place_of(rule, key)].flags & wanted;
}

static bool wants_ether_type(const struct upr_rule *rule, const struct headers *h, bool foreign)
{
	struct underpass_ring_target key = {
		.kind = UNDERPASS_RING_ETHER_TYPE,
		.port = h->ether_type,
	};

	if (foreign) {
		key.address[0] = h->vlan >> 8;
		key.address[1] = h->vlan;
	}
	return has_target(rule, &key, UNDERPASS_RING_PACKETS);
}

static bool wants_neighbor(const struct upr_rule *rule, const struct headers *h)
{
	struct underpass_ring_target key = {
		.kind = UNDERPASS_RING_SHAPE_WHOLE | h->neighbor_family,
	};

	memcpy(key.address, h->neighbor, sizeof(key.address));
	return has_target(rule, &key, UNDERPASS_RING_NEIGHBOR);
}

/* Of one destination, or of any: `family` 0 and no address. */
static bool wants_packet(const struct upr_rule *rule, const struct headers *h, u8 family,
			 const u8 *address, u32 kinds)
{
	struct underpass_ring_target key = { .kind = UNDERPASS_RING_SHAPE_WHOLE | family };

	if (address)
		memcpy(key.address, address, sizeof(key.address));
	if (kinds & HAS_WHOLE && has_target(rule, &key, UNDERPASS_RING_PACKETS))
		return true;
	key.kind = UNDERPASS_RING_SHAPE_PROTOCOL | family;
	key.protocol = h->protocol;
	if (kinds & HAS_PROTOCOL && has_target(rule, &key, UNDERPASS_RING_PACKETS))
		return true;
	key.kind = UNDERPASS_RING_SHAPE_PORT | family;
	key.port = h->port;
	return kinds & HAS_PORT && h->has_port && has_target(rule, &key, UNDERPASS_RING_PACKETS);
}

bool upr_rule_wants(const struct upr_rule *rule, const struct sk_buff *skb)
{
	const struct ethhdr *eth = eth_hdr(skb);
	struct headers h = {};
	bool foreign;

	if (rule->flags & UNDERPASS_RING_TAKE_ALL)
		return true;
	read_headers(&h, skb);
	/* Of other VLANs, what is selected by name. */
	foreign = h.vlan != rule->vlan;
	if (foreign && (rule->vlan || !(rule->kinds & HAS_ETHER_TYPE)))
		return false;
	if (!is_multicast_ether_addr(eth->h_dest)) {
		if (!ether_addr_equal(eth->h_dest, rule->mac))
			return false;
		if (rule->flags & UNDERPASS_RING_OWN_MAC && !foreign)
			return true;
	}
	if (rule->kinds & HAS_ETHER_TYPE && wants_ether_type(rule, &h, foreign))
		return true;
	if (foreign)
		return false;
	if (h.asks_neighbor && rule->kinds & HAS_WHOLE && wants_neighbor(rule, &h))
		return true;
	if (h.family == UNDERPASS_RING_FAMILY_ANY)
		return false;
	return wants_packet(rule, &h, h.family, h.destination, rule->kinds) ||
	       wants_packet(rule, &h, UNDERPASS_RING_FAMILY_ANY, NULL,
			    rule->kinds / HAS_ANY_WHOLE);
}
