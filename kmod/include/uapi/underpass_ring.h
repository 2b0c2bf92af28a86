/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR MIT */
/*
 * A packet ring of a network interface, shared with a process.
 *
 * open		/dev/underpass_ring, with CAP_NET_ADMIN in the network namespace of
 *		the caller, where the interface is looked for
 * SETUP	makes the rings and the frames
 * mmap		maps them, MAP_SHARED, at the offsets that SETUP has returned
 * ATTACH	takes an interface, which nobody else can attach to meanwhile; once per
 *		descriptor
 * RULE		says which of its frames are wanted; the kernel keeps the others
 * DOORBELL	sends what the transmit ring holds
 * poll		is readable when the receive ring holds a frame; EPOLLERR when the
 *		interface is down, with EPOLLHUP when it is gone
 *
 * The interface is let go when the last descriptor and the last mapping are gone.
 *
 * Four rings with one producer and one consumer each. An index counts entries and
 * wraps at 2^32; its entry is the index modulo the number of slots.
 *
 *	ring		entries				producer
 *	rx		struct underpass_ring_frame	kernel
 *	fill		__u32, number of a free frame	process
 *	tx		struct underpass_ring_frame	process
 *	completion	__u32, number of a sent frame	kernel
 *
 * Frames 0 to rx_slots - 1 are for receiving, the tx_slots frames behind them for
 * sending. Frame N begins at frames_offset + N * frame_len.
 */
#ifndef _UAPI_UNDERPASS_RING_H
#define _UAPI_UNDERPASS_RING_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Another one whenever anything below changes its meaning. */
#define UNDERPASS_RING_ABI		1

#define UNDERPASS_RING_MIN_SLOTS	2
#define UNDERPASS_RING_MAX_SLOTS	32768
#define UNDERPASS_RING_MIN_FRAME	2048
#define UNDERPASS_RING_MAX_FRAME	65536
/* Bytes of all rings and frames together. */
#define UNDERPASS_RING_MAX_BYTES	(512UL << 20)
#define UNDERPASS_RING_MAX_TARGETS	4096
#define UNDERPASS_RING_MAX_POLL_US	1000000

/* SETUP: once per descriptor. Numbers of slots and lengths are powers of two. */
struct underpass_ring_setup {
	__u32 abi;		/* the caller's; EPROTO and the module's if they differ */
	__u32 rx_slots;		/* of the rx and the fill ring */
	__u32 tx_slots;		/* of the tx and the completion ring */
	__u32 frame_len;	/* bytes */
	/* Answers. Offsets into the mapping, in bytes; the control page is at 0. */
	__u64 map_len;
	__u64 rx_offset;
	__u64 fill_offset;
	__u64 tx_offset;
	__u64 completion_offset;
	__u64 frames_offset;
};

/* ATTACH */
struct underpass_ring_attach {
	__u32 ifindex;
	/*
	 * Frames of this EtherType to the interface's address go back to their sender from
	 * within the kernel, and nobody else sees them. 0: none.
	 */
	__u16 echo_type;
	__u16 reserved;		/* 0 */
	/*
	 * A kernel thread sends what comes into the tx ring, and sleeps when so many
	 * microseconds have brought nothing. 0: no thread, each burst needs a doorbell.
	 */
	__u32 tx_poll_us;
};

/* Words that both sides read, each on a cache line of its own. */
struct underpass_ring_word {
	__u32 value;
	__u32 reserved[15];
};

/* The first page of the mapping. */
struct underpass_ring_control {
	struct underpass_ring_word rx_producer;
	struct underpass_ring_word rx_consumer;
	struct underpass_ring_word fill_producer;
	struct underpass_ring_word fill_consumer;
	struct underpass_ring_word tx_producer;
	struct underpass_ring_word tx_consumer;
	struct underpass_ring_word completion_producer;
	struct underpass_ring_word completion_consumer;
	/*
	 * 1: wake whoever polls when a frame comes. Set by poll(), and by who is about to
	 * sleep on a descriptor that it polled before; cleared by the kernel when it wakes.
	 * Set it, then (full barrier) look at rx_producer once more.
	 */
	struct underpass_ring_word rx_wakeup;
	/*
	 * 1: nobody looks at the tx ring before the next DOORBELL. Written by the kernel.
	 * Publish tx_producer, then (full barrier) look at this.
	 */
	struct underpass_ring_word tx_doorbell;
	/* enum underpass_ring_state, written by the kernel. */
	struct underpass_ring_word state;
};

enum underpass_ring_state {
	UNDERPASS_RING_DETACHED,
	UNDERPASS_RING_DOWN,	/* the interface is, and may come up again */
	UNDERPASS_RING_UP,
	UNDERPASS_RING_GONE,	/* the interface was removed, or has left the namespace */
};

/*
 * An entry of the rx and tx rings. What follows `len` is a struct virtio_net_hdr in the
 * machine's byte order, with the meaning it has in front of the frames of a packet socket.
 * Of its gso_types, 0, TCPV4 and TCPV6 are sent; with the latter NEEDS_CSUM.
 */
struct underpass_ring_frame {
	__u32 number;
	__u32 len;		/* bytes, from the Ethernet header on */
	__u8 flags;
	__u8 gso_type;
	__u16 hdr_len;
	__u16 gso_size;
	__u16 csum_start;
	__u16 csum_offset;
	__u16 reserved;
};

/* RULE */
struct underpass_ring_rule {
	__u32 flags;		/* UNDERPASS_RING_TAKE_ALL, UNDERPASS_RING_OWN_MAC */
	__u16 vlan;		/* of the frames that are wanted; 0: untagged */
	__u8 mac[6];		/* the station's */
	__u32 target_count;
	__u64 targets;		/* address of so many struct underpass_ring_target */
};

/* Every frame is wanted. */
#define UNDERPASS_RING_TAKE_ALL		(1 << 0)
/* `mac` is not the interface's: what is sent to it is wanted. */
#define UNDERPASS_RING_OWN_MAC		(1 << 1)

/*
 * Frames to the station or to a group that are wanted. `kind` is a family and a shape, which
 * says what of the others counts.
 */
struct underpass_ring_target {
	__u8 address[16];	/* destination, or the big-endian VLAN of an EtherType */
	__be16 port;		/* destination port, or EtherType */
	__u8 protocol;
	__u8 kind;
	__u32 flags;		/* UNDERPASS_RING_PACKETS, UNDERPASS_RING_NEIGHBOR */
};

#define UNDERPASS_RING_FAMILY_ANY	0x00
#define UNDERPASS_RING_FAMILY_IPV4	0x04
#define UNDERPASS_RING_FAMILY_IPV6	0x06
#define UNDERPASS_RING_ETHER_TYPE	0x08	/* with no shape */

#define UNDERPASS_RING_SHAPE_WHOLE	0x10	/* neither protocol nor port */
#define UNDERPASS_RING_SHAPE_PROTOCOL	0x20
#define UNDERPASS_RING_SHAPE_PORT	0x30	/* protocol and port */

/* Packets to the address. */
#define UNDERPASS_RING_PACKETS		(1 << 0)
/* Questions and answers about its link address. */
#define UNDERPASS_RING_NEIGHBOR		(1 << 1)

/* STATS: what has happened since SETUP. */
enum underpass_ring_counter {
	UNDERPASS_RING_RX_FRAMES,	/* delivered */
	UNDERPASS_RING_RX_NOT_SELECTED,	/* left to the kernel */
	UNDERPASS_RING_RX_NO_FRAME,	/* lost: the fill ring was empty */
	UNDERPASS_RING_RX_RING_FULL,	/* lost */
	UNDERPASS_RING_RX_TOO_LONG,	/* lost: longer than a frame, and not to be cut */
	UNDERPASS_RING_RX_NO_MEMORY,	/* lost */
	UNDERPASS_RING_RX_BAD_FILL,	/* entries of the fill ring that name no receive frame */
	UNDERPASS_RING_TX_FRAMES,	/* handed to the interface's queue */
	UNDERPASS_RING_TX_COPIED,	/* of these, those that were copied whole */
	UNDERPASS_RING_TX_DROPPED,	/* the queue dropped them */
	UNDERPASS_RING_TX_BAD_FRAME,	/* entries of the tx ring that were refused */
	UNDERPASS_RING_TX_COMPLETED,	/* entries written to the completion ring */
	UNDERPASS_RING_BAD_INDEX,	/* an index of the process's was beyond its ring */
	UNDERPASS_RING_ECHOES,		/* sent back by the kernel */
	UNDERPASS_RING_COUNTERS,
};

struct underpass_ring_stats {
	__u64 count[UNDERPASS_RING_COUNTERS];
};

#define UNDERPASS_RING_IOC_SETUP	_IOWR(0xb7, 0, struct underpass_ring_setup)
#define UNDERPASS_RING_IOC_ATTACH	_IOW(0xb7, 1, struct underpass_ring_attach)
#define UNDERPASS_RING_IOC_RULE		_IOW(0xb7, 2, struct underpass_ring_rule)
#define UNDERPASS_RING_IOC_DOORBELL	_IO(0xb7, 3)
#define UNDERPASS_RING_IOC_STATS	_IOR(0xb7, 4, struct underpass_ring_stats)

#endif
