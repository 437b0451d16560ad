/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Copying folio content during migration with a registered provider.
 *
 * mm/migrate.c calls the migrate_copy_*() functions of the first half. A provider,
 * which is a module, uses the functions of the second half. Without a registered
 * provider each call in mm/migrate.c costs one static branch, and each call of
 * migrate_pages() a few stores. The mover is the task that migrates; a lane is the
 * mover, or a worker or an engine of the provider.
 */
#ifndef _LINUX_MIGRATE_COPY_H
#define _LINUX_MIGRATE_COPY_H

#include <linux/jump_label.h>
#include <linux/lockdep.h>
#include <linux/migrate_mode.h>
#include <linux/mm.h>
#include <linux/refcount.h>
#include <linux/sched.h>
#include <linux/types.h>

struct migrate_copy_ops;
struct migrate_copy_spread;
struct srcu_ctr;

/**
 * enum migrate_copy_state - the state of one folio of a batch
 * @MIGRATE_COPY_PENDING: the folio has not been copied yet, and may never be.
 * @MIGRATE_COPY_COPIED: the whole content is in the destination. Stored with
 *	release semantics after the bytes, and after a store fence if they were
 *	written with non-temporal stores; read with acquire semantics.
 * @MIGRATE_COPY_SKIPPED: the lane that claimed the folio did not copy it.
 */
enum migrate_copy_state {
	MIGRATE_COPY_PENDING	= 0,
	MIGRATE_COPY_COPIED	= 1,
	MIGRATE_COPY_SKIPPED	= 2,
};

/**
 * struct migrate_copy_entry - one folio of a batch
 * @src: source folio: locked, unmapped, its TLB entries flushed.
 * @dst: destination folio, locked.
 * @bytes: size of the folio, 0 if its content must not be copied early.
 */
struct migrate_copy_entry {
	struct folio *src;
	struct folio *dst;
	unsigned long bytes;
};

/**
 * struct migrate_copy_batch - the unmapped folios of one migrate_pages_batch()
 * @ops: the provider that this batch began with and ends with.
 * @ctx: the context of the provider, as registered; valid until the batch is
 *	finished.
 * @entries: array of @max entries from the provider's pool, in move order.
 * @state: array of @max enum migrate_copy_state, one for each entry; written by
 *	the provider, read by the mover. It is apart from @entries, so that few
 *	cache lines go back and forth.
 * @parked: bitmap of @max bits, one for each entry: its destination may still be
 *	written, see migrate_copy_park(). Empty when the batch begins.
 * @left: bitmap of @max bits, one for each entry: it is parked, and its migration
 *	has failed already.
 * @parked_node: links the batches with parked entries.
 * @nr_parked: number of bits that are set in @parked.
 * @max: capacity of @entries, @state, @parked and @left.
 * @nr: number of entries in use; the stock code copies all further folios of the
 *	list.
 * @nr_anon: number of anonymous folios among them that may be copied early.
 * @nr_shmem: number of shmem folios among them that may be copied early.
 * @cursor: index of the entry that is moved next; other tasks may read it with
 *	READ_ONCE() to see how far the mover is.
 * @reader: the SRCU read-side section, which lasts as long as the batch.
 * @mode: enum migrate_mode of the call of migrate_pages().
 * @reason: enum migrate_reason of the call of migrate_pages().
 * @ask_always: call &migrate_copy_ops.settle even where @state already is
 *	%MIGRATE_COPY_COPIED (fault injection).
 *
 * The provider embeds this structure in its own batch object, and provides the
 * arrays and the bitmaps. Only the mover writes to it, except that mm/migrate_copy.c
 * writes @parked, @left, @parked_node and @nr_parked under its lock, and the provider
 * writes the array @state.
 */
struct migrate_copy_batch {
	const struct migrate_copy_ops *ops;
	void *ctx;
	struct migrate_copy_entry *entries;
	u32 *state;
	unsigned long *parked;
	unsigned long *left;
	struct list_head parked_node;
	unsigned int nr_parked;
	unsigned int max;
	unsigned int nr;
	unsigned int nr_anon;
	unsigned int nr_shmem;
	unsigned int cursor;
	struct srcu_ctr __percpu *reader;
	unsigned int mode;
	unsigned int reason;
	bool ask_always;
};

/**
 * struct migrate_copy_ops - the functions of a provider of copies
 * @begin: Takes a batch object from a pool, or returns NULL to decline. It is called
 *	before a batch with the first folio @src is filled, for a call of
 *	migrate_pages() with this mode and reason. The provider sets @entries,
 *	@state, @parked, @left, @max and @ask_always of the batch.
 * @submit: Makes the filled batch known to the lanes that copy, and returns at once.
 *	An error declines the batch: nothing of it will be copied, and the batch
 *	object belongs to the provider again, as after @abandon.
 * @abandon: Takes back a batch that has not been offered to @submit.
 * @settle: Settles entry @i, which is moved next. It is called if the state of the
 *	entry was not %MIGRATE_COPY_COPIED, and for the first entry. @help is false
 *	where the folio is about to fail its reference check, so that copying more
 *	of it would be wasted. When it returns, no lane reads the source or writes
 *	the destination any more, whatever it returns: 1 if the whole content is in
 *	the destination, 0 if the folio must be copied, a negative errno if the
 *	folio must fail with it. There is one exception: a destination that may
 *	still be written has been given to migrate_copy_park(), and its entry fails
 *	with -EBUSY.
 * @finish: Ends a batch in which all entries have been settled. When it returns, no
 *	folio of the batch is claimed or can be claimed, and the batch object
 *	belongs to the provider again.
 * @copy_now: Copies one locked folio after its references have been checked.
 *	@mode and @reason are those of the call of migrate_pages(). Returns 0 if
 *	all of the folio has been copied, 1 to let the caller copy it (whatever was
 *	copied already), or a negative errno to fail the folio, with its destination
 *	parked. No lane touches the folios afterwards unless the destination is
 *	parked.
 * @spread: Offers a call of migrate_pages() with more than one batch to workers, which
 *	call migrate_copy_spread_one(). @src is its first folio, @nid the node of the
 *	destinations, or NUMA_NO_NODE. Returns false if it is given to no worker. May
 *	be NULL.
 *
 * The first parameter of each function is the context that was registered. All
 * functions are called inside one SRCU read-side section, in process context, and
 * possibly in reclaim: they must not allocate in a way that can enter reclaim, take
 * locks other than leaves, or wait without bound. Where the call of migrate_pages() is
 * %MIGRATE_ASYNC they must not wait for longer than a CPU would need to copy the
 * same bytes.
 *
 * Modes and reasons are passed as integers, because the type of an enum is not
 * part of what a provider in Rust can declare, and CFI compares types.
 */
struct migrate_copy_ops {
	struct migrate_copy_batch *(*begin)(void *ctx, struct folio *dst,
					    struct folio *src,
					    unsigned int mode,
					    unsigned int reason);
	int (*submit)(void *ctx, struct migrate_copy_batch *batch);
	void (*abandon)(void *ctx, struct migrate_copy_batch *batch);
	int (*settle)(void *ctx, struct migrate_copy_batch *batch,
		      unsigned int i, bool help);
	void (*finish)(void *ctx, struct migrate_copy_batch *batch);
	int (*copy_now)(void *ctx, struct folio *dst, struct folio *src,
			unsigned int mode, unsigned int reason);
	bool (*spread)(void *ctx, struct migrate_copy_spread *spread,
		       struct folio *src, int nid, unsigned int mode,
		       unsigned int reason);
};

#ifdef CONFIG_MIGRATE_COPY

/**
 * struct migrate_copy_spread - a call of which workers migrate batches, too
 * @ref: the number of references: of the mover, and of each worker that has the call.
 * @one: Migrates the next batch for the mover, as migrate_copy_spread_one().
 * @free: Frees the object, after the last reference has gone.
 *
 * The object outlives the call, but has no batches any more when the call has ended.
 */
struct migrate_copy_spread {
	refcount_t ref;
	int (*one)(struct migrate_copy_spread *spread);
	void (*free)(struct migrate_copy_spread *spread);
};

/**
 * struct migrate_copy_call - a call of migrate_pages() in progress
 * @outer: the call of the same task in which this one is nested, or NULL.
 * @mode: the mode of the call. The first attempt of migrate_pages_batch() is
 *	%MIGRATE_ASYNC for every caller, so that attempt does not tell which callers
 *	must not block.
 * @reason: the reason of the call.
 * @payer: the task for which the call is made: the caller, or the mover of the spread
 *	call of which the caller, a worker, migrates a batch.
 * @worker_ns: CPU time in nanoseconds that workers have spent for the call.
 */
struct migrate_copy_call {
	struct migrate_copy_call *outer;
	enum migrate_mode mode;
	enum migrate_reason reason;
	struct task_struct *payer;
	u64 worker_ns;
};

DECLARE_STATIC_KEY_FALSE(migrate_copy_key);

/* For mm/migrate.c. */

struct migrate_copy_batch *
__migrate_copy_submit(struct list_head *src_folios, struct folio *src,
		      struct folio *dst);
int __migrate_copy_settle(struct migrate_copy_batch *batch, struct folio *dst,
			  struct folio *src);
void __migrate_copy_finish(struct migrate_copy_batch *batch);
int __migrate_copy_folio(struct folio *dst, struct folio *src);
bool __migrate_copy_parked(struct folio *dst);
bool migrate_copy_spread(struct migrate_copy_spread *spread, struct folio *src, int nid);
void __migrate_copy_charge(u64 ns);

extern unsigned int migrate_copy_max_folios;
extern unsigned int migrate_copy_max_pages;
extern unsigned int migrate_copy_nr_parked;

/**
 * migrate_copy_folio() - Copy a folio as folio_mc_copy() does, or by a provider.
 * @dst: destination folio.
 * @src: source folio, locked, its references checked.
 *
 * Return: the return value of folio_mc_copy(), or -EBUSY if @dst may still be written
 * and has been parked.
 */
static inline int migrate_copy_folio(struct folio *dst, struct folio *src)
{
	if (static_branch_unlikely(&migrate_copy_key) && folio_test_large(src))
		return __migrate_copy_folio(dst, src);
	return folio_mc_copy(dst, src);
}

/**
 * migrate_copy_submit() - Begin to copy the folios of a batch early.
 * @src_folios: list of source folios, locked, unmapped, flushed.
 * @src: the first of these folios that belongs to the batch; the head of the list if
 *	none does.
 * @dst: the destination of @src; the other destinations follow in the same order.
 *
 * Return: the batch, which the caller has to settle folio by folio in list order and
 * then finish, or NULL if the provider copies nothing early.
 */
static inline struct migrate_copy_batch *
migrate_copy_submit(struct list_head *src_folios, struct folio *src,
		    struct folio *dst)
{
	if (static_branch_unlikely(&migrate_copy_key))
		return __migrate_copy_submit(src_folios, src, dst);
	return NULL;
}

/**
 * migrate_copy_settle() - Settle the next folio of a batch before it is moved.
 * @batch: the batch or NULL.
 * @dst: destination folio.
 * @src: source folio.
 *
 * Afterwards only the caller accesses either folio.
 *
 * Return: 1 if the content is in @dst, 0 if not, or a negative errno that the
 * folio must fail with.
 */
static inline int migrate_copy_settle(struct migrate_copy_batch *batch,
				      struct folio *dst, struct folio *src)
{
	return batch ? __migrate_copy_settle(batch, dst, src) : 0;
}

/**
 * migrate_copy_finish() - Finish a batch after all its folios have been settled.
 * @batch: the batch or NULL.
 */
static inline void migrate_copy_finish(struct migrate_copy_batch *batch)
{
	if (batch)
		__migrate_copy_finish(batch);
}

/**
 * migrate_copy_parked() - Check if a destination is kept from being reused.
 * @dst: destination folio of a migration that failed.
 *
 * The code that would free the folio calls this, once for each folio. Only the same
 * task can have parked the folio, so the count cannot be read too early.
 *
 * Return: true if @dst may still be written. It then belongs to the batch that
 * it was parked with: it must neither be unlocked nor freed.
 */
static inline bool migrate_copy_parked(struct folio *dst)
{
	return unlikely(READ_ONCE(migrate_copy_nr_parked)) &&
	       __migrate_copy_parked(dst);
}

/**
 * migrate_copy_begin() - Record the mode and reason of a call of migrate_pages().
 * @call: memory of the caller, in use until migrate_copy_end().
 * @mode: the mode of the call.
 * @reason: the reason of the call.
 *
 * Mode and reason are not passed on to the code that copies a folio in place, which
 * is several calls further down, some of them in filesystems
 * (&address_space_operations.migrate_folio). Calls of migrate_pages() can be nested:
 * the allocation of a destination can enter reclaim, which demotes.
 */
static inline void migrate_copy_begin(struct migrate_copy_call *call,
				      enum migrate_mode mode,
				      enum migrate_reason reason)
{
	call->outer = current->migrate_copy_call;
	call->mode = mode;
	call->reason = reason;
	call->payer = current;
	call->worker_ns = 0;
	current->migrate_copy_call = call;
}

/**
 * migrate_copy_end() - End a call of migrate_pages(), and charge for its workers.
 * @call: as for migrate_copy_begin().
 */
static inline void migrate_copy_end(struct migrate_copy_call *call)
{
	current->migrate_copy_call = call->outer;
	if (unlikely(call->worker_ns))
		__migrate_copy_charge(call->worker_ns);
}

/**
 * migrate_copy_may_spread() - Is there a provider whose workers take batches?
 *
 * Return: true if there may be one.
 */
static inline bool migrate_copy_may_spread(void)
{
	return static_branch_unlikely(&migrate_copy_key);
}

/* For providers. */

int migrate_copy_spread_one(struct migrate_copy_spread *spread);
void migrate_copy_spread_put(struct migrate_copy_spread *spread);

/**
 * migrate_copy_spread_get() - Take a reference to a call.
 * @spread: the call; the caller has a reference.
 */
static inline void migrate_copy_spread_get(struct migrate_copy_spread *spread)
{
	refcount_inc(&spread->ref);
}

int migrate_copy_register(const struct migrate_copy_ops *ops, void *ctx);
void migrate_copy_unregister(const struct migrate_copy_ops *ops);
bool migrate_copy_park(struct migrate_copy_batch *batch, unsigned int i);
unsigned int migrate_copy_unpark(struct migrate_copy_batch *batch);
void migrate_copy_set_limits(unsigned int folios, unsigned int pages);
bool migrate_copy_cpu_idle(int cpu);

/**
 * migrate_copy_charge() - Charge the caller for the time of workers.
 * @ns: CPU time in nanoseconds that workers have spent for the caller's call of
 *	migrate_pages(). The cgroup of the caller is charged with it when the call
 *	ends.
 */
static inline void migrate_copy_charge(u64 ns)
{
	if (current->migrate_copy_call)
		current->migrate_copy_call->worker_ns += ns;
}

#ifdef CONFIG_LOCKDEP
extern struct lockdep_map migrate_copy_map;
extern struct lockdep_map migrate_copy_spread_map;
#endif

/**
 * migrate_copy_lockdep_claim() - Tell lockdep that the caller claims for a mover.
 */
static inline void migrate_copy_lockdep_claim(void)
{
	lock_map_acquire(&migrate_copy_map);
}

/**
 * migrate_copy_lockdep_release() - Tell lockdep that the caller's claim has ended.
 */
static inline void migrate_copy_lockdep_release(void)
{
	lock_map_release(&migrate_copy_map);
}

/**
 * migrate_copy_may_claim() - Check if an entry may be copied early at this moment.
 * @e: entry of a submitted batch.
 *
 * The content of an eligible folio is final from any moment on at which the
 * folio is locked and unmapped and has no reference beyond the expected ones:
 * each writer through a reference that does not come from a present page table
 * entry takes the folio lock after taking the reference.
 *
 * Return: true if the entry may be copied; the caller then reads the bytes after
 * that moment.
 */
static inline bool migrate_copy_may_claim(const struct migrate_copy_entry *e)
{
	struct folio *src = e->src;

	if (!folio_test_locked(src) ||
	    folio_ref_count(src) != folio_expected_ref_count(src) + 1)
		return false;
	/*
	 * Orders the reads of the content after the read of the reference
	 * count. Pairs with the release in folio_put() (atomic RMW with full
	 * ordering) by the last writer that let the folio go.
	 */
	smp_acquire__after_ctrl_dep();
	return true;
}

#else /* !CONFIG_MIGRATE_COPY */

struct migrate_copy_batch;

struct migrate_copy_call {
};

static inline void migrate_copy_begin(struct migrate_copy_call *call,
				      enum migrate_mode mode,
				      enum migrate_reason reason)
{
}

static inline void migrate_copy_end(struct migrate_copy_call *call)
{
}

static inline int migrate_copy_folio(struct folio *dst, struct folio *src)
{
	return folio_mc_copy(dst, src);
}

static inline struct migrate_copy_batch *
migrate_copy_submit(struct list_head *src_folios, struct folio *src,
		    struct folio *dst)
{
	return NULL;
}

static inline int migrate_copy_settle(struct migrate_copy_batch *batch,
				      struct folio *dst, struct folio *src)
{
	return 0;
}

static inline void migrate_copy_finish(struct migrate_copy_batch *batch)
{
}

static inline bool migrate_copy_parked(struct folio *dst)
{
	return false;
}

static inline bool migrate_copy_may_spread(void)
{
	return false;
}

#endif /* CONFIG_MIGRATE_COPY */
#endif /* _LINUX_MIGRATE_COPY_H */
