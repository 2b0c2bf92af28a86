// SPDX-License-Identifier: GPL-2.0 OR MIT
/* Taking an interface, and letting it go: when asked, and when it goes itself. */

#include <linux/if_arp.h>
#include <linux/notifier.h>
#include <linux/poll.h>
#include <linux/rtnetlink.h>

#include "ring.h"

static void set_state(struct upr_ring *ring, enum underpass_ring_state state)
{
	WRITE_ONCE(ring->state, state);
	WRITE_ONCE(ring->shared->state.value, state);
	wake_up_interruptible_poll(&ring->wait, EPOLLERR);
}

static int take(struct upr_ring *ring, struct net_device *dev)
{
	int err;

	if (dev->type != ARPHRD_ETHER)
		return -EOPNOTSUPP;
	/* A bridge, a bond, a macvlan or another ring may have it: EBUSY. */
	err = netdev_rx_handler_register(dev, upr_receive, ring);
	if (err)
		return err;
	/* Its frames are of no use to who needs to know where each packet ends. */
	dev_disable_lro(dev);
	netdev_hold(dev, &ring->dev_tracker, GFP_KERNEL);
	mutex_lock(&ring->tx_lock);
	ring->dev = dev;
	mutex_unlock(&ring->tx_lock);
	set_state(ring, dev->flags & IFF_UP ? UNDERPASS_RING_UP : UNDERPASS_RING_DOWN);
	return 0;
}

static void let_go(struct upr_ring *ring)
{
	struct net_device *dev = ring->dev;

	ASSERT_RTNL();
	if (!dev)
		return;
	/* No frame is on its way to the ring when it returns. */
	netdev_rx_handler_unregister(dev);
	upr_tx_thread_stop(ring);
	mutex_lock(&ring->tx_lock);
	ring->dev = NULL;
	mutex_unlock(&ring->tx_lock);
	netdev_put(dev, &ring->dev_tracker);
	set_state(ring, UNDERPASS_RING_GONE);
}

int upr_attach(struct upr_ring *ring, const struct underpass_ring_attach *attach)
{
	struct net_device *dev;
	int err;

	rtnl_lock();
	err = -EBUSY;
	if (ring->state != UNDERPASS_RING_DETACHED)
		goto out;
	err = -ENODEV;
	dev = __dev_get_by_index(ring->net, attach->ifindex);
	if (!dev)
		goto out;
	ring->echo_type = htons(attach->echo_type);
	ring->tx_poll_us = attach->tx_poll_us;
	err = take(ring, dev);
	if (!err && ring->tx_poll_us) {
		err = upr_tx_thread_start(ring, dev->name);
		if (err)
			let_go(ring);
	}
out:
	rtnl_unlock();
	return err;
}

void upr_detach(struct upr_ring *ring)
{
	rtnl_lock();
	let_go(ring);
	rtnl_unlock();
}

static int on_event(struct notifier_block *block, unsigned long event, void *info)
{
	struct net_device *dev = netdev_notifier_info_to_dev(info);
	struct upr_ring *ring;

	if (rcu_access_pointer(dev->rx_handler) != upr_receive)
		return NOTIFY_DONE;
	ring = rtnl_dereference(dev->rx_handler_data);
	switch (event) {
	case NETDEV_UP:
		set_state(ring, UNDERPASS_RING_UP);
		break;
	case NETDEV_DOWN:
		set_state(ring, UNDERPASS_RING_DOWN);
		break;
	case NETDEV_UNREGISTER:
		let_go(ring);
		break;
	}
	return NOTIFY_DONE;
}

static struct notifier_block notifier = { .notifier_call = on_event };

int upr_interface_init(void)
{
	return register_netdevice_notifier(&notifier);
}

void upr_interface_exit(void)
{
	unregister_netdevice_notifier(&notifier);
}
