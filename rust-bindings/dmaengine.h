/* SPDX-License-Identifier: GPL-2.0 */
/* The client side of dmaengine, and notifiers of drivers and of the machine. */
#ifndef _FERRY_DMAENGINE_H
#define _FERRY_DMAENGINE_H

#include <linux/notifier.h>

#include "engine.h"

/* A struct dma_chan that Ferry holds exclusively. */
struct ferry_dma_chan;

/* Receives the name of the driver of a channel. */
typedef void (*ferry_dma_driver_fn_t)(void *data, const char *driver);

void ferry_dma_providers(ferry_dma_driver_fn_t fn, void *data);
bool ferry_dma_offers(const struct device *dev, const char *driver);
struct ferry_dma_chan *ferry_dma_request(const char *driver);
void ferry_dma_release(struct ferry_dma_chan *chan);
const char *ferry_dma_name(struct ferry_dma_chan *chan);
struct device *ferry_dma_get_device(struct ferry_dma_chan *chan);
void ferry_dma_put_device(struct device *dev);
const struct bus_type *ferry_dma_bus(struct ferry_dma_chan *chan);
bool ferry_dma_is_of(struct ferry_dma_chan *chan, const struct device *dev);
u32 ferry_dma_align(struct ferry_dma_chan *chan);
int ferry_dma_copy(struct ferry_dma_chan *chan, u64 dst, u64 src, size_t len,
		   bool interrupt, bool aborts, const struct ferry_end *end,
		   s32 *cookie);
void ferry_dma_issue(struct ferry_dma_chan *chan);
void ferry_dma_poll(struct ferry_dma_chan *chan, s32 cookie);
bool ferry_dma_says_quiet(struct ferry_dma_chan *chan);
int ferry_dma_quiesce(struct ferry_dma_chan *chan);

/* The events that ferry_watch() reports. */
enum ferry_event {
	/* The driver of a device is about to be unbound. */
	FERRY_UNBIND,
	/* The driver of a device has been unbound. */
	FERRY_UNBOUND,
	/* A driver has been bound to a device. */
	FERRY_BOUND,
	/* The machine is about to suspend, hibernate or shut down. */
	FERRY_HALT,
	/* The machine has resumed. */
	FERRY_RESUME,
};

/*
 * Handles an event. @event is an enum ferry_event: Rust has no type of that
 * kind, and with CONFIG_CFI the types of a function and of its callers must agree.
 */
typedef void (*ferry_watch_fn_t)(void *data, unsigned int event,
				 struct device *dev);

/* The registrations of ferry_watch(). */
struct ferry_watch {
	struct notifier_block bus_nb;
	struct notifier_block pm_nb;
	struct notifier_block reboot_nb;
	const struct bus_type *bus;
	ferry_watch_fn_t fn;
	void *data;
};

int ferry_watch(struct ferry_watch *watch, const struct bus_type *bus,
		ferry_watch_fn_t fn, void *data);
void ferry_unwatch(struct ferry_watch *watch);

#endif /* _FERRY_DMAENGINE_H */
