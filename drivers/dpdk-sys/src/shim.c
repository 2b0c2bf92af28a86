#define _GNU_SOURCE

#include "shim.h"

static void describe(struct rte_mbuf *mbuf, struct up_mbuf *to)
{
	to->mbuf = mbuf;
	to->buffer = mbuf->buf_addr;
	to->flags = mbuf->ol_flags;
	to->pkt_len = mbuf->pkt_len;
	to->rss = mbuf->hash.rss;
	to->buf_len = mbuf->buf_len;
	to->data_off = mbuf->data_off;
	to->data_len = mbuf->data_len;
	to->nb_segs = mbuf->nb_segs;
	to->refcnt = rte_mbuf_refcnt_read(mbuf);
	/* On another cache line, which is not looked at for every frame. */
	to->segment = mbuf->ol_flags & RTE_MBUF_F_RX_LRO ? mbuf->tso_segsz : 0;
}

uint16_t up_rx_burst(uint16_t port, uint16_t queue, struct up_mbuf *frames, uint16_t count)
{
	struct rte_mbuf *mbufs[UP_BURST];
	uint16_t taken, i;

	taken = rte_eth_rx_burst(port, queue, mbufs, RTE_MIN(count, UP_BURST));
	for (i = 0; i < taken; i++)
		describe(mbufs[i], &frames[i]);
	return taken;
}

uint16_t up_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, mbufs, count);
}

uint16_t up_tx_prepare(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_tx_prepare(port, queue, mbufs, count);
}

bool up_next_segment(const struct up_mbuf *segment, struct up_mbuf *next)
{
	struct rte_mbuf *mbuf = segment->mbuf->next;

	if (mbuf == NULL)
		return false;
	describe(mbuf, next);
	return true;
}

int up_alloc_bulk(struct rte_mempool *pool, struct up_mbuf *mbufs, uint16_t count)
{
	struct rte_mbuf *taken[UP_BURST];
	uint16_t i;

	if (count > UP_BURST || rte_pktmbuf_alloc_bulk(pool, taken, count) != 0)
		return -1;
	for (i = 0; i < count; i++)
		describe(taken[i], &mbufs[i]);
	return 0;
}

void up_set_len(struct rte_mbuf *mbuf, uint16_t len)
{
	mbuf->data_len = len;
	mbuf->pkt_len = len;
}

void up_append(struct rte_mbuf *first, struct rte_mbuf *last, struct rte_mbuf *segment)
{
	last->next = segment;
	first->nb_segs++;
	first->pkt_len += segment->data_len;
}

void up_request(struct rte_mbuf *mbuf, uint64_t flags, uint8_t l2, uint16_t l3, uint8_t l4,
		uint16_t segment)
{
	mbuf->ol_flags |= flags;
	mbuf->l2_len = l2;
	mbuf->l3_len = l3;
	mbuf->l4_len = l4;
	mbuf->tso_segsz = segment;
}

void up_ring_drain(struct rte_ring *ring)
{
	void *mbuf;

	while (rte_ring_dequeue(ring, &mbuf) == 0)
		rte_pktmbuf_free(mbuf);
}

uint32_t up_link_speed(uint16_t port)
{
	struct rte_eth_link link = { 0 };

	if (rte_eth_link_get_nowait(port, &link) != 0 || link.link_status == RTE_ETH_LINK_DOWN)
		return 0;
	/* Some virtual links tell none. */
	return RTE_MAX(link.link_speed, 1u);
}

int up_errno(void)
{
	return rte_errno;
}

static void (*log_line)(const char *bytes, size_t len, int level);

static ssize_t log_write(void *cookie, const char *bytes, size_t len)
{
	(void)cookie;
	log_line(bytes, len, rte_log_cur_msg_loglevel());
	return len;
}

FILE *up_log_stream(void (*write)(const char *bytes, size_t len, int level))
{
	cookie_io_functions_t functions = { .write = log_write };

	log_line = write;
	return fopencookie(NULL, "w", functions);
}
