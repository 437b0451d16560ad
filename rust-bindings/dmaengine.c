// SPDX-License-Identifier: GPL-2.0
/* The client side of dmaengine, and notifiers of drivers and of the machine. */
#include <linux/device/bus.h>
#include <linux/dmaengine.h>
#include <linux/reboot.h>
#include <linux/suspend.h>

#include "dmaengine.h"

/* Only this file looks into a channel. */
static struct dma_chan *of(struct ferry_dma_chan *chan)
{
	return (struct dma_chan *)chan;
}

static const char *driver_of(struct dma_chan *chan)
{
	struct device_driver *driver = READ_ONCE(chan->device->dev->driver);

	return driver ? driver->name : "";
}

struct collector {
	ferry_dma_driver_fn_t fn;
	void *data;
};

static bool collect(struct dma_chan *chan, void *param)
{
	struct collector *to = param;

	if (chan->device->device_prep_dma_memcpy)
		to->fn(to->data, driver_of(chan));
	/* All channels are listed, and none is requested. */
	return false;
}

static bool is_of_driver(struct dma_chan *chan, void *param)
{
	return chan->device->device_prep_dma_memcpy &&
	       !strcmp(driver_of(chan), param);
}

struct offer {
	const struct device *dev;
	const char *driver;
	bool found;
};

static bool note_offer(struct dma_chan *chan, void *param)
{
	struct offer *offer = param;

	if (chan->device->dev == offer->dev)
		offer->found |= is_of_driver(chan, (void *)offer->driver);
	/* As in collect(). */
	return false;
}

/*
 * Returns true if the device has a free channel of this driver that can copy. Takes
 * the mutex of dmaengine.
 */
bool ferry_dma_offers(const struct device *dev, const char *driver)
{
	struct offer offer = { .dev = dev, .driver = driver };
	dma_cap_mask_t mask;

	dma_cap_zero(mask);
	dma_cap_set(DMA_MEMCPY, mask);
	__dma_request_channel(&mask, note_offer, &offer, NULL);
	return offer.found;
}

/*
 * Calls fn() with the name of the driver of each free channel that can copy, with the
 * mutex of dmaengine held.
 */
void ferry_dma_providers(ferry_dma_driver_fn_t fn, void *data)
{
	struct collector to = { .fn = fn, .data = data };
	dma_cap_mask_t mask;

	dma_cap_zero(mask);
	dma_cap_set(DMA_MEMCPY, mask);
	__dma_request_channel(&mask, collect, &to, NULL);
}

/*
 * Requests a channel of a driver that can copy, whether it is DMA_PRIVATE or not, and
 * returns it; NULL if none is free. Takes the mutex of dmaengine.
 */
struct ferry_dma_chan *ferry_dma_request(const char *driver)
{
	dma_cap_mask_t mask;

	dma_cap_zero(mask);
	dma_cap_set(DMA_MEMCPY, mask);
	return (struct ferry_dma_chan *)__dma_request_channel(&mask, is_of_driver,
							      (void *)driver, NULL);
}

/* Releases a channel; the driver terminates the descriptors that it still has. May sleep. */
void ferry_dma_release(struct ferry_dma_chan *chan)
{
	/* Otherwise the driver would wait with the mutex held that all clients need. */
	ferry_dma_quiesce(chan);
	dma_release_channel(of(chan));
}

/* Returns the name of the channel, as in sysfs. */
const char *ferry_dma_name(struct ferry_dma_chan *chan)
{
	return dma_chan_name(of(chan));
}

/*
 * Returns the device to map memory for, with a reference to it. The driver has to be
 * bound: the device may be part of struct dma_chan_dev, which is freed when the driver
 * unregisters, although the channel is held.
 */
struct device *ferry_dma_get_device(struct ferry_dma_chan *chan)
{
	return get_device(dmaengine_get_dma_device(of(chan)));
}

/* Drops the reference that ferry_dma_get_device() has taken. */
void ferry_dma_put_device(struct device *dev)
{
	put_device(dev);
}

/* Returns the bus of the device that the channel belongs to. */
const struct bus_type *ferry_dma_bus(struct ferry_dma_chan *chan)
{
	return of(chan)->device->dev->bus;
}

/* Returns true if the channel belongs to this device. */
bool ferry_dma_is_of(struct ferry_dma_chan *chan, const struct device *dev)
{
	return of(chan)->device->dev == dev;
}

/* Returns the alignment in bytes of which addresses and lengths have to be multiples. */
u32 ferry_dma_align(struct ferry_dma_chan *chan)
{
	return 1u << min_t(u32, of(chan)->device->copy_align, 31);
}

static void ended(void *param, const struct dmaengine_result *result)
{
	const struct ferry_end *end = param;

	end->fn(end, !result || result->result == DMA_TRANS_NOERROR);
}

/*
 * Takes the result of a driver whose engine may still execute a descriptor that the
 * driver has given up: an aborted descriptor has not ended.
 */
static void ended_unless_aborted(void *param, const struct dmaengine_result *result)
{
	const struct ferry_end *end = param;

	if (result && result->result == DMA_TRANS_ABORTED)
		end->given_up(end);
	else
		ended(param, result);
}

/*
 * Prepares and submits a copy. The caller has to serialise all calls for a channel.
 *
 * @interrupt: the engine is to interrupt at the end of this descriptor.
 * @aborts: the driver aborts no descriptor that its engine may still execute.
 * @end: called when the descriptor has ended; must stay valid until then.
 * @cookie: receives the cookie of the descriptor.
 *
 * Returns 0, -EAGAIN if the driver has no descriptor left, or an error of
 * dmaengine_submit().
 */
int ferry_dma_copy(struct ferry_dma_chan *chan, u64 dst, u64 src, size_t len,
		   bool interrupt, bool aborts, const struct ferry_end *end,
		   s32 *cookie)
{
	struct dma_async_tx_descriptor *tx;

	tx = dmaengine_prep_dma_memcpy(of(chan), dst, src, len,
				       DMA_CTRL_ACK |
				       (interrupt ? DMA_PREP_INTERRUPT : 0));
	if (!tx)
		return -EAGAIN;
	tx->callback_result = aborts ? ended : ended_unless_aborted;
	tx->callback_param = (void *)end;
	*cookie = dmaengine_submit(tx);
	return dma_submit_error(*cookie);
}

/* Tells the driver to start the submitted descriptors. */
void ferry_dma_issue(struct ferry_dma_chan *chan)
{
	dma_async_issue_pending(of(chan));
}

/*
 * Makes the driver look for descriptors that have ended without an interrupt. The
 * caller has disabled softirqs: some drivers take a lock of their tasklet without doing
 * so.
 */
void ferry_dma_poll(struct ferry_dma_chan *chan, s32 cookie)
{
	dmaengine_tx_status(of(chan), cookie, NULL);
}

/*
 * Returns true if the driver can prove that a channel is quiet, so that
 * ferry_dma_quiesce() works.
 */
bool ferry_dma_says_quiet(struct ferry_dma_chan *chan)
{
#ifdef FERRY_DMA_QUIESCE
	return of(chan)->device->quiet_on_terminate;
#else
	return false;
#endif
}

/*
 * Terminates all descriptors of the channel, and waits until they have ended. Returns 0
 * if the engine accesses none of their memory any more, -EOPNOTSUPP if the driver cannot
 * prove it. May sleep for seconds.
 */
int ferry_dma_quiesce(struct ferry_dma_chan *chan)
{
#ifdef FERRY_DMA_QUIESCE
	return dmaengine_quiesce(of(chan));
#else
	return -EOPNOTSUPP;
#endif
}

static int on_bus(struct notifier_block *nb, unsigned long action, void *data)
{
	struct ferry_watch *watch = container_of(nb, struct ferry_watch, bus_nb);

	switch (action) {
	case BUS_NOTIFY_UNBIND_DRIVER:
		watch->fn(watch->data, FERRY_UNBIND, data);
		break;
	case BUS_NOTIFY_UNBOUND_DRIVER:
		watch->fn(watch->data, FERRY_UNBOUND, data);
		break;
	case BUS_NOTIFY_BOUND_DRIVER:
		watch->fn(watch->data, FERRY_BOUND, data);
		break;
	}
	return NOTIFY_DONE;
}

static int on_pm(struct notifier_block *nb, unsigned long action, void *data)
{
	struct ferry_watch *watch = container_of(nb, struct ferry_watch, pm_nb);

	switch (action) {
	case PM_HIBERNATION_PREPARE:
	case PM_SUSPEND_PREPARE:
	case PM_RESTORE_PREPARE:
		watch->fn(watch->data, FERRY_HALT, NULL);
		break;
	case PM_POST_HIBERNATION:
	case PM_POST_SUSPEND:
	case PM_POST_RESTORE:
		watch->fn(watch->data, FERRY_RESUME, NULL);
		break;
	}
	return NOTIFY_DONE;
}

static int on_reboot(struct notifier_block *nb, unsigned long action, void *data)
{
	struct ferry_watch *watch = container_of(nb, struct ferry_watch, reboot_nb);

	/* A late write would reach the memory of the next kernel. */
	watch->fn(watch->data, FERRY_HALT, NULL);
	return NOTIFY_DONE;
}

/*
 * Calls fn(), which may sleep, for each event of a device of the bus and of the machine,
 * until ferry_unwatch(). Returns 0 or a negative errno. May sleep.
 */
int ferry_watch(struct ferry_watch *watch, const struct bus_type *bus,
		ferry_watch_fn_t fn, void *data)
{
	int ret;

	*watch = (struct ferry_watch) {
		.bus_nb.notifier_call = on_bus,
		.pm_nb.notifier_call = on_pm,
		.reboot_nb.notifier_call = on_reboot,
		.bus = bus,
		.fn = fn,
		.data = data,
	};
	ret = bus_register_notifier(bus, &watch->bus_nb);
	if (ret)
		return ret;
	ret = register_pm_notifier(&watch->pm_nb);
	if (ret)
		goto no_pm;
	ret = register_reboot_notifier(&watch->reboot_nb);
	if (ret)
		goto no_reboot;
	return 0;

no_reboot:
	unregister_pm_notifier(&watch->pm_nb);
no_pm:
	bus_unregister_notifier(bus, &watch->bus_nb);
	return ret;
}

/* Ends the calls of fn(), and waits for those in progress. May sleep. */
void ferry_unwatch(struct ferry_watch *watch)
{
	unregister_reboot_notifier(&watch->reboot_nb);
	unregister_pm_notifier(&watch->pm_nb);
	bus_unregister_notifier(watch->bus, &watch->bus_nb);
}
