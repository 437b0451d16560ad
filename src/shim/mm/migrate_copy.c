// SPDX-License-Identifier: GPL-2.0
/*
 * Copying folio content during migration with a registered provider.
 *
 * migrate_pages_batch() hands the folios that it has unmapped and flushed to
 * the provider, which copies some of them while the mover, the task that
 * migrates, is still moving others. The mover offers each large folio that it
 * has to copy itself to the provider, too. Documentation/mm/page_migration.rst
 * describes migration.
 *
 * Lock order: migrate_copy_mutex -> cpu_hotplug_lock (static key), SRCU
 * synchronisation. hugetlb_lock and migrate_copy_parked_lock are leaves, taken
 * from process context and one after the other. Apart from these, when a
 * destination has to be parked, the mover takes no lock here.
 */
#include <linux/bitmap.h>
#include <linux/cgroup.h>
#include <linux/export.h>
#include <linux/hugetlb.h>
#include <linux/list.h>
#include <linux/migrate.h>
#include <linux/migrate_copy.h>
#include <linux/mutex.h>
#include <linux/page-flags.h>
#include <linux/pagemap.h>
#include <linux/rmap.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/shmem_fs.h>
#include <linux/srcu.h>
#include <linux/swap.h>

/* A registered provider. */
struct migrate_copy_provider {
	const struct migrate_copy_ops *ops;
	void *ctx;
};

DEFINE_STATIC_KEY_FALSE(migrate_copy_key);
/*
 * Protects the provider. It is entered for each large folio that is copied in
 * place, so it is of the fast flavour: full barriers would wait until the stores
 * of the copy have drained.
 */
DEFINE_STATIC_SRCU_FAST(migrate_copy_srcu);

/* Serialises registration. */
static DEFINE_MUTEX(migrate_copy_mutex);

/*
 * The provider, written under migrate_copy_mutex, read under
 * migrate_copy_srcu. One object is enough: it is only rewritten after a grace
 * period without readers.
 */
static struct migrate_copy_provider migrate_copy_provider_obj;
static struct migrate_copy_provider __rcu *migrate_copy_provider;

/*
 * The most folios and the most base pages in one batch of migrate_pages(); 0 stands
 * for NR_MAX_BATCHED_MIGRATION. migrate_copy_set_limits() writes them, and
 * migrate_pages() reads them once for each call.
 */
unsigned int migrate_copy_max_folios __read_mostly;
unsigned int migrate_copy_max_pages __read_mostly;

/*
 * The batches with destinations that may still be written, and the number of these
 * destinations. Both are under migrate_copy_parked_lock, and so are the bitmaps of
 * these batches.
 *
 * A parked destination is freed by the later of two parties: the batch, when no lane
 * that copies for it can write any more, and the migration of the folio, which fails.
 * If the migration comes first, it finds the destination parked, sets its bit in
 * &migrate_copy_batch.left and leaves it, and the batch frees it. If the batch comes
 * first, the migration finds nothing parked, and frees the destination as usual.
 */
static LIST_HEAD(migrate_copy_parked_batches);
static DEFINE_SPINLOCK(migrate_copy_parked_lock);
unsigned int migrate_copy_nr_parked;

/*
 * The mover holds this for reading from submit to finish, where it may wait for
 * claims and where other migrations can be nested. Each worker that copies for it
 * holds this exclusively while it holds a claim. So lockdep reports a worker that
 * waits for a lock that a mover may hold, or for reclaim, while it holds a claim.
 */
#ifdef CONFIG_LOCKDEP
struct lockdep_map migrate_copy_map =
	STATIC_LOCKDEP_MAP_INIT("migrate_copy_batch", &migrate_copy_map);
EXPORT_SYMBOL_GPL(migrate_copy_map);

/*
 * Held exclusively by a worker while it migrates a batch of another task's call, and
 * for reading by that task while it waits for the worker.
 */
struct lockdep_map migrate_copy_spread_map =
	STATIC_LOCKDEP_MAP_INIT("migrate_copy_spread", &migrate_copy_spread_map);
#endif

/*
 * Returns true if the content of this folio may be copied before its references
 * are checked for the last time. That requires that all code that writes to such
 * folios through references that do not come from a present page table entry locks
 * the folio after taking the reference. See migrate_copy_may_claim().
 */
static bool migrate_copy_eligible(struct folio *src, struct folio *dst)
{
	struct address_space *mapping;

	if (unlikely(page_has_movable_ops(&src->page)) ||
	    folio_is_zone_device(src) || folio_is_zone_device(dst) ||
	    folio_test_hugetlb(src) || folio_test_private(src) ||
	    folio_mapped(src) || folio_test_writeback(src) ||
	    folio_contain_hwpoisoned_page(src))
		return false;
	if (folio_test_anon(src))
		return true;
	/* shmem obeys because memfd_pin_folios() locks the folios that it pins. */
	mapping = src->mapping;
	return mapping && shmem_mapping(mapping) &&
	       !mapping_inaccessible(mapping);
}

/* migrate_copy_submit() with a provider. */
struct migrate_copy_batch *
__migrate_copy_submit(struct list_head *src_folios, struct folio *src,
		      struct folio *dst)
{
	const struct migrate_copy_call *call = current->migrate_copy_call;
	struct migrate_copy_provider *provider;
	struct migrate_copy_batch *batch;
	struct srcu_ctr __percpu *reader;

	/* A single folio is copied in place when its turn to move comes. */
	if (list_entry_is_head(src, src_folios, lru) ||
	    list_is_last(&src->lru, src_folios))
		return NULL;

	reader = srcu_read_lock_fast(&migrate_copy_srcu);
	provider = srcu_dereference(migrate_copy_provider, &migrate_copy_srcu);
	if (!provider)
		goto unlock;
	batch = provider->ops->begin(provider->ctx, dst, src, call->mode,
				     call->reason);
	if (!batch)
		goto unlock;

	batch->ops = provider->ops;
	batch->ctx = provider->ctx;
	batch->mode = call->mode;
	batch->reason = call->reason;
	batch->reader = reader;
	batch->cursor = 0;
	batch->nr = 0;
	batch->nr_anon = 0;
	batch->nr_shmem = 0;
	list_for_each_entry_from(src, src_folios, lru) {
		struct migrate_copy_entry *e;

		if (batch->nr == batch->max)
			break;
		batch->state[batch->nr] = MIGRATE_COPY_PENDING;
		e = &batch->entries[batch->nr++];
		e->src = src;
		e->dst = dst;
		e->bytes = 0;
		if (migrate_copy_eligible(src, dst)) {
			e->bytes = folio_size(src);
			if (folio_test_anon(src))
				batch->nr_anon++;
			else
				batch->nr_shmem++;
		}
		dst = list_next_entry(dst, lru);
	}

	if (batch->nr_anon + batch->nr_shmem <= 1) {
		batch->ops->abandon(batch->ctx, batch);
		goto unlock;
	}
	/* A declined batch belongs to the provider again, and may be in use already. */
	if (provider->ops->submit(provider->ctx, batch))
		goto unlock;
	lock_map_acquire_read(&migrate_copy_map);
	return batch;
unlock:
	srcu_read_unlock_fast(&migrate_copy_srcu, reader);
	return NULL;
}

/* migrate_copy_settle() with a batch. */
int __migrate_copy_settle(struct migrate_copy_batch *batch, struct folio *dst,
			  struct folio *src)
{
	struct migrate_copy_entry *e;
	unsigned int i;

	/*
	 * The entries are in list order and every folio of the list gets one
	 * turn before the batch is finished.
	 */
	i = batch->cursor;
	WRITE_ONCE(batch->cursor, i + 1);
	if (WARN_ON_ONCE(i < batch->nr && batch->entries[i].dst != dst)) {
		for (i = 0; i < batch->nr; i++)
			if (batch->entries[i].dst == dst)
				break;
	}
	if (i >= batch->nr)
		return 0;
	e = &batch->entries[i];
	if (!e->bytes)
		return 0;
	/*
	 * Pairs with the release by the lane that copied the folio: the bytes are
	 * in the destination when the state says so. The provider is always asked
	 * about the first folio, so that it knows when moving begins.
	 */
	if (smp_load_acquire(&batch->state[i]) == MIGRATE_COPY_COPIED && i &&
	    !batch->ask_always)
		return 1;
	return batch->ops->settle(batch->ctx, batch, i,
				  folio_ref_count(src) ==
				  folio_expected_ref_count(src) + 1);
}

/* migrate_copy_finish() with a batch. */
void __migrate_copy_finish(struct migrate_copy_batch *batch)
{
	struct srcu_ctr __percpu *reader = batch->reader;

	lock_map_release(&migrate_copy_map);
	batch->ops->finish(batch->ctx, batch);
	srcu_read_unlock_fast(&migrate_copy_srcu, reader);
}

/* migrate_copy_folio() with a provider. */
int __migrate_copy_folio(struct folio *dst, struct folio *src)
{
	const struct migrate_copy_call *call = current->migrate_copy_call;
	struct migrate_copy_provider *provider;
	struct srcu_ctr __percpu *reader;
	int rc = 1;

	reader = srcu_read_lock_fast(&migrate_copy_srcu);
	provider = srcu_dereference(migrate_copy_provider, &migrate_copy_srcu);
	/* Known poison must not be read. */
	if (provider && !WARN_ON_ONCE(!call) && !folio_contain_hwpoisoned_page(src)) {
		lock_map_acquire_read(&migrate_copy_map);
		rc = provider->ops->copy_now(provider->ctx, dst, src,
					     call->mode, call->reason);
		lock_map_release(&migrate_copy_map);
	}
	srcu_read_unlock_fast(&migrate_copy_srcu, reader);

	/* The stock copy reports poison, once, even if the provider has met it. */
	return rc > 0 ? folio_mc_copy(dst, src) : rc;
}

/* Offers a call with more than one batch to the workers of the provider. */
bool migrate_copy_spread(struct migrate_copy_spread *spread, struct folio *src, int nid)
{
	const struct migrate_copy_call *call = current->migrate_copy_call;
	struct migrate_copy_provider *provider;
	struct srcu_ctr __percpu *reader;
	bool given = false;

	reader = srcu_read_lock_fast(&migrate_copy_srcu);
	provider = srcu_dereference(migrate_copy_provider, &migrate_copy_srcu);
	if (provider && provider->ops->spread)
		given = provider->ops->spread(provider->ctx, spread, src, nid,
					      call->mode, call->reason);
	srcu_read_unlock_fast(&migrate_copy_srcu, reader);
	return given;
}

/**
 * migrate_copy_spread_one() - Migrate the next batch of a call for its mover.
 * @spread: the call; the caller has a reference.
 *
 * For a kernel thread of the provider, with no lock. Sleeps.
 *
 * Return: how many base pages have moved, or a negative errno if there is no batch
 * for workers, now or later.
 */
int migrate_copy_spread_one(struct migrate_copy_spread *spread)
{
	return spread->one(spread);
}
EXPORT_SYMBOL_GPL(migrate_copy_spread_one);

/**
 * migrate_copy_spread_put() - Let go of a reference to a call.
 * @spread: the call.
 */
void migrate_copy_spread_put(struct migrate_copy_spread *spread)
{
	if (refcount_dec_and_test(&spread->ref))
		spread->free(spread);
}
EXPORT_SYMBOL_GPL(migrate_copy_spread_put);

/**
 * migrate_copy_register() - Register the provider of copies.
 * @ops: the functions of the provider; must stay valid until it is unregistered.
 * @ctx: passed to each of these functions.
 *
 * Afterwards migrations use @ops.
 *
 * Context: May sleep. Takes the CPU hotplug lock.
 * Return: 0, or -EBUSY if there is a provider already.
 */
int migrate_copy_register(const struct migrate_copy_ops *ops, void *ctx)
{
	/*
	 * Migration runs in reclaim. Tell lockdep before the first batch, so that
	 * it reports a wait for reclaim with a claim held at once, and not only
	 * when that happens under load.
	 */
	fs_reclaim_acquire(GFP_KERNEL);
	lock_map_acquire_read(&migrate_copy_map);
	lock_map_release(&migrate_copy_map);
	fs_reclaim_release(GFP_KERNEL);

	guard(mutex)(&migrate_copy_mutex);

	if (rcu_access_pointer(migrate_copy_provider))
		return -EBUSY;
	migrate_copy_provider_obj.ops = ops;
	migrate_copy_provider_obj.ctx = ctx;
	rcu_assign_pointer(migrate_copy_provider, &migrate_copy_provider_obj);
	static_branch_enable(&migrate_copy_key);
	return 0;
}
EXPORT_SYMBOL_GPL(migrate_copy_register);

/**
 * migrate_copy_unregister() - Unregister the provider of copies.
 * @ops: as registered; with any other value, nothing happens.
 *
 * Waits for the batches that began with the provider. When this returns, @ops and
 * its context are not used any more.
 *
 * Context: May sleep. Takes the CPU hotplug lock. Must not be called in reclaim, nor
 * with a lock held that a function of the provider takes.
 */
void migrate_copy_unregister(const struct migrate_copy_ops *ops)
{
	guard(mutex)(&migrate_copy_mutex);

	if (!rcu_access_pointer(migrate_copy_provider) ||
	    migrate_copy_provider_obj.ops != ops)
		return;
	static_branch_disable(&migrate_copy_key);
	RCU_INIT_POINTER(migrate_copy_provider, NULL);
	synchronize_srcu(&migrate_copy_srcu);
}
EXPORT_SYMBOL_GPL(migrate_copy_unregister);

/**
 * migrate_copy_park() - Keep the destination of an entry from being reused.
 * @batch: a filled batch of the caller.
 * @i: entry with a destination that may still be written. Both folios are locked, and
 *	the destination is on no list but that of hugetlb folios in use.
 *
 * The migration of the folio must fail with -EBUSY. The destination stays locked
 * and out of use until migrate_copy_unpark(). The source is not freed before that,
 * because a lane that writes to the destination reads the source.
 *
 * Context: Process context. Takes hugetlb_lock and migrate_copy_parked_lock.
 * Return: false if the entry was parked already, else true.
 */
bool migrate_copy_park(struct migrate_copy_batch *batch, unsigned int i)
{
	struct folio *dst = batch->entries[i].dst;

	VM_WARN_ON_ONCE_FOLIO(!folio_test_locked(dst), dst);

#ifdef CONFIG_HUGETLB_PAGE
	/* A new hugetlb folio is on the list of the hugetlb folios in use. */
	if (folio_test_hugetlb(dst)) {
		spin_lock_irq(&hugetlb_lock);
		list_del_init(&dst->lru);
		spin_unlock_irq(&hugetlb_lock);
	}
#endif
	guard(spinlock)(&migrate_copy_parked_lock);
	if (__test_and_set_bit(i, batch->parked))
		return false;
	folio_get(batch->entries[i].src);
	if (!batch->nr_parked++)
		list_add_tail(&batch->parked_node,
			      &migrate_copy_parked_batches);
	WRITE_ONCE(migrate_copy_nr_parked, migrate_copy_nr_parked + 1);
	return true;
}
EXPORT_SYMBOL_GPL(migrate_copy_park);

/**
 * migrate_copy_unpark() - Release the destinations that are parked with a batch.
 * @batch: a batch to which only the caller has a reference, so that no lane touches
 *	its folios any more.
 *
 * Frees each parked destination that its migration has left. A migration that has not
 * asked migrate_copy_parked() yet frees its destination itself. Afterwards no entry is
 * parked.
 *
 * Context: Process context. Takes migrate_copy_parked_lock.
 * Return: the number of entries that were parked.
 */
unsigned int migrate_copy_unpark(struct migrate_copy_batch *batch)
{
	unsigned int i, nr = batch->nr_parked;

	if (!nr)
		return 0;
	spin_lock(&migrate_copy_parked_lock);
	list_del(&batch->parked_node);
	WRITE_ONCE(migrate_copy_nr_parked, migrate_copy_nr_parked - nr);
	spin_unlock(&migrate_copy_parked_lock);

	/* No migration finds the batch any more, so the bits are final. */
	batch->nr_parked = 0;
	for_each_set_bit(i, batch->parked, batch->nr) {
		struct migrate_copy_entry *e = &batch->entries[i];

		folio_put(e->src);
		if (!test_bit(i, batch->left))
			continue;
		folio_unlock(e->dst);
		folio_put(e->dst);
	}
	bitmap_zero(batch->parked, batch->nr);
	bitmap_zero(batch->left, batch->nr);
	return nr;
}
EXPORT_SYMBOL_GPL(migrate_copy_unpark);

/* migrate_copy_parked() while any folio is parked. */
bool __migrate_copy_parked(struct folio *dst)
{
	struct migrate_copy_batch *batch;
	unsigned int i;

	guard(spinlock)(&migrate_copy_parked_lock);
	list_for_each_entry(batch, &migrate_copy_parked_batches, parked_node) {
		for_each_set_bit(i, batch->parked, batch->nr) {
			if (batch->entries[i].dst != dst)
				continue;
			__set_bit(i, batch->left);
			return true;
		}
	}
	return false;
}

/**
 * migrate_copy_set_limits() - Set the size of a batch of migrate_pages().
 * @folios: the most folios, 0 for the stock value.
 * @pages: the most base pages, 0 for the stock value.
 *
 * A batch ends with the folio that reaches either limit. New limits take effect with
 * the next call of migrate_pages().
 *
 * Context: Any.
 */
void migrate_copy_set_limits(unsigned int folios, unsigned int pages)
{
	WRITE_ONCE(migrate_copy_max_folios, folios);
	WRITE_ONCE(migrate_copy_max_pages, pages);
}
EXPORT_SYMBOL_GPL(migrate_copy_set_limits);

/**
 * migrate_copy_cpu_idle() - Check if a worker that is woken on a CPU runs at once.
 * @cpu: CPU number.
 *
 * Context: Any.
 * Return: true if @cpu is idle, and not taken away by a hypervisor. This is a
 * snapshot, for placement only.
 */
bool migrate_copy_cpu_idle(int cpu)
{
	return idle_cpu(cpu) && !vcpu_is_preempted(cpu);
}
EXPORT_SYMBOL_GPL(migrate_copy_cpu_idle);

/*
 * Charges the cgroup of the caller for the time of workers: adds @ns to the system
 * time in its cpu.stat. The root is not charged: its cpu.stat is that of the machine,
 * in which the ticks of the workers themselves are counted already.
 */
void __migrate_copy_charge(u64 ns)
{
#ifdef CONFIG_CGROUPS
	struct cgroup *cgrp;

	/* The functions below change counters of this CPU. */
	guard(preempt)();
	guard(rcu)();
	cgrp = task_dfl_cgroup(current);
	if (!cgroup_parent(cgrp))
		return;
	__cgroup_account_cputime(cgrp, ns);
	__cgroup_account_cputime_field(cgrp, CPUTIME_SYSTEM, ns);
#endif
}
