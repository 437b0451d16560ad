// SPDX-License-Identifier: GPL-2.0
/* What engines of any kind need: mapping, and waiting. */
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
 * Would mappings for it copy: all of them, as that is forced, or those of memory
 * that it does not reach?
 */
bool ferry_dma_bounces(struct device *dev)
{
	return is_swiotlb_force_bounce(dev) || dma_addressing_limited(dev);
}

int ferry_device_node(struct device *dev)
{
	return dev_to_node(dev);
}

struct device *ferry_device_get(struct device *dev)
{
	return get_device(dev);
}

void ferry_device_put(struct device *dev)
{
	put_device(dev);
}

bool ferry_device_is_bound(struct device *dev)
{
	return READ_ONCE(dev->driver);
}

/*
 * Maps physically contiguous memory, which is written (@from) or read. Refused if
 * it would go through a bounce buffer: two copies by a CPU to save one.
 */
int ferry_dma_map(struct device *dev, u64 phys, size_t len, bool from, u64 *dma)
{
	enum dma_data_direction dir = from ? DMA_FROM_DEVICE : DMA_TO_DEVICE;

	*dma = dma_map_phys(dev, phys, len, dir,
			    DMA_ATTR_NO_WARN | DMA_ATTR_REQUIRE_COHERENT);
	return dma_mapping_error(dev, *dma);
}

void ferry_dma_unmap(struct device *dev, u64 dma, size_t len, bool from)
{
	dma_unmap_phys(dev, dma, len, from ? DMA_FROM_DEVICE : DMA_TO_DEVICE,
		       DMA_ATTR_REQUIRE_COHERENT);
}

#ifdef CONFIG_IOMMU_DMA
/*
 * Returns the domain of a device whose addresses an IOMMU translates, by the DMA API;
 * NULL if there is none, or if unmapping does not cut the device off.
 */
static struct iommu_domain *cutting_domain(struct device *dev)
{
	struct iommu_domain *domain;

	/* The group of a device without a driver may have another domain already. */
	if (!use_dma_iommu(dev) || !ferry_device_is_bound(dev))
		return NULL;
#ifdef CONFIG_PCI_ATS
	/*
	 * A device that translates by itself has to answer before it is cut off, and
	 * the IOMMU's driver does not say whether it has.
	 */
	if (dev_is_pci(dev) && to_pci_dev(dev)->ats_enabled)
		return NULL;
#endif
	domain = iommu_get_domain_for_dev(dev);
	return domain && domain->cookie_type == IOMMU_COOKIE_DMA_IOVA ? domain : NULL;
}

static bool cut_one(struct iommu_domain *domain, u64 dma, size_t len)
{
	u64 granule = 1ULL << __ffs(domain->pgsize_bitmap);
	u64 from = ALIGN_DOWN(dma, granule);
	size_t all = ALIGN(dma + len, granule) - from;

	/*
	 * Waits until the IOMMU uses nothing of it any more. Unmapping by the DMA API
	 * leaves that for later where the domain is a lazy one.
	 */
	return !WARN_ON_ONCE(iommu_unmap(domain, from, all) != all);
}
#endif

/*
 * Takes the mappings of a source and a destination from a device that may still use
 * them. Returns true if nothing that the device does reaches this memory any more;
 * false where no IOMMU can cut the device off, which has changed nothing then. In any
 * context that may unmap.
 *
 * This is not unmapping: the addresses stay taken for ever. They would be given to
 * other memory else, which the device would reach by them.
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
 * Takes addresses of a device that lead nowhere, as long as they are taken. False
 * if there are none: without an IOMMU that translates, all of them lead somewhere.
 */
bool ferry_dma_take_hole(struct device *dev, size_t len, u64 *dma)
{
	struct dma_iova_state state;

	if (!dma_iova_try_alloc(dev, &state, 0, len))
		return false;
	*dma = state.addr;
	return true;
}

void ferry_dma_free_hole(struct device *dev, u64 dma, size_t len)
{
	struct dma_iova_state state = { .addr = dma, .__size = len };

	dma_iova_free(dev, &state);
}

u64 ferry_folio_phys(const struct folio *folio)
{
	return PFN_PHYS(folio_pfn(folio));
}

/* Of memory from kmalloc(). */
u64 ferry_virt_phys(const void *address)
{
	return virt_to_phys((void *)address);
}

void ferry_wait_init(struct wait_queue_head *wq)
{
	init_waitqueue_head(wq);
}

/* Sleeps until done(), at most that long. */
bool ferry_wait(struct wait_queue_head *wq, ferry_done_fn_t done, void *data,
		u64 ns)
{
	return !wait_event_hrtimeout(*wq, done(data), ns_to_ktime(ns)) ||
	       done(data);
}

void ferry_wake(struct wait_queue_head *wq)
{
	/* Its barrier pairs with that of prepare_to_wait() in ferry_wait(). */
	if (wq_has_sleeper(wq))
		wake_up_all(wq);
}

/* Tells lockdep that a lock is taken in reclaim. */
void ferry_prime_lock(ferry_lock_fn_t lock, void *data)
{
	fs_reclaim_acquire(GFP_KERNEL);
	lock(data);
	fs_reclaim_release(GFP_KERNEL);
}
