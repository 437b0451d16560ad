/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Copying folio content during migration with a registered provider.
 *
 * mm/migrate.c calls the migrate_copy_*() functions of the first half; a
 * provider, a module, uses those of the second half. Without a registered
 * provider each call in mm/migrate.c costs one static branch, and each call of
 * migrate_pages() a few stores.
 */
#ifndef _LINUX_MIGRATE_COPY_H
#define _LINUX_MIGRATE_COPY_H

#include <linux/jump_label.h>
#include <linux/lockdep.h>
#include <linux/migrate_mode.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/types.h>

struct migrate_copy_ops;
struct srcu_ctr;

/**
 * enum migrate_copy_state - what became of one folio of a batch
 * @MIGRATE_COPY_PENDING: not copied, or not yet.
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
 * @ctx: its context, as registered; valid until the batch is finished.
 * @entries: array of @max entries from the provider's pool, in move order.
 * @state: array of @max enum migrate_copy_state, one for each entry; written by
 *	the provider, read by the mover. Apart from @entries, so that few cache
 *	lines go back and forth.
 * @parked: bitmap of @max bits, one for each entry: its destination may still be
 *	written, see migrate_copy_park(). Empty when the batch begins.
 * @left: bitmap of @max bits: parked entries whose migration has failed already.
 * @parked_node: links the batches with parked entries.
 * @nr_parked: bits that are set in @parked.
 * @max: capacity of @entries, @state, @parked and @left.
 * @nr: entries in use; folios of the list beyond it are the stock kernel's.
 * @nr_anon: anonymous folios among them whose content may be copied early.
 * @nr_shmem: shmem folios among them whose content may be copied early.
 * @cursor: the entry whose turn to move comes next; others may read it with
 *	READ_ONCE() to see how far the mover is.
 * @reader: of the SRCU read-side section that lasts as long as the batch.
 * @mode: enum migrate_mode of the call of migrate_pages().
 * @reason: its enum migrate_reason.
 * @ask_always: ask &migrate_copy_ops.settle even where @entries already says
 *	%MIGRATE_COPY_COPIED (fault injection).
 *
 * The provider embeds it in its own batch object, and provides the arrays and
 * the bitmaps. Written by the mover only; @parked, @left, @parked_node and
 * @nr_parked by mm/migrate_copy.c, under its lock.
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
 * struct migrate_copy_ops - what a provider of copies implements
 * @begin: Takes a batch object from a pool, or returns NULL to decline, before
 *	a batch is filled whose first folio is @src, for a call of migrate_pages()
 *	with this mode and reason. The provider sets @entries,
 *	@state, @parked, @left, @max and @ask_always of it.
 * @submit: Makes the filled batch known to those lanes that copy, and returns at once.
 *	An error declines the batch: nothing of it will be copied, and the batch
 *	object belongs to the provider again, as after @abandon.
 * @abandon: Takes back a batch that has not been offered to @submit.
 * @settle: The turn to move of entry @i has come and its state was not
 *	%MIGRATE_COPY_COPIED, or it is the first one. @help is false where the
 *	folio is about to fail its reference check, so that copying more of it
 *	would be wasted. When it returns, nothing reads the source or writes the
 *	destination any more, whatever it returns: 1 if the whole content is in
 *	the destination, 0 if the folio must be copied, a negative errno if the
 *	folio must fail with it. An entry whose destination may still be written
 *	has been given to migrate_copy_park() and fails with -EBUSY.
 * @finish: All entries have been settled. When it returns, no folio of the
 *	batch can be claimed and none is claimed, and the batch object belongs
 *	to the provider again.
 * @copy_now: Copies one locked folio whose references have just been checked.
 *	@mode and @reason are those of the call of migrate_pages(). Returns 0 if
 *	all of it has been copied, 1 to have the caller copy it (whatever was
 *	copied already), or a negative errno to fail the folio, its destination
 *	parked. Nothing touches either folio afterwards unless it is parked.
 *
 * The first parameter of each is the context that was registered. All are called
 * inside one SRCU read-side section, in process context, and possibly in reclaim:
 * they must not allocate in a way that can enter reclaim, take anything but leaf
 * locks, or wait without bound. Where the call of migrate_pages() is
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
};

#ifdef CONFIG_MIGRATE_COPY

/**
 * struct migrate_copy_call - a call of migrate_pages() that goes on
 * @outer: the call of the same task that this one is nested in, or NULL.
 * @mode: its mode. The first attempt of migrate_pages_batch() is %MIGRATE_ASYNC
 *	for every caller, so this is what tells which of them must not block.
 * @reason: its reason.
 * @worker_ns: CPU time that others have spent for it.
 */
struct migrate_copy_call {
	struct migrate_copy_call *outer;
	enum migrate_mode mode;
	enum migrate_reason reason;
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
void __migrate_copy_charge(u64 ns);

extern unsigned int migrate_copy_max_folios;
extern unsigned int migrate_copy_max_pages;
extern unsigned int migrate_copy_nr_parked;

/**
 * migrate_copy_folio() - folio_mc_copy(), in parallel if a provider can.
 * @dst: destination folio.
 * @src: source folio, locked, its references checked.
 *
 * Return: as folio_mc_copy(), or -EBUSY if @dst may still be written and has
 * been parked.
 */
static inline int migrate_copy_folio(struct folio *dst, struct folio *src)
{
	if (static_branch_unlikely(&migrate_copy_key) && folio_test_large(src))
		return __migrate_copy_folio(dst, src);
	return folio_mc_copy(dst, src);
}

/**
 * migrate_copy_submit() - Start copying the folios of a batch early.
 * @src_folios: list of source folios, locked, unmapped, flushed.
 * @src: the first of them that is meant, or the head of the list for none.
 * @dst: its destination folio; those of the others follow in the same order.
 *
 * Return: the batch, to be settled folio by folio in list order and then
 * finished, or NULL where everything goes as without it.
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
 * migrate_copy_settle() - The next folio of a batch is about to be moved.
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
 * migrate_copy_finish() - All folios of a batch have had their turn.
 * @batch: the batch or NULL.
 */
static inline void migrate_copy_finish(struct migrate_copy_batch *batch)
{
	if (batch)
		__migrate_copy_finish(batch);
}

/**
 * migrate_copy_parked() - Is this destination kept from being reused?
 * @dst: destination folio of a migration that failed.
 *
 * To be asked once for a folio, by who would free it. It was parked by the same
 * task, if at all, so that the count cannot be read too early.
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
 * migrate_copy_begin() - A call of migrate_pages() begins.
 * @call: of the caller, until migrate_copy_end().
 * @mode: its mode.
 * @reason: its reason.
 *
 * A folio that is copied in place is several calls away from those who know these
 * two, some of the calls in filesystems (&address_space_operations.migrate_folio).
 * Calls nest: the allocation of a destination can enter reclaim, which demotes.
 */
static inline void migrate_copy_begin(struct migrate_copy_call *call,
				      enum migrate_mode mode,
				      enum migrate_reason reason)
{
	call->outer = current->migrate_copy_call;
	call->mode = mode;
	call->reason = reason;
	call->worker_ns = 0;
	current->migrate_copy_call = call;
}

/**
 * migrate_copy_end() - A call of migrate_pages() ends.
 * @call: as for migrate_copy_begin().
 */
static inline void migrate_copy_end(struct migrate_copy_call *call)
{
	current->migrate_copy_call = call->outer;
	if (unlikely(call->worker_ns))
		__migrate_copy_charge(call->worker_ns);
}

/* For providers. */

int migrate_copy_register(const struct migrate_copy_ops *ops, void *ctx);
void migrate_copy_unregister(const struct migrate_copy_ops *ops);
bool migrate_copy_park(struct migrate_copy_batch *batch, unsigned int i);
unsigned int migrate_copy_unpark(struct migrate_copy_batch *batch);
void migrate_copy_set_limits(unsigned int folios, unsigned int pages);
bool migrate_copy_cpu_idle(int cpu);

/**
 * migrate_copy_charge() - The caller's call of migrate_pages() had help.
 * @ns: CPU time in nanoseconds that others have spent for it. The cgroup of the
 *	caller is charged with it when the call ends.
 */
static inline void migrate_copy_charge(u64 ns)
{
	if (current->migrate_copy_call)
		current->migrate_copy_call->worker_ns += ns;
}

#ifdef CONFIG_LOCKDEP
extern struct lockdep_map migrate_copy_map;
#endif

/**
 * migrate_copy_lockdep_claim() - The caller holds a claim for another task.
 */
static inline void migrate_copy_lockdep_claim(void)
{
	lock_map_acquire(&migrate_copy_map);
}

/**
 * migrate_copy_lockdep_release() - The caller has completed its claim.
 */
static inline void migrate_copy_lockdep_release(void)
{
	lock_map_release(&migrate_copy_map);
}

/**
 * migrate_copy_may_claim() - May the content of an entry be copied early, now?
 * @e: entry of a submitted batch.
 *
 * The content of an eligible folio is final from any moment on at which the
 * folio is locked and unmapped and holds no reference beyond the expected
 * ones: each writer through a reference that does not come from a present page
 * table entry takes the folio lock after taking the reference.
 *
 * Return: true if it may; the bytes are then read after that moment.
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

#endif /* CONFIG_MIGRATE_COPY */
#endif /* _LINUX_MIGRATE_COPY_H */
