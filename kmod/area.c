// SPDX-License-Identifier: GPL-2.0 OR MIT
/* The memory that kernel and process share: rings and frames, in pages of their own. */

#include <linux/log2.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "ring.h"

static bool is_size_within(u32 value, u32 least, u32 most)
{
	return is_power_of_2(value) && value >= least && value <= most;
}

/* The place for `bytes` more, at the beginning of a page. */
static u64 place(u64 *end, u64 bytes)
{
	u64 start = *end;

	*end += PAGE_ALIGN(bytes);
	return start;
}

static int lay_out(struct underpass_ring_setup *setup)
{
	u64 end = 0;

	if (!is_size_within(setup->rx_slots, UNDERPASS_RING_MIN_SLOTS, UNDERPASS_RING_MAX_SLOTS) ||
	    !is_size_within(setup->tx_slots, UNDERPASS_RING_MIN_SLOTS, UNDERPASS_RING_MAX_SLOTS) ||
	    !is_size_within(setup->frame_len, UNDERPASS_RING_MIN_FRAME, UNDERPASS_RING_MAX_FRAME))
		return -EINVAL;
	place(&end, sizeof(struct underpass_ring_control));
	setup->rx_offset = place(&end, setup->rx_slots * sizeof(struct underpass_ring_frame));
	setup->fill_offset = place(&end, setup->rx_slots * sizeof(u32));
	setup->tx_offset = place(&end, setup->tx_slots * sizeof(struct underpass_ring_frame));
	setup->completion_offset = place(&end, setup->tx_slots * sizeof(u32));
	setup->frames_offset =
		place(&end, ((u64)setup->rx_slots + setup->tx_slots) * setup->frame_len);
	setup->map_len = end;
	return end <= UNDERPASS_RING_MAX_BYTES ? 0 : -E2BIG;
}

static int allocate_pages(struct upr_ring *ring, unsigned long count)
{
	ring->pages = kvcalloc(count, sizeof(*ring->pages), GFP_KERNEL_ACCOUNT);
	if (!ring->pages)
		return -ENOMEM;
	while (ring->page_count < count) {
		struct page *page;

		if (fatal_signal_pending(current))
			return -EINTR;
		page = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO | __GFP_NOWARN);
		if (!page)
			return -ENOMEM;
		ring->pages[ring->page_count++] = page;
		cond_resched();
	}
	return 0;
}

/* Writes the offsets into `setup`. Undone by upr_area_destroy() in any case. */
int upr_area_create(struct upr_ring *ring, struct underpass_ring_setup *setup)
{
	u8 *base;
	int err;

	err = lay_out(setup);
	if (err)
		return err;
	err = allocate_pages(ring, setup->map_len >> PAGE_SHIFT);
	if (err)
		return err;
	ring->tx_frames = kvcalloc(setup->tx_slots, sizeof(*ring->tx_frames), GFP_KERNEL_ACCOUNT);
	if (!ring->tx_frames)
		return -ENOMEM;
	base = vmap(ring->pages, ring->page_count, VM_MAP, PAGE_KERNEL);
	if (!base)
		return -ENOMEM;
	ring->shared = (struct underpass_ring_control *)base;
	ring->rx_entries = (struct underpass_ring_frame *)(base + setup->rx_offset);
	ring->fill_entries = (u32 *)(base + setup->fill_offset);
	ring->tx_entries = (struct underpass_ring_frame *)(base + setup->tx_offset);
	ring->completion_entries = (u32 *)(base + setup->completion_offset);
	ring->frames = base + setup->frames_offset;
	ring->frames_page = setup->frames_offset >> PAGE_SHIFT;
	ring->rx_slots = setup->rx_slots;
	ring->tx_slots = setup->tx_slots;
	ring->frame_len = setup->frame_len;
	return 0;
}

/* Pages that a process has mapped live on until it has not. */
void upr_area_destroy(struct upr_ring *ring)
{
	if (ring->shared)
		vunmap(ring->shared);
	ring->shared = NULL;
	while (ring->page_count)
		put_page(ring->pages[--ring->page_count]);
	kvfree(ring->pages);
	ring->pages = NULL;
	kvfree(ring->tx_frames);
	ring->tx_frames = NULL;
}
