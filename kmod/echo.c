// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * The smallest protocol there is, carried out without leaving the kernel: to measure what the way
 * to a process and back costs.
 */

#include <linux/etherdevice.h>

#include "ring.h"

/* Sends a frame that has just been received back to where it came from. */
rx_handler_result_t upr_echo(struct upr_ring *ring, struct sk_buff *skb)
{
	u8 station[ETH_ALEN];
	struct ethhdr *eth;

	skb = skb_share_check(skb, GFP_ATOMIC);
	if (!skb || skb_cow_head(skb, 0)) {
		kfree_skb(skb);
		upr_count(ring, UNDERPASS_RING_RX_NO_MEMORY);
		return RX_HANDLER_CONSUMED;
	}
	skb_push(skb, skb->data - skb_mac_header(skb));
	skb_scrub_packet(skb, false);
	skb_forward_csum(skb);
	eth = eth_hdr(skb);
	ether_addr_copy(station, eth->h_source);
	ether_addr_copy(eth->h_source, eth->h_dest);
	ether_addr_copy(eth->h_dest, station);
	upr_count(ring, UNDERPASS_RING_ECHOES);
	dev_queue_xmit(skb);
	return RX_HANDLER_CONSUMED;
}
