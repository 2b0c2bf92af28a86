/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* What the files of the module share. */
#ifndef UPR_RING_H
#define UPR_RING_H

#include <linux/kref.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/netdevice.h>
#include <linux/skbuff.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "underpass_ring.h"

/* A frame for sending, and what comes back when the last packet over it is freed. */
struct upr_tx_frame {
	struct ubuf_info ubuf;
	struct upr_ring *ring;
	u32 number;
	bool in_flight;			/* completion_lock */
};

/*
 * One open descriptor. The file holds a reference, and so does every packet in flight that
 * lies in its frames.
 *
 * Indices and lengths that the process writes are read once and checked. The kernel never
 * reads back what it has written to shared memory: its own indices are here.
 *
 * Locks, outer first: control, rtnl, tx_lock, completion_lock. rx_lock stands alone.
 */
struct upr_ring {
	struct kref refs;
	struct work_struct free_work;
	struct net *net;
	struct mutex control;		/* SETUP and ATTACH, one at a time */

	/* Fixed once `ready` is set. */
	bool ready;
	u32 rx_slots;
	u32 tx_slots;
	u32 frame_len;
	struct page **pages;
	unsigned long page_count;
	unsigned long frames_page;	/* the first page of the frames */
	u8 *frames;
	struct underpass_ring_control *shared;
	struct underpass_ring_frame *rx_entries;
	u32 *fill_entries;
	struct underpass_ring_frame *tx_entries;
	u32 *completion_entries;
	struct upr_tx_frame *tx_frames;

	/* Changed under rtnl and tx_lock. */
	struct net_device *dev;
	netdevice_tracker dev_tracker;
	struct task_struct *tx_thread;
	u32 state;			/* enum underpass_ring_state */
	/* Fixed while attached. */
	__be16 echo_type;
	u32 tx_poll_us;

	struct upr_rule __rcu *rule;
	wait_queue_head_t wait;

	spinlock_t rx_lock;		/* protects what follows */
	u32 rx_producer;
	u32 fill_consumer;

	struct mutex tx_lock;		/* protects what follows, and `dev` */
	u32 tx_consumer;

	spinlock_t completion_lock;	/* protects what follows */
	u32 completion_producer;
	u32 in_flight;

	atomic64_t count[UNDERPASS_RING_COUNTERS];
};

static inline void upr_count(struct upr_ring *ring, enum underpass_ring_counter what)
{
	atomic64_inc(&ring->count[what]);
}

/* The bytes of a frame whose number was checked. */
static inline u8 *upr_frame(const struct upr_ring *ring, u32 number)
{
	return ring->frames + (size_t)number * ring->frame_len;
}

/* device.c */
void upr_ring_put(struct upr_ring *ring);

/* area.c */
int upr_area_create(struct upr_ring *ring, struct underpass_ring_setup *setup);
void upr_area_destroy(struct upr_ring *ring);

/* interface.c */
int upr_attach(struct upr_ring *ring, const struct underpass_ring_attach *attach);
void upr_detach(struct upr_ring *ring);
int upr_interface_init(void);
void upr_interface_exit(void);

/* receive.c */
rx_handler_result_t upr_receive(struct sk_buff **pskb);

/* transmit.c */
int upr_transmit(struct upr_ring *ring);
void upr_tx_frames_init(struct upr_ring *ring);
int upr_tx_thread_start(struct upr_ring *ring, const char *name);
void upr_tx_thread_stop(struct upr_ring *ring);

/* rule.c */
int upr_rule_set(struct upr_ring *ring, const struct underpass_ring_rule *wanted);
void upr_rule_free(struct upr_ring *ring);
bool upr_rule_wants(const struct upr_rule *rule, const struct sk_buff *skb);

/* echo.c */
rx_handler_result_t upr_echo(struct upr_ring *ring, struct sk_buff *skb);

#endif
