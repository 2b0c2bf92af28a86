/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* What differs between the kernels that this builds for: 6.1 to 6.12. */
#ifndef UPR_COMPAT_H
#define UPR_COMPAT_H

#include <linux/skbuff.h>
#include <linux/version.h>
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
#include <net/gso.h>
#endif

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 10, 0)
#define UPR_UBUF_OPS(name, function) \
	static const struct ubuf_info_ops name = { .complete = function }
#define upr_ubuf_init(ubuf, operations) ((ubuf)->ops = &(operations))
#else
#define UPR_UBUF_OPS(name, function) \
	static void (*const name)(struct sk_buff *, struct ubuf_info *, bool) = function
#define upr_ubuf_init(ubuf, operations) ((ubuf)->callback = (operations))
#endif

#endif
