// SPDX-License-Identifier: GPL-2.0
/*
 * A dmaengine driver whose engine is a work item. It stands for drivers that are not part of
 * this project, and shows how clients work with such drivers. It is a platform device with
 * its driver, or (sdxi=1) a driver that binds PCI functions of SDXI's class, and does not
 * access them otherwise.
 *
 * The parameters "tells" and "fault" set its reports on descriptors, and whether they are
 * true, at any time. Behind an IOMMU it reaches only memory that its device reaches at that
 * moment. It refuses a copy of no bytes, and counts such requests, because some drivers warn
 * about them.
 */
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/dmaengine.h>
#include <linux/iommu.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/pci.h>
#include <linux/platform_device.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "dmaengine.h"

#define CLASS_SDXI	0x120100
#define MOST_CHANNELS	16
/* The byte that a late write stores. */
#define LATE_FILL	0xdb

/* A parameter with one of several words as its value. */
struct word {
	const char *const *words;
	int value;
};

static int set_word(const char *val, const struct kernel_param *kp)
{
	struct word *word = kp->arg;
	int i;

	for (i = 0; word->words[i]; i++) {
		if (sysfs_streq(val, word->words[i])) {
			WRITE_ONCE(word->value, i);
			return 0;
		}
	}
	return -EINVAL;
}

static int get_word(char *buf, const struct kernel_param *kp)
{
	struct word *word = kp->arg;

	return sysfs_emit(buf, "%s\n", word->words[READ_ONCE(word->value)]);
}

static const struct kernel_param_ops word_ops = { .set = set_word, .get = get_word };

static char *driver = "softdma";
module_param(driver, charp, 0444);
MODULE_PARM_DESC(driver, "the name of the driver (softdma)");

static bool sdxi;
module_param(sdxi, bool, 0444);
MODULE_PARM_DESC(sdxi, "binds functions of SDXI's class in place of a platform device (0)");

static unsigned int channels = 2;
module_param(channels, uint, 0444);
MODULE_PARM_DESC(channels, "channels of each device (2)");

enum { TELLS_FAILED, TELLS_ABORTED, TELLS_NOTHING };
static const char *const tells_words[] = { "failed", "aborted", "nothing", NULL };
static struct word tells = { tells_words };
module_param_cb(tells, &word_ops, &tells, 0644);
MODULE_PARM_DESC(tells, "result of a failed copy: failed, aborted, or nothing (success)");

enum { FAULT_NONE, FAULT_ERROR, FAULT_LATE };
static const char *const fault_words[] = { "none", "error", "late", NULL };
static struct word fault = { fault_words };
module_param_cb(fault, &word_ops, &fault, 0644);
MODULE_PARM_DESC(fault, "error: struck copies fail; late: they are aborted, and write later");

static unsigned int every = 3;
module_param(every, uint, 0644);
MODULE_PARM_DESC(every, "number n of which every n-th copy is struck (3)");

static unsigned int late_ms = 300;
module_param(late_ms, uint, 0644);
MODULE_PARM_DESC(late_ms, "delay of late writes, in milliseconds (300)");

/* Counters; reset by loading the module anew. */
static DEFINE_SPINLOCK(count_lock);
static unsigned int empty, copied, struck, pending, stopped, kept, reused;
module_param(empty, uint, 0444);
MODULE_PARM_DESC(empty, "copies of no bytes that were requested");
module_param(copied, uint, 0444);
MODULE_PARM_DESC(copied, "copies that were made");
module_param(struck, uint, 0444);
MODULE_PARM_DESC(struck, "copies that were struck");
module_param(pending, uint, 0444);
MODULE_PARM_DESC(pending, "late writes that are still to come");
module_param(stopped, uint, 0444);
MODULE_PARM_DESC(stopped, "pages that a late write did not reach because of the IOMMU");
module_param(kept, uint, 0444);
MODULE_PARM_DESC(kept, "pages that a late write reached while they had no new owner");
module_param(reused, uint, 0444);
MODULE_PARM_DESC(reused, "pages that a late write reached after they had got a new owner");

static void count_by(unsigned int *counter, int by)
{
	spin_lock_bh(&count_lock);
	WRITE_ONCE(*counter, *counter + by);
	spin_unlock_bh(&count_lock);
}

static void count(unsigned int *counter)
{
	count_by(counter, 1);
}

struct soft_desc {
	struct dma_async_tx_descriptor tx;
	struct list_head node;
	dma_addr_t dst, src;
	size_t len;
};

struct soft_chan {
	struct dma_chan chan;
	struct soft *soft;
	/* Protects the lists, and cookies. */
	spinlock_t lock;
	struct list_head submitted;
	struct list_head issued;
	struct work_struct work;
};

struct soft {
	struct dma_device dma;
	struct iommu_domain *domain;
	struct workqueue_struct *wq;
	/*
	 * The number of late writes to come. The last one frees nothing, so unbind may poll
	 * it.
	 */
	atomic_t late;
	unsigned int nr;
	struct soft_chan chans[] __counted_by(nr);
};

struct late {
	struct delayed_work work;
	struct soft *soft;
	dma_addr_t dst;
	size_t len;
};

static struct soft_chan *to_soft(struct dma_chan *chan)
{
	return container_of(chan, struct soft_chan, chan);
}

/* Returns the memory that the device reaches at an address now, or NULL without any. */
static void *reach(struct soft *soft, dma_addr_t dma)
{
	phys_addr_t phys = soft->domain ? iommu_iova_to_phys(soft->domain, dma) : dma;

	return phys && pfn_valid(PHYS_PFN(phys)) ? phys_to_virt(phys) : NULL;
}

static bool copy(struct soft *soft, dma_addr_t dst, dma_addr_t src, size_t len)
{
	while (len) {
		size_t n = min3(len, PAGE_SIZE - offset_in_page(src),
				PAGE_SIZE - offset_in_page(dst));
		void *from = reach(soft, src), *to = reach(soft, dst);

		if (!from || !to)
			return false;
		memcpy(to, from, n);
		src += n;
		dst += n;
		len -= n;
	}
	return true;
}

/* Writes to memory that the engine no longer owns, unless the client has prevented that. */
static void write_late(struct work_struct *work)
{
	struct late *late = container_of(to_delayed_work(work), struct late, work);
	size_t done;

	for (done = 0; done < late->len; done += PAGE_SIZE) {
		void *to = reach(late->soft, late->dst + done);

		if (!to) {
			count(&stopped);
			continue;
		}
		/* A parked destination is locked. */
		count(folio_test_locked(virt_to_folio(to)) ? &kept : &reused);
		memset(to, LATE_FILL, min(late->len - done, PAGE_SIZE));
	}
	count_by(&pending, -1);
	atomic_dec(&late->soft->late);
	kfree(late);
}

static bool strikes(void)
{
	static atomic_t n = ATOMIC_INIT(0);
	unsigned int each = READ_ONCE(every);

	return READ_ONCE(fault.value) != FAULT_NONE && each &&
	       !((unsigned int)atomic_inc_return(&n) % each);
}

static enum dmaengine_tx_result told(void)
{
	switch (READ_ONCE(tells.value)) {
	case TELLS_FAILED:
		return DMA_TRANS_READ_FAILED;
	case TELLS_ABORTED:
		return DMA_TRANS_ABORTED;
	default:
		return DMA_TRANS_NOERROR;
	}
}

static enum dmaengine_tx_result carry_out(struct soft *soft, struct soft_desc *desc)
{
	struct late *late;

	if (!strikes()) {
		if (!copy(soft, desc->dst, desc->src, desc->len))
			return told();
		count(&copied);
		return DMA_TRANS_NOERROR;
	}
	count(&struck);
	if (READ_ONCE(fault.value) != FAULT_LATE)
		return told();
	late = kmalloc_obj(*late, GFP_KERNEL | __GFP_NOFAIL);
	INIT_DELAYED_WORK(&late->work, write_late);
	late->soft = soft;
	late->dst = desc->dst;
	late->len = desc->len;
	atomic_inc(&soft->late);
	count(&pending);
	queue_delayed_work(soft->wq, &late->work, msecs_to_jiffies(READ_ONCE(late_ms)));
	return DMA_TRANS_ABORTED;
}

static void soft_work(struct work_struct *work)
{
	struct soft_chan *sc = container_of(work, struct soft_chan, work);
	struct dmaengine_desc_callback cb;
	struct dmaengine_result result = { };
	struct soft_desc *desc;

	for (;;) {
		spin_lock_bh(&sc->lock);
		desc = list_first_entry_or_null(&sc->issued, struct soft_desc, node);
		if (desc)
			list_del(&desc->node);
		spin_unlock_bh(&sc->lock);
		if (!desc)
			return;
		result.result = carry_out(sc->soft, desc);
		spin_lock_bh(&sc->lock);
		dma_cookie_complete(&desc->tx);
		spin_unlock_bh(&sc->lock);
		dmaengine_desc_get_callback(&desc->tx, &cb);
		local_bh_disable();
		dmaengine_desc_callback_invoke(&cb, &result);
		local_bh_enable();
		kfree(desc);
	}
}

static dma_cookie_t soft_submit(struct dma_async_tx_descriptor *tx)
{
	struct soft_desc *desc = container_of(tx, struct soft_desc, tx);
	struct soft_chan *sc = to_soft(tx->chan);
	dma_cookie_t cookie;

	spin_lock_bh(&sc->lock);
	cookie = dma_cookie_assign(tx);
	list_add_tail(&desc->node, &sc->submitted);
	spin_unlock_bh(&sc->lock);
	return cookie;
}

static struct dma_async_tx_descriptor *soft_prep(struct dma_chan *chan, dma_addr_t dst,
						 dma_addr_t src, size_t len, unsigned long flags)
{
	struct soft_desc *desc;

	if (!len) {
		count(&empty);
		return NULL;
	}
	desc = kzalloc_obj(*desc, GFP_NOWAIT);
	if (!desc)
		return NULL;
	dma_async_tx_descriptor_init(&desc->tx, chan);
	desc->tx.flags = flags;
	desc->tx.tx_submit = soft_submit;
	desc->dst = dst;
	desc->src = src;
	desc->len = len;
	return &desc->tx;
}

static void soft_issue(struct dma_chan *chan)
{
	struct soft_chan *sc = to_soft(chan);

	spin_lock_bh(&sc->lock);
	list_splice_tail_init(&sc->submitted, &sc->issued);
	spin_unlock_bh(&sc->lock);
	queue_work(sc->soft->wq, &sc->work);
}

static int soft_terminate(struct dma_chan *chan)
{
	struct soft_chan *sc = to_soft(chan);
	struct soft_desc *desc, *next;
	LIST_HEAD(all);

	spin_lock_bh(&sc->lock);
	list_splice_init(&sc->submitted, &all);
	list_splice_init(&sc->issued, &all);
	spin_unlock_bh(&sc->lock);
	list_for_each_entry_safe(desc, next, &all, node)
		kfree(desc);
	return 0;
}

static void soft_synchronize(struct dma_chan *chan)
{
	flush_work(&to_soft(chan)->work);
}

static void soft_free_chan(struct dma_chan *chan)
{
	soft_terminate(chan);
	soft_synchronize(chan);
}

static enum dma_status soft_status(struct dma_chan *chan, dma_cookie_t cookie,
				   struct dma_tx_state *state)
{
	return dma_cookie_status(chan, cookie, state);
}

static void soft_release(struct dma_device *dma)
{
	kfree(container_of(dma, struct soft, dma));
}

static int soft_bind(struct device *dev)
{
	struct soft *soft;
	unsigned int i;
	int ret;

	ret = dma_set_mask_and_coherent(dev, DMA_BIT_MASK(64));
	if (ret)
		return ret;
	soft = kzalloc_flex(*soft, chans, channels);
	if (!soft)
		return -ENOMEM;
	soft->nr = channels;
	soft->domain = iommu_get_domain_for_dev(dev);
	soft->wq = alloc_workqueue("softdma", WQ_UNBOUND, 0);
	if (!soft->wq) {
		kfree(soft);
		return -ENOMEM;
	}
	dma_cap_set(DMA_MEMCPY, soft->dma.cap_mask);
	dma_cap_set(DMA_PRIVATE, soft->dma.cap_mask);
	INIT_LIST_HEAD(&soft->dma.channels);
	soft->dma.dev = dev;
	soft->dma.device_free_chan_resources = soft_free_chan;
	soft->dma.device_prep_dma_memcpy = soft_prep;
	soft->dma.device_issue_pending = soft_issue;
	soft->dma.device_terminate_all = soft_terminate;
	soft->dma.device_synchronize = soft_synchronize;
	soft->dma.device_tx_status = soft_status;
	soft->dma.device_release = soft_release;
	for (i = 0; i < soft->nr; i++) {
		struct soft_chan *sc = &soft->chans[i];

		sc->soft = soft;
		spin_lock_init(&sc->lock);
		INIT_LIST_HEAD(&sc->submitted);
		INIT_LIST_HEAD(&sc->issued);
		INIT_WORK(&sc->work, soft_work);
		sc->chan.device = &soft->dma;
		dma_cookie_init(&sc->chan);
		list_add_tail(&sc->chan.device_node, &soft->dma.channels);
	}
	ret = dma_async_device_register(&soft->dma);
	if (ret) {
		destroy_workqueue(soft->wq);
		kfree(soft);
		return ret;
	}
	dev_set_drvdata(dev, soft);
	return 0;
}

static void soft_unbind(struct device *dev)
{
	struct soft *soft = dev_get_drvdata(dev);
	struct workqueue_struct *wq = soft->wq;
	unsigned int i;

	for (i = 0; i < soft->nr; i++)
		soft_free_chan(&soft->chans[i].chan);
	/* Only this waits for late writes, each of which comes in bounded time. */
	while (atomic_read(&soft->late))
		msleep(20);
	dma_async_device_unregister(&soft->dma);
	destroy_workqueue(wq);
}

static int soft_platform_probe(struct platform_device *pdev)
{
	return soft_bind(&pdev->dev);
}

static void soft_platform_remove(struct platform_device *pdev)
{
	soft_unbind(&pdev->dev);
}

static struct platform_driver soft_platform = {
	.probe = soft_platform_probe,
	.remove = soft_platform_remove,
};

static int soft_pci_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	return soft_bind(&pdev->dev);
}

static void soft_pci_remove(struct pci_dev *pdev)
{
	soft_unbind(&pdev->dev);
}

static const struct pci_device_id soft_ids[] = {
	{ PCI_DEVICE_CLASS(CLASS_SDXI, 0xffffff) },
	{ }
};
MODULE_DEVICE_TABLE(pci, soft_ids);

static struct pci_driver soft_pci = {
	.id_table = soft_ids,
	.probe = soft_pci_probe,
	.remove = soft_pci_remove,
};

static struct platform_device *soft_device;

static int __init soft_init(void)
{
	int ret;

	if (!channels || channels > MOST_CHANNELS) {
		pr_err("softdma: channels=%u: it must be 1 to %u\n", channels, MOST_CHANNELS);
		return -EINVAL;
	}
	if (sdxi) {
		soft_pci.name = driver;
		return pci_register_driver(&soft_pci);
	}
	soft_platform.driver.name = driver;
	ret = platform_driver_register(&soft_platform);
	if (ret)
		return ret;
	soft_device = platform_device_register_simple(driver, PLATFORM_DEVID_NONE, NULL, 0);
	if (IS_ERR(soft_device)) {
		platform_driver_unregister(&soft_platform);
		return PTR_ERR(soft_device);
	}
	return 0;
}
module_init(soft_init);

static void __exit soft_exit(void)
{
	if (sdxi) {
		pci_unregister_driver(&soft_pci);
		return;
	}
	platform_device_unregister(soft_device);
	platform_driver_unregister(&soft_platform);
}
module_exit(soft_exit);

MODULE_AUTHOR("The Ferry developers");
MODULE_DESCRIPTION("A DMA engine that is a work item, for tests");
MODULE_LICENSE("GPL");
