/* What the bindings are made of: the headers of DPDK, and callable twins of what they define inline. */

#ifndef UNDERPASS_DPDK_SHIM_H
#define UNDERPASS_DPDK_SHIM_H

#include <stdbool.h>
#include <stdio.h>

#include <rte_alarm.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_eth_ring.h>
#include <rte_ethdev.h>
#include <rte_log.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_ring.h>
#include <rte_version.h>

/* What a poll-mode driver says of an mbuf. The layout of struct rte_mbuf changes between releases. */
struct up_mbuf {
	struct rte_mbuf *mbuf;
	/* Where its buffer begins; buf_len bytes belong to it. */
	uint8_t *buffer;
	uint64_t flags;
	uint32_t pkt_len;
	uint32_t rss;
	uint16_t buf_len;
	uint16_t data_off;
	uint16_t data_len;
	uint16_t nb_segs;
	uint16_t refcnt;
	/* Payload bytes of the packets that it was coalesced from, if flags say so. */
	uint16_t segment;
};

#define UP_BURST 64

/* At most UP_BURST frames. */
uint16_t up_rx_burst(uint16_t port, uint16_t queue, struct up_mbuf *frames, uint16_t count);
uint16_t up_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
uint16_t up_tx_prepare(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

/* The segment that follows; false: there is none. */
bool up_next_segment(const struct up_mbuf *segment, struct up_mbuf *next);

/* At most UP_BURST mbufs, all of them or none; 0 is success. Each is as new: one segment, no flags, no
 * bytes. */
int up_alloc_bulk(struct rte_mempool *pool, struct up_mbuf *mbufs, uint16_t count);
/* A frame of one segment. */
void up_set_len(struct rte_mbuf *mbuf, uint16_t len);
/* Makes `segment`, which has its length, the one that follows `last` of the frame `first`. */
void up_append(struct rte_mbuf *first, struct rte_mbuf *last, struct rte_mbuf *segment);
/* What the device is to do with a frame: lengths of its headers, and of the payload of a segment. */
void up_request(struct rte_mbuf *mbuf, uint64_t flags, uint8_t l2, uint16_t l3, uint8_t l4,
		uint16_t segment);

/* Takes what is left in a ring of mbufs out, and frees it. */
void up_ring_drain(struct rte_ring *ring);

/* In Mbit/s; 0: down. */
uint32_t up_link_speed(uint16_t port);

/* rte_errno is a macro over a thread-local variable. */
int up_errno(void);

/* A stream for rte_openlog_stream that hands what is logged to `write`, and how grave it is
 * (RTE_LOG_ERR and below: an error). */
FILE *up_log_stream(void (*write)(const char *bytes, size_t len, int level));

/* Macros that bindgen cannot evaluate. */
static const uint64_t UP_RX_CHECKSUMS = RTE_ETH_RX_OFFLOAD_TCP_CKSUM | RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
static const uint64_t UP_RX_LRO = RTE_ETH_RX_OFFLOAD_TCP_LRO;
static const uint64_t UP_RX_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t UP_RX_RSS_HASH = RTE_ETH_RX_OFFLOAD_RSS_HASH;
static const uint64_t UP_TX_IPV4_CHECKSUM = RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
static const uint64_t UP_TX_CHECKSUMS = RTE_ETH_TX_OFFLOAD_TCP_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
static const uint64_t UP_TX_TCP_TSO = RTE_ETH_TX_OFFLOAD_TCP_TSO;
static const uint64_t UP_TX_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
static const uint64_t UP_RSS_FLOWS = RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP;

static const uint64_t UP_MBUF_INDIRECT = RTE_MBUF_F_INDIRECT;
static const uint64_t UP_MBUF_EXTERNAL = RTE_MBUF_F_EXTERNAL;
static const uint64_t UP_MBUF_RX_L4_MASK = RTE_MBUF_F_RX_L4_CKSUM_MASK;
static const uint64_t UP_MBUF_RX_L4_BAD = RTE_MBUF_F_RX_L4_CKSUM_BAD;
static const uint64_t UP_MBUF_RX_L4_GOOD = RTE_MBUF_F_RX_L4_CKSUM_GOOD;
static const uint64_t UP_MBUF_RX_L4_NONE = RTE_MBUF_F_RX_L4_CKSUM_NONE;
static const uint64_t UP_MBUF_RX_LRO = RTE_MBUF_F_RX_LRO;
static const uint64_t UP_MBUF_RX_RSS_HASH = RTE_MBUF_F_RX_RSS_HASH;
static const uint64_t UP_MBUF_TX_IPV4 = RTE_MBUF_F_TX_IPV4;
static const uint64_t UP_MBUF_TX_IPV6 = RTE_MBUF_F_TX_IPV6;
static const uint64_t UP_MBUF_TX_IP_CHECKSUM = RTE_MBUF_F_TX_IP_CKSUM;
static const uint64_t UP_MBUF_TX_TCP_CHECKSUM = RTE_MBUF_F_TX_TCP_CKSUM;
static const uint64_t UP_MBUF_TX_UDP_CHECKSUM = RTE_MBUF_F_TX_UDP_CKSUM;
static const uint64_t UP_MBUF_TX_TCP_SEG = RTE_MBUF_F_TX_TCP_SEG;

#endif
