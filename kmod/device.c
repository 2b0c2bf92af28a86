// SPDX-License-Identifier: GPL-2.0 OR MIT
/* The character device: the life of a descriptor, and what can be asked of it. */

#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/nsproxy.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <net/net_namespace.h>

#include "ring.h"

/* Frees rings: packets end in interrupts, where nothing may be unmapped. */
static struct workqueue_struct *free_queue;

static void free_ring(struct work_struct *work)
{
	struct upr_ring *ring = container_of(work, struct upr_ring, free_work);

	upr_rule_free(ring);
	upr_area_destroy(ring);
	put_net(ring->net);
	kfree(ring);
	/* Not the end of this function: the exit waits for the queue. */
	module_put(THIS_MODULE);
}

static void last_reference_gone(struct kref *refs)
{
	struct upr_ring *ring = container_of(refs, struct upr_ring, refs);

	queue_work(free_queue, &ring->free_work);
}

void upr_ring_put(struct upr_ring *ring)
{
	kref_put(&ring->refs, last_reference_gone);
}

static int upr_open(struct inode *inode, struct file *file)
{
	struct net *net = current->nsproxy->net_ns;
	struct upr_ring *ring;

	if (!ns_capable(net->user_ns, CAP_NET_ADMIN))
		return -EPERM;
	ring = kzalloc(sizeof(*ring), GFP_KERNEL_ACCOUNT);
	if (!ring)
		return -ENOMEM;
	kref_init(&ring->refs);
	INIT_WORK(&ring->free_work, free_ring);
	ring->net = get_net(net);
	mutex_init(&ring->control);
	init_waitqueue_head(&ring->wait);
	spin_lock_init(&ring->rx_lock);
	mutex_init(&ring->tx_lock);
	spin_lock_init(&ring->completion_lock);
	/* Packets in flight may outlive the file, which holds the module only while it is open. */
	__module_get(THIS_MODULE);
	file->private_data = ring;
	return nonseekable_open(inode, file);
}

static int upr_release(struct inode *inode, struct file *file)
{
	struct upr_ring *ring = file->private_data;

	upr_detach(ring);
	upr_ring_put(ring);
	return 0;
}

static int set_up(struct upr_ring *ring, struct underpass_ring_setup __user *user)
{
	struct underpass_ring_setup setup;
	int err;

	if (copy_from_user(&setup, user, sizeof(setup)))
		return -EFAULT;
	if (setup.abi != UNDERPASS_RING_ABI) {
		setup.abi = UNDERPASS_RING_ABI;
		return copy_to_user(user, &setup, sizeof(setup)) ? -EFAULT : -EPROTO;
	}
	mutex_lock(&ring->control);
	err = -EALREADY;
	if (!ring->ready) {
		err = upr_area_create(ring, &setup);
		if (err) {
			upr_area_destroy(ring);
		} else {
			upr_tx_frames_init(ring);
			WRITE_ONCE(ring->shared->tx_doorbell.value, 1);
			/* Whoever sees it sees all of the area. */
			smp_store_release(&ring->ready, true);
		}
	}
	mutex_unlock(&ring->control);
	if (err)
		return err;
	return copy_to_user(user, &setup, sizeof(setup)) ? -EFAULT : 0;
}

static int attach(struct upr_ring *ring, const struct underpass_ring_attach __user *user)
{
	struct underpass_ring_attach attach;
	int err;

	if (copy_from_user(&attach, user, sizeof(attach)))
		return -EFAULT;
	if (attach.reserved || attach.tx_poll_us > UNDERPASS_RING_MAX_POLL_US)
		return -EINVAL;
	mutex_lock(&ring->control);
	err = upr_attach(ring, &attach);
	mutex_unlock(&ring->control);
	return err;
}

static int set_rule(struct upr_ring *ring, const struct underpass_ring_rule __user *user)
{
	struct underpass_ring_rule rule;

	if (copy_from_user(&rule, user, sizeof(rule)))
		return -EFAULT;
	return upr_rule_set(ring, &rule);
}

static int get_stats(struct upr_ring *ring, struct underpass_ring_stats __user *user)
{
	struct underpass_ring_stats stats;
	unsigned int i;

	for (i = 0; i < UNDERPASS_RING_COUNTERS; i++)
		stats.count[i] = atomic64_read(&ring->count[i]);
	return copy_to_user(user, &stats, sizeof(stats)) ? -EFAULT : 0;
}

static bool is_ready(const struct upr_ring *ring)
{
	/* See set_up(). */
	return smp_load_acquire(&ring->ready);
}

static long upr_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	struct upr_ring *ring = file->private_data;
	void __user *user = (void __user *)argument;

	if (command == UNDERPASS_RING_IOC_SETUP)
		return set_up(ring, user);
	if (!is_ready(ring))
		return -EINVAL;
	switch (command) {
	case UNDERPASS_RING_IOC_ATTACH:
		return attach(ring, user);
	case UNDERPASS_RING_IOC_RULE:
		return set_rule(ring, user);
	case UNDERPASS_RING_IOC_DOORBELL:
		return upr_transmit(ring);
	case UNDERPASS_RING_IOC_STATS:
		return get_stats(ring, user);
	default:
		return -ENOTTY;
	}
}

static int upr_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct upr_ring *ring = file->private_data;

	if (!is_ready(ring) || !(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	return vm_map_pages(vma, ring->pages, ring->page_count);
}

static __poll_t upr_poll(struct file *file, poll_table *wait)
{
	struct upr_ring *ring = file->private_data;
	__poll_t events = 0;

	if (!is_ready(ring))
		return EPOLLERR;
	poll_wait(file, &ring->wait, wait);
	WRITE_ONCE(ring->shared->rx_wakeup.value, 1);
	/* Pairs with the one in wake_reader(): it sees the flag, or we see the frame. */
	smp_mb();
	if (READ_ONCE(ring->rx_producer) != READ_ONCE(ring->shared->rx_consumer.value))
		events |= EPOLLIN | EPOLLRDNORM;
	switch (READ_ONCE(ring->state)) {
	case UNDERPASS_RING_GONE:
		events |= EPOLLERR | EPOLLHUP;
		break;
	case UNDERPASS_RING_DOWN:
		events |= EPOLLERR;
		break;
	}
	return events;
}

static const struct file_operations upr_file_operations = {
	.owner = THIS_MODULE,
	.open = upr_open,
	.release = upr_release,
	.unlocked_ioctl = upr_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.mmap = upr_mmap,
	.poll = upr_poll,
};

/* As /dev/net/tun: what counts is the capability, which root of a user namespace has, too. */
static struct miscdevice upr_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "underpass_ring",
	.fops = &upr_file_operations,
	.mode = 0666,
};

static int __init upr_init(void)
{
	int err;

	free_queue = alloc_workqueue("underpass_ring", WQ_UNBOUND, 0);
	if (!free_queue)
		return -ENOMEM;
	err = upr_interface_init();
	if (err)
		goto no_notifier;
	err = misc_register(&upr_device);
	if (err)
		goto no_device;
	return 0;

no_device:
	upr_interface_exit();
no_notifier:
	destroy_workqueue(free_queue);
	return err;
}

/* Every ring holds the module, so there is none left, but the last free_ring() may still return. */
static void __exit upr_exit(void)
{
	misc_deregister(&upr_device);
	upr_interface_exit();
	destroy_workqueue(free_queue);
	/* And so may the end of the packet that let the last ring go. */
	synchronize_rcu();
}

module_init(upr_init);
module_exit(upr_exit);

MODULE_DESCRIPTION("Packet ring of a network interface for Underpass");
MODULE_AUTHOR("The Underpass authors");
MODULE_LICENSE("Dual MIT/GPL");
MODULE_VERSION("0.1.0");
