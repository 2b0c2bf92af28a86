// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * From the interface to the ring, in softirq. Each frame is copied once, into a frame that the
 * process has put into the fill ring.
 *
 * Superframes (GSO, GRO) go over whole if a frame holds them, with their segment size, and are cut
 * in software otherwise. A VLAN tag that the kernel keeps beside the packet is put back into it.
 */

#include <linux/if_vlan.h>
#include <linux/poll.h>
#include <linux/skbuff.h>
#include <linux/virtio_net.h>

#include "compat.h"
#include "ring.h"

/* Entries of the fill ring that are looked at for one frame. */
#define FILL_ATTEMPTS 16

/* A frame that the process gives to receive into. Its number was checked. */
static int take_fill(struct upr_ring *ring, u32 *number)
{
	unsigned int attempt;

	for (attempt = 0; attempt < FILL_ATTEMPTS; attempt++) {
		u32 *entry = &ring->fill_entries[ring->fill_consumer & (ring->rx_slots - 1)];
		/* Its entries were written before it. */
		u32 producer = smp_load_acquire(&ring->shared->fill_producer.value);

		if (producer == ring->fill_consumer)
			break;
		if (producer - ring->fill_consumer > ring->rx_slots) {
			upr_count(ring, UNDERPASS_RING_BAD_INDEX);
			break;
		}
		*number = READ_ONCE(*entry);
		ring->fill_consumer++;
		/* The entry was read: it may be written again. */
		smp_store_release(&ring->shared->fill_consumer.value, ring->fill_consumer);
		if (*number < ring->rx_slots)
			return 0;
		upr_count(ring, UNDERPASS_RING_RX_BAD_FILL);
	}
	upr_count(ring, UNDERPASS_RING_RX_NO_FRAME);
	return -ENOBUFS;
}

/* The first byte of `skb` is that of its Ethernet header. */
static int copy_frame(const struct sk_buff *skb, u8 *to)
{
	const int addresses = 2 * ETH_ALEN;
	struct {
		__be16 proto;
		__be16 tci;
	} tag;

	if (!skb_vlan_tag_present(skb))
		return skb_copy_bits(skb, 0, to, skb->len);
	tag.proto = skb->vlan_proto;
	tag.tci = htons(skb_vlan_tag_get(skb));
	memcpy(to + addresses, &tag, sizeof(tag));
	return skb_copy_bits(skb, 0, to, addresses) ?:
	       skb_copy_bits(skb, addresses, to + addresses + sizeof(tag), skb->len - addresses);
}

static void wake_reader(struct upr_ring *ring)
{
	/* Pairs with the barrier of whoever has set the flag and then looks for a frame. */
	smp_mb();
	if (!READ_ONCE(ring->shared->rx_wakeup.value))
		return;
	WRITE_ONCE(ring->shared->rx_wakeup.value, 0);
	wake_up_interruptible_poll(&ring->wait, EPOLLIN | EPOLLRDNORM);
}

/* Puts a frame into the ring, with what is known of it. */
static void put_frame(struct upr_ring *ring, const struct sk_buff *skb,
		      const struct virtio_net_hdr *known, u32 len)
{
	struct underpass_ring_frame *entry;
	u32 used, number;

	spin_lock(&ring->rx_lock);
	/* What is there was read before it. */
	used = ring->rx_producer - smp_load_acquire(&ring->shared->rx_consumer.value);
	if (used >= ring->rx_slots) {
		upr_count(ring, used > ring->rx_slots ? UNDERPASS_RING_BAD_INDEX :
							UNDERPASS_RING_RX_RING_FULL);
		goto out;
	}
	if (take_fill(ring, &number))
		goto out;
	if (copy_frame(skb, upr_frame(ring, number))) {
		upr_count(ring, UNDERPASS_RING_RX_TOO_LONG);
		goto out;
	}
	entry = &ring->rx_entries[ring->rx_producer & (ring->rx_slots - 1)];
	*entry = (struct underpass_ring_frame) {
		.number = number,
		.len = len,
		.flags = known->flags,
		.gso_type = known->gso_type,
		.hdr_len = (__force u16)known->hdr_len,
		.gso_size = (__force u16)known->gso_size,
		.csum_start = (__force u16)known->csum_start,
		.csum_offset = (__force u16)known->csum_offset,
	};
	WRITE_ONCE(ring->rx_producer, ring->rx_producer + 1);
	/* Whoever sees it sees the entry and the frame. */
	smp_store_release(&ring->shared->rx_producer.value, ring->rx_producer);
	upr_count(ring, UNDERPASS_RING_RX_FRAMES);
out:
	spin_unlock(&ring->rx_lock);
}

/* False: the frame has to be cut first. */
static bool deliver(struct upr_ring *ring, const struct sk_buff *skb)
{
	int tag_len = skb_vlan_tag_present(skb) ? VLAN_HLEN : 0;
	struct virtio_net_hdr known;

	if (skb->len + tag_len > ring->frame_len) {
		if (skb_is_gso(skb))
			return false;
		upr_count(ring, UNDERPASS_RING_RX_TOO_LONG);
		return true;
	}
	if (virtio_net_hdr_from_skb(skb, &known, virtio_legacy_is_little_endian(), true, tag_len))
		return false;
	put_frame(ring, skb, &known, skb->len + tag_len);
	return true;
}

/* Cuts a superframe that no frame holds, or of a kind that has no name in virtio. */
static void deliver_segments(struct upr_ring *ring, struct sk_buff *skb)
{
	struct sk_buff *segments = skb_gso_segment(skb, 0), *segment, *next;

	if (IS_ERR_OR_NULL(segments)) {
		upr_count(ring, UNDERPASS_RING_RX_TOO_LONG);
		return;
	}
	skb_list_walk_safe(segments, segment, next) {
		skb_mark_not_on_list(segment);
		if (!deliver(ring, segment))
			upr_count(ring, UNDERPASS_RING_RX_TOO_LONG);
		consume_skb(segment);
	}
}

rx_handler_result_t upr_receive(struct sk_buff **pskb)
{
	struct sk_buff *skb = *pskb;
	struct upr_ring *ring = rcu_dereference(skb->dev->rx_handler_data);
	const struct upr_rule *rule;

	if (skb->pkt_type == PACKET_LOOPBACK)
		return RX_HANDLER_PASS;
	if (ring->echo_type && eth_hdr(skb)->h_proto == ring->echo_type &&
	    skb->pkt_type == PACKET_HOST)
		return upr_echo(ring, skb);
	rule = rcu_dereference(ring->rule);
	if (!rule || !upr_rule_wants(rule, skb)) {
		upr_count(ring, UNDERPASS_RING_RX_NOT_SELECTED);
		return RX_HANDLER_PASS;
	}
	skb = skb_share_check(skb, GFP_ATOMIC);
	if (!skb) {
		upr_count(ring, UNDERPASS_RING_RX_NO_MEMORY);
		return RX_HANDLER_CONSUMED;
	}
	skb_push(skb, skb->data - skb_mac_header(skb));
	if (!deliver(ring, skb))
		deliver_segments(ring, skb);
	wake_reader(ring);
	consume_skb(skb);
	return RX_HANDLER_CONSUMED;
}
