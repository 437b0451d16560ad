/* SPDX-License-Identifier: GPL-2.0 */
/* Devices, mappings, and wait queues, for engines of any kind. */
#ifndef _FERRY_ENGINE_H
#define _FERRY_ENGINE_H

#include <linux/device.h>
#include <linux/mm_types.h>
#include <linux/types.h>
#include <linux/wait.h>

/**
 * struct ferry_end - the functions that are called at the end of a descriptor
 * @fn: called once, in any context but a hard interrupt's, when the engine does not
 *	touch the memory of the descriptor any more; the argument is true if all bytes
 *	have been copied.
 * @given_up: called in place of @fn, in the same contexts, when the driver has given
 *	the descriptor up although the engine may still touch its memory.
 */
struct ferry_end {
	void (*fn)(const struct ferry_end *end, bool ok);
	void (*given_up)(const struct ferry_end *end);
};

/* Returns true if the condition that ferry_wait() waits for has come. */
typedef bool (*ferry_done_fn_t)(void *data);
/* Takes and releases a lock. */
typedef void (*ferry_lock_fn_t)(void *data);

bool ferry_dma_bounces(struct device *dev);
int ferry_device_node(struct device *dev);
struct device *ferry_device_get(struct device *dev);
void ferry_device_put(struct device *dev);
bool ferry_device_is_bound(struct device *dev);
int ferry_dma_map(struct device *dev, u64 phys, size_t len, bool from, u64 *dma);
void ferry_dma_unmap(struct device *dev, u64 dma, size_t len, bool from);
bool ferry_dma_cut(struct device *dev, u64 src, u64 dst, size_t len);
bool ferry_dma_take_hole(struct device *dev, size_t len, u64 *dma);
void ferry_dma_free_hole(struct device *dev, u64 dma, size_t len);
u64 ferry_folio_phys(const struct folio *folio);
u64 ferry_virt_phys(const void *address);

void ferry_wait_init(struct wait_queue_head *wq);
bool ferry_wait(struct wait_queue_head *wq, ferry_done_fn_t done, void *data,
		u64 ns);
void ferry_wake(struct wait_queue_head *wq);
void ferry_prime_lock(ferry_lock_fn_t lock, void *data);

#endif /* _FERRY_ENGINE_H */
