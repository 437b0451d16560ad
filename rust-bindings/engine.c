// SPDX-License-Identifier: GPL-2.0
/* Devices, mappings, and wait queues, for engines of any kind. */
#include <linux/dma-mapping.h>
#include <linux/iommu.h>
#include <linux/iommu-dma.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/pci.h>
#include <linux/sched/mm.h>
#include <linux/swiotlb.h>

#include "engine.h"

/*
 * Returns true if mappings for the device would copy through bounce buffers: all of
 * them, because that is forced, or those of memory that the device does not reach.
 */
bool ferry_dma_bounces(struct device *dev)
{
	return is_swiotlb_force_bounce(dev) || dma_addressing_limited(dev);
}

/* Returns the node of a device, negative if it is not known. */
int ferry_device_node(struct device *dev)
{
	return dev_to_node(dev);
}

/* Takes a reference to a device. */
struct device *ferry_device_get(struct device *dev)
{
	return get_device(dev);
}

/* Drops a reference to a device. */
void ferry_device_put(struct device *dev)
{
	put_device(dev);
}

/* Returns true if a driver is bound to the device, or is being bound; a snapshot. */
bool ferry_device_is_bound(struct device *dev)
{
	return READ_ONCE(dev->driver);
}

/*
 * Maps physically contiguous memory, which the device writes (@from) or reads. Returns 0
 * or a negative errno. Memory that would need a bounce buffer is refused: a CPU would
 * copy twice to be spared one copy.
 */
int ferry_dma_map(struct device *dev, u64 phys, size_t len, bool from, u64 *dma)
{
	enum dma_data_direction dir = from ? DMA_FROM_DEVICE : DMA_TO_DEVICE;

	*dma = dma_map_phys(dev, phys, len, dir,
			    DMA_ATTR_NO_WARN | DMA_ATTR_REQUIRE_COHERENT);
	return dma_mapping_error(dev, *dma);
}

/* Undoes ferry_dma_map(), with the same @len and @from. */
void ferry_dma_unmap(struct device *dev, u64 dma, size_t len, bool from)
{
	dma_unmap_phys(dev, dma, len, from ? DMA_FROM_DEVICE : DMA_TO_DEVICE,
		       DMA_ATTR_REQUIRE_COHERENT);
}

#ifdef CONFIG_IOMMU_DMA
/*
 * Returns the IOMMU domain in which the DMA API maps memory for a device; NULL if there
 * is none, or if unmapping does not cut the device off.
 */
static struct iommu_domain *cutting_domain(struct device *dev)
{
	struct iommu_domain *domain;

	/* Without a driver, the group of the device may have another domain already. */
	if (!use_dma_iommu(dev) || !ferry_device_is_bound(dev))
		return NULL;
#ifdef CONFIG_PCI_ATS
	/*
	 * A device with a translation cache of its own is not cut off before it has
	 * answered a flush, and the IOMMU's driver does not report whether it has.
	 */
	if (dev_is_pci(dev) && to_pci_dev(dev)->ats_enabled)
		return NULL;
#endif
	domain = iommu_get_domain_for_dev(dev);
	return domain && domain->cookie_type == IOMMU_COOKIE_DMA_IOVA ? domain : NULL;
}

/* Unmaps the pages of one mapping. Returns true if the device does not reach them any more. */
static bool cut_one(struct iommu_domain *domain, u64 dma, size_t len)
{
	u64 granule = 1ULL << __ffs(domain->pgsize_bitmap);
	u64 from = ALIGN_DOWN(dma, granule);
	size_t all = ALIGN(dma + len, granule) - from;

	/*
	 * This waits until the IOMMU does not use the old translation any more. In a
	 * lazy domain, unmapping by the DMA API would leave the flush for later.
	 */
	return !WARN_ON_ONCE(iommu_unmap(domain, from, all) != all);
}
#endif

/*
 * Takes the mappings of a source and a destination from a device that may still use
 * them. Returns true if no access of the device reaches this memory any more; false if
 * no IOMMU can cut the device off, in which case nothing has changed. May be called in
 * any context in which memory may be unmapped.
 *
 * The DMA addresses are not freed, and stay taken for ever. Otherwise they would be
 * given to other memory, which the device would then reach by them.
 */
bool ferry_dma_cut(struct device *dev, u64 src, u64 dst, size_t len)
{
#ifdef CONFIG_IOMMU_DMA
	struct iommu_domain *domain = cutting_domain(dev);

	return domain && cut_one(domain, dst, len) && cut_one(domain, src, len);
#else
	return false;
#endif
}

/*
 * Allocates DMA addresses of a device that are mapped to no memory as long as they are
 * allocated. Returns false if there are none: without an IOMMU that translates, every
 * address may be one of memory.
 */
bool ferry_dma_take_hole(struct device *dev, size_t len, u64 *dma)
{
	struct dma_iova_state state;

	if (!dma_iova_try_alloc(dev, &state, 0, len))
		return false;
	*dma = state.addr;
	return true;
}

/* Frees addresses that ferry_dma_take_hole() has allocated. */
void ferry_dma_free_hole(struct device *dev, u64 dma, size_t len)
{
	struct dma_iova_state state = { .addr = dma, .__size = len };

	dma_iova_free(dev, &state);
}

/* Returns the physical address of a folio. */
u64 ferry_folio_phys(const struct folio *folio)
{
	return PFN_PHYS(folio_pfn(folio));
}

/* Returns the physical address of memory that kmalloc() has returned. */
u64 ferry_virt_phys(const void *address)
{
	return virt_to_phys((void *)address);
}

/* Initialises a wait queue. */
void ferry_wait_init(struct wait_queue_head *wq)
{
	init_waitqueue_head(wq);
}

/* Sleeps until done(data), for @ns nanoseconds at most. Returns the last value of done(data). */
bool ferry_wait(struct wait_queue_head *wq, ferry_done_fn_t done, void *data,
		u64 ns)
{
	return !wait_event_hrtimeout(*wq, done(data), ns_to_ktime(ns)) ||
	       done(data);
}

/* Wakes all waiters of ferry_wait(). The caller has made done(data) true before. */
void ferry_wake(struct wait_queue_head *wq)
{
	/* Its barrier pairs with that of prepare_to_wait() in ferry_wait(). */
	if (wq_has_sleeper(wq))
		wake_up_all(wq);
}

/* Tells lockdep that the lock that lock(data) takes is taken in reclaim. */
void ferry_prime_lock(ferry_lock_fn_t lock, void *data)
{
	fs_reclaim_acquire(GFP_KERNEL);
	lock(data);
	fs_reclaim_release(GFP_KERNEL);
}
