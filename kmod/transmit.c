// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * From the ring to the interface: in the doorbell call, or on a thread if there is one.
 *
 * The first HEADER_LEN bytes of a frame are copied, the rest is sent from the pages where it lies.
 * They stay with the packet, whatever becomes of the ring, until it is freed; then the frame is in
 * the completion ring. The process can change bytes while they are on their way, and harms nobody
 * but itself: what the kernel reads for decisions is in the copy (where it needs more, it copies
 * more: pskb_may_pull()), and a packet for this machine is copied whole before it is looked at
 * (skb_orphan_frags()), as with MSG_ZEROCOPY and vhost.
 */

#include <linux/etherdevice.h>
#include <linux/if_vlan.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/virtio_net.h>

#include "compat.h"
#include "ring.h"

/* Frames up to this length are copied whole: it is quicker than holding their pages. */
#define HEADER_LEN 256
/* Frames that are sent without a break. */
#define BATCH 64

static void complete_locked(struct upr_ring *ring, u32 number)
{
	u32 place = ring->completion_producer & (ring->tx_slots - 1);

	WRITE_ONCE(ring->completion_entries[place], number);
	ring->completion_producer++;
	/* Whoever sees it sees the entry. */
	smp_store_release(&ring->shared->completion_producer.value, ring->completion_producer);
	upr_count(ring, UNDERPASS_RING_TX_COMPLETED);
}

static void complete_now(struct upr_ring *ring, u32 number)
{
	unsigned long flags;

	spin_lock_irqsave(&ring->completion_lock, flags);
	complete_locked(ring, number);
	spin_unlock_irqrestore(&ring->completion_lock, flags);
}

/* A packet over the frame was freed or copied; it may have been cloned meanwhile. */
static void upr_tx_complete(struct sk_buff *skb, struct ubuf_info *ubuf, bool success)
{
	struct upr_tx_frame *frame = container_of(ubuf, struct upr_tx_frame, ubuf);
	struct upr_ring *ring = frame->ring;
	unsigned long flags;

	if (!refcount_dec_and_test(&ubuf->refcnt))
		return;
	/* So that the exit of the module waits for the end of this function. */
	rcu_read_lock();
	spin_lock_irqsave(&ring->completion_lock, flags);
	frame->in_flight = false;
	ring->in_flight--;
	complete_locked(ring, frame->number);
	spin_unlock_irqrestore(&ring->completion_lock, flags);
	upr_ring_put(ring);
	rcu_read_unlock();
}

UPR_UBUF_OPS(ubuf_operations, upr_tx_complete);

void upr_tx_frames_init(struct upr_ring *ring)
{
	u32 i;

	for (i = 0; i < ring->tx_slots; i++) {
		struct upr_tx_frame *frame = &ring->tx_frames[i];

		upr_ubuf_init(&frame->ubuf, ubuf_operations);
		frame->ubuf.flags = SKBFL_ZEROCOPY_FRAG;
		frame->ring = ring;
		frame->number = ring->rx_slots + i;
	}
}

/* Whether the completion ring will have room for one more frame than are on their way to it. */
static bool has_room_to_complete(struct upr_ring *ring)
{
	/* What is there was read before it. */
	u32 consumer = smp_load_acquire(&ring->shared->completion_consumer.value);
	unsigned long flags;
	u32 waiting;

	spin_lock_irqsave(&ring->completion_lock, flags);
	waiting = ring->completion_producer - consumer;
	if (waiting > ring->tx_slots) {
		upr_count(ring, UNDERPASS_RING_BAD_INDEX);
		waiting = ring->tx_slots;
	}
	waiting += ring->in_flight;
	spin_unlock_irqrestore(&ring->completion_lock, flags);
	return waiting < ring->tx_slots;
}

/* A copy of an entry, each word of it read once. */
static struct underpass_ring_frame read_entry(const struct underpass_ring_frame *entry)
{
	struct underpass_ring_frame copy = {
		.number = READ_ONCE(entry->number),
		.len = READ_ONCE(entry->len),
		.flags = READ_ONCE(entry->flags),
		.gso_type = READ_ONCE(entry->gso_type),
		.hdr_len = READ_ONCE(entry->hdr_len),
		.gso_size = READ_ONCE(entry->gso_size),
		.csum_start = READ_ONCE(entry->csum_start),
		.csum_offset = READ_ONCE(entry->csum_offset),
	};

	return copy;
}

/* Whether the entry names a frame for sending, and asks for what makes sense. */
static bool is_valid(const struct upr_ring *ring, const struct underpass_ring_frame *entry)
{
	const struct net_device *dev = ring->dev;

	/* Less than nothing is a large number. */
	if (entry->number - ring->rx_slots >= ring->tx_slots ||
	    entry->len < ETH_HLEN || entry->len > ring->frame_len ||
	    entry->flags & ~VIRTIO_NET_HDR_F_NEEDS_CSUM)
		return false;
	switch (entry->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
	case VIRTIO_NET_HDR_GSO_NONE:
		return !entry->gso_type && entry->len <= dev->mtu + ETH_HLEN + VLAN_HLEN;
	case VIRTIO_NET_HDR_GSO_TCPV4:
	case VIRTIO_NET_HDR_GSO_TCPV6:
		return entry->flags && entry->hdr_len <= entry->len;
	default:
		return false;
	}
}

/* Adds the bytes from `offset` on, where they lie. */
static void attach_pages(struct upr_ring *ring, struct sk_buff *skb, u32 number, u32 offset,
			 u32 len)
{
	size_t at = (size_t)number * ring->frame_len + offset;
	u32 left = len;

	while (left) {
		struct page *page = ring->pages[ring->frames_page + (at >> PAGE_SHIFT)];
		u32 start = offset_in_page(at);
		u32 part = min_t(u32, left, PAGE_SIZE - start);

		get_page(page);
		skb_fill_page_desc(skb, skb_shinfo(skb)->nr_frags, page, start, part);
		at += part;
		left -= part;
	}
	skb->len += len;
	skb->data_len += len;
	skb->truesize += len;
}

/* Finds the headers, and carries out what the entry asks for. */
static int parse(struct sk_buff *skb, const struct underpass_ring_frame *entry)
{
	const struct virtio_net_hdr request = {
		.flags = entry->flags,
		.gso_type = entry->gso_type,
		.hdr_len = (__force __virtio16)entry->hdr_len,
		.gso_size = (__force __virtio16)entry->gso_size,
		.csum_start = (__force __virtio16)entry->csum_start,
		.csum_offset = (__force __virtio16)entry->csum_offset,
	};
	int depth;

	skb_reset_mac_header(skb);
	skb_set_network_header(skb, ETH_HLEN);
	skb->protocol = dev_parse_header_protocol(skb);
	if (eth_type_vlan(skb->protocol) && __vlan_get_protocol(skb, skb->protocol, &depth))
		skb_set_network_header(skb, depth);
	if (virtio_net_hdr_to_skb(skb, &request, virtio_legacy_is_little_endian()))
		return -EINVAL;
	skb_probe_transport_header(skb);
	return 0;
}

/* An error pointer: -ENOMEM, or -EINVAL if the frame contradicts its entry. */
static struct sk_buff *build(struct upr_ring *ring, const struct underpass_ring_frame *entry)
{
	struct net_device *dev = ring->dev;
	u32 copied = min_t(u32, entry->len, HEADER_LEN);
	struct sk_buff *skb;
	int err;

	skb = alloc_skb(LL_RESERVED_SPACE(dev) + HEADER_LEN + dev->needed_tailroom,
			GFP_ATOMIC | __GFP_NOWARN);
	if (!skb)
		return ERR_PTR(-ENOMEM);
	skb_reserve(skb, LL_RESERVED_SPACE(dev));
	skb_put_data(skb, upr_frame(ring, entry->number), copied);
	if (entry->len > copied)
		attach_pages(ring, skb, entry->number, copied, entry->len - copied);
	skb->dev = dev;
	err = parse(skb, entry);
	if (err) {
		kfree_skb(skb);
		return ERR_PTR(err);
	}
	return skb;
}

/* False: the frame is in flight already. */
static bool launch(struct upr_ring *ring, u32 number)
{
	struct upr_tx_frame *frame = &ring->tx_frames[number - ring->rx_slots];
	unsigned long flags;
	bool was_in_flight;

	spin_lock_irqsave(&ring->completion_lock, flags);
	was_in_flight = frame->in_flight;
	if (!was_in_flight) {
		frame->in_flight = true;
		ring->in_flight++;
	}
	spin_unlock_irqrestore(&ring->completion_lock, flags);
	return !was_in_flight;
}

/* From here on the packet holds the ring, and its end completes the frame. */
static void tie(struct upr_ring *ring, struct sk_buff *skb, u32 number)
{
	struct ubuf_info *ubuf = &ring->tx_frames[number - ring->rx_slots].ubuf;

	kref_get(&ring->refs);
	refcount_set(&ubuf->refcnt, 1);
	skb_zcopy_init(skb, ubuf);
}

static void land(struct upr_ring *ring, u32 number)
{
	struct upr_tx_frame *frame = &ring->tx_frames[number - ring->rx_slots];
	unsigned long flags;

	spin_lock_irqsave(&ring->completion_lock, flags);
	frame->in_flight = false;
	ring->in_flight--;
	spin_unlock_irqrestore(&ring->completion_lock, flags);
}

/* Sends one frame. An error: nothing has been done, for want of memory. */
static int send(struct upr_ring *ring, const struct underpass_ring_frame *entry)
{
	u32 number = entry->number;
	struct sk_buff *skb;
	bool copied;
	int err;

	if (!is_valid(ring, entry) || !launch(ring, number)) {
		upr_count(ring, UNDERPASS_RING_TX_BAD_FRAME);
		return 0;
	}
	skb = build(ring, entry);
	if (IS_ERR(skb)) {
		land(ring, number);
		if (PTR_ERR(skb) == -ENOMEM)
			return -ENOMEM;
		upr_count(ring, UNDERPASS_RING_TX_BAD_FRAME);
		complete_now(ring, number);
		return 0;
	}
	copied = !skb_is_nonlinear(skb);
	if (copied) {
		land(ring, number);
		complete_now(ring, number);
		upr_count(ring, UNDERPASS_RING_TX_COPIED);
	} else {
		tie(ring, skb, number);
	}
	upr_count(ring, UNDERPASS_RING_TX_FRAMES);
	err = dev_queue_xmit(skb);
	if (net_xmit_eval(err))
		upr_count(ring, UNDERPASS_RING_TX_DROPPED);
	return 0;
}

/* Sends up to a batch. Returns how many entries were taken, or an error if none could be. */
static int send_batch(struct upr_ring *ring)
{
	/* The entries were written before it. */
	u32 producer = smp_load_acquire(&ring->shared->tx_producer.value);
	u32 waiting = producer - ring->tx_consumer;
	int taken = 0, err = 0;

	if (waiting > ring->tx_slots) {
		upr_count(ring, UNDERPASS_RING_BAD_INDEX);
		return -EBADMSG;
	}
	/* What the packets raise runs once, at the end, and not after each. */
	local_bh_disable();
	while (taken < waiting && taken < BATCH) {
		u32 place = ring->tx_consumer & (ring->tx_slots - 1);
		struct underpass_ring_frame entry = read_entry(&ring->tx_entries[place]);

		err = has_room_to_complete(ring) ? send(ring, &entry) : -EAGAIN;
		if (err)
			break;
		ring->tx_consumer++;
		taken++;
	}
	/* The entries were read: they may be written again. */
	smp_store_release(&ring->shared->tx_consumer.value, ring->tx_consumer);
	local_bh_enable();
	return taken ?: err;
}

static int check_interface(const struct upr_ring *ring)
{
	if (!ring->dev)
		return -ENODEV;
	return ring->dev->flags & IFF_UP ? 0 : -ENETDOWN;
}

/* What the ring holds now. An error if nothing of it could be sent. */
static int send_all(struct upr_ring *ring)
{
	u32 most = ring->tx_slots;
	int taken, err;

	do {
		mutex_lock(&ring->tx_lock);
		err = check_interface(ring);
		taken = err ?: send_batch(ring);
		mutex_unlock(&ring->tx_lock);
		if (taken <= 0)
			return taken;
		most -= min_t(u32, most, taken);
		cond_resched();
	} while (most && !signal_pending(current));
	return 0;
}

/* DOORBELL */
int upr_transmit(struct upr_ring *ring)
{
	int err;

	mutex_lock(&ring->tx_lock);
	err = check_interface(ring);
	if (!err && ring->tx_thread) {
		wake_up_process(ring->tx_thread);
		mutex_unlock(&ring->tx_lock);
		return 0;
	}
	mutex_unlock(&ring->tx_lock);
	return err ?: send_all(ring);
}

/* Unless the process has published more than it had when `seen` was read. */
static void sleep_until_doorbell(struct upr_ring *ring, u32 seen)
{
	WRITE_ONCE(ring->shared->tx_doorbell.value, 1);
	set_current_state(TASK_INTERRUPTIBLE);
	/* With its barrier: the process sees the flag, or we see its frame. */
	if (READ_ONCE(ring->shared->tx_producer.value) == seen && !kthread_should_stop())
		schedule();
	__set_current_state(TASK_RUNNING);
	WRITE_ONCE(ring->shared->tx_doorbell.value, 0);
}

static int tx_thread(void *argument)
{
	struct upr_ring *ring = argument;
	ktime_t idle_since = ktime_get();

	WRITE_ONCE(ring->shared->tx_doorbell.value, 0);
	while (!kthread_should_stop()) {
		u32 seen = READ_ONCE(ring->shared->tx_producer.value);
		u32 consumer = READ_ONCE(ring->tx_consumer);

		if (seen != consumer)
			send_all(ring);
		if (READ_ONCE(ring->tx_consumer) != consumer) {
			idle_since = ktime_get();
		} else if (ktime_us_delta(ktime_get(), idle_since) >= ring->tx_poll_us) {
			sleep_until_doorbell(ring, seen);
			idle_since = ktime_get();
		}
		cond_resched();
	}
	WRITE_ONCE(ring->shared->tx_doorbell.value, 1);
	return 0;
}

/* Under rtnl. */
int upr_tx_thread_start(struct upr_ring *ring, const char *name)
{
	struct task_struct *thread = kthread_run(tx_thread, ring, "upr_tx/%s", name);

	if (IS_ERR(thread))
		return PTR_ERR(thread);
	mutex_lock(&ring->tx_lock);
	ring->tx_thread = thread;
	mutex_unlock(&ring->tx_lock);
	return 0;
}

/* Under rtnl. */
void upr_tx_thread_stop(struct upr_ring *ring)
{
	struct task_struct *thread = ring->tx_thread;

	if (!thread)
		return;
	mutex_lock(&ring->tx_lock);
	ring->tx_thread = NULL;
	mutex_unlock(&ring->tx_lock);
	kthread_stop(thread);
}
