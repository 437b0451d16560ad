// SPDX-License-Identifier: GPL-2.0

//! Batches: the folios of one `migrate_pages_batch()`, or a part of one folio that is copied in
//! place, on their way through a migrator.
//!
//! A batch object belongs to the pool, to the mover alone while it is being filled, and then to the
//! mover and all workers and engines that copy for it, by reference count: the holder of the last
//! reference puts the object back into the pool. The mover does not wait for a holder that merely
//! has a reference.
//!
//! The side of the mover, which drives the migrator, is in [`crate::mover`].
//!
//! Lock order: [`Free::batches`] is a leaf.

use crate::{
    kapi::{
        sched::{
            self,
            NoPreempt, //
        },
        topology, //
    },
    migrate_copy::{
        batch::{
            claim::Copied,
            MigrateCopyBatch, //
        },
        provider, //
    },
    shared::Shared,
    stats::{
        Cause,
        Counter,
        Stats, //
    }, //
};
use core::{
    mem,
    pin::Pin, //
};
use ferry_core::{
    class::BatchClass,
    policy,
    policy::Routine,
    Lane, //
};
use kernel::{
    new_spinlock,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        Arc,
        SpinLock,
        UniqueArc, //
    },
};

/// Nanoseconds for which a worker stays with a batch while it is as far ahead as it may be: longer
/// than a mover usually takes to move on by a chunk, so that no other worker has to be woken for
/// the next one, and short, because the worker only spins.
const AHEAD_SPIN_NS: u64 = 200_000;

/// The limit on a mover's waits for the workers and engines that have claimed chunks of its batch.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(crate) enum Patience {
    /// The mover waits until the timeout (`timeout_ms`).
    Timeout,
    /// The mover must not block: it waits no longer than it would have taken to copy the batch
    /// itself (I15).
    Copy,
}

/// The batch objects that are not in use.
#[pin_data]
struct Free {
    #[pin]
    batches: SpinLock<KVec<Pin<UniqueArc<Batch>>>>,
}

/// The pool of batch objects.
///
/// It is allocated at load, so that migration, which runs in reclaim, allocates nothing (I8). A
/// migration can be nested in the allocations of another one, and several run at the same time;
/// when the pool is empty the batch is declined.
///
/// Each batch object has a reference to [`Free`], to which it returns. Dropping the pool frees the
/// objects that are there, and their references with them; an object that is still in use then is
/// freed when its last user drops it.
pub(crate) struct Pool {
    total: usize,
    free: Arc<Free>,
}

impl Pool {
    /// Allocates `total` batch objects.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if memory is short.
    pub(crate) fn new(total: usize, shared: &Arc<Shared>) -> Result<Self> {
        let empty = KVec::with_capacity(total, GFP_KERNEL)?;
        let free = Arc::pin_init(
            pin_init!(Free {
                batches <- new_spinlock!(empty, "ferry::pool"),
            }),
            GFP_KERNEL,
        )?;
        let pool = Self { total, free };
        let unused = Arc::new(Stats::new(), GFP_KERNEL)?;
        for _ in 0..total {
            let batch = Batch::new(shared.clone(), unused.clone(), pool.free.clone())?;
            // There is room, as nothing has been taken yet.
            pool.free.put(Pin::from(UniqueArc::new(batch, GFP_KERNEL)?));
        }
        Ok(pool)
    }

    /// Returns the number of free batch objects, and the number of all.
    pub(crate) fn count(&self) -> (usize, usize) {
        (self.free.batches.lock().len(), self.total)
    }

    /// Takes a batch object, for the migrator with the counters `stats`; `None` if none is free.
    pub(crate) fn take(&self, stats: &Arc<Stats>) -> Option<Pin<UniqueArc<Batch>>> {
        let mut batch = self.free.batches.lock().pop()?;
        batch.start(stats.clone());
        Some(batch)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let batches = mem::take(&mut *self.free.batches.lock());
        // The lock is not held any more: freeing takes other locks.
        drop(batches);
    }
}

impl Free {
    /// Takes back a batch object.
    fn put(&self, batch: Pin<UniqueArc<Batch>>) {
        // There is room for every object that has been taken. If the pool was dropped, there is
        // none, and the object is freed.
        let rest = self.batches.lock().push_within_capacity(batch);
        drop(rest);
    }
}

/// A batch object: the folios and chunks of a batch, and what its mover and its workers note of it.
pub(crate) struct Batch {
    raw: MigrateCopyBatch,
    shared: Arc<Shared>,
    /// The counters of the migrator that the batch was begun for last.
    stats: Arc<Stats>,
    /// The free objects, to which this one returns.
    home: Arc<Free>,
    /// The time at which it was begun, in nanoseconds of the clock of the mover's CPU.
    begun: u64,
    /// The time at which it was about to be submitted, in nanoseconds of that clock.
    planned_at: u64,
    /// The CPU on which it was begun, the task that moves it, and the control group that pays for
    /// workers.
    cpu: topology::Cpu,
    mover: usize,
    payer: u64,
    /// The routine with which CPUs copy the batch.
    routine: Routine,
    /// The limit on the waits of the mover.
    patience: Patience,
    /// Its class, if its duration is to be measured.
    class: Option<BatchClass>,
    /// Not 0 when the mover has finished, or wants no more workers: workers do not look for chunks
    /// any more. Stored with release, in the end after the last chunk was closed, read with acquire
    /// by [`Batch::work()`].
    over: Atomic<u32>,
    /// The number of further workers that the batch is worth; taken by [`Batch::want_more()`].
    wanted: Atomic<u32>,
    /// The workers that it has been given to; set under their mailbox locks.
    given: Lanes,
    /// The lanes that a wait has timed out on. Only the mover uses it.
    stuck: Lanes,
    /// Nanoseconds that the mover has waited. Only the mover uses it.
    waited_ns: Atomic<u64>,
    /// The number of folios that the mover has settled, for fault injection. Only the mover uses
    /// it.
    turns: Atomic<u32>,
    /// Chunks that workers have claimed, and the nanoseconds they spent. Workers add to both before
    /// they complete a chunk with release; the mover reads them after it has seen all chunks
    /// complete with acquire.
    by_workers: Atomic<u32>,
    worker_ns: Atomic<u64>,
    /// The number of chunks that the mover has copied. Only the mover uses it.
    by_mover: Atomic<u32>,
}

#[cfg(any(CONFIG_DMA_ENGINE, CONFIG_PCI))]
impl crate::migrate_copy::batch::Pooled for Batch {
    fn put(batch: Arc<Self>) {
        Self::put(batch);
    }

    fn copied(&self, bytes: u64) {
        self.count_bytes(bytes);
        self.stats.add(Counter::EngineBytes, bytes);
    }
}

impl AsRef<MigrateCopyBatch> for Batch {
    fn as_ref(&self) -> &MigrateCopyBatch {
        &self.raw
    }
}

impl Batch {
    fn new(shared: Arc<Shared>, stats: Arc<Stats>, home: Arc<Free>) -> Result<Self> {
        Ok(Self {
            raw: MigrateCopyBatch::new()?,
            shared,
            stats,
            home,
            begun: 0,
            planned_at: 0,
            cpu: topology::Cpu::current(),
            mover: 0,
            payer: 0,
            routine: Routine::default(),
            patience: Patience::Timeout,
            class: None,
            over: Atomic::new(0),
            wanted: Atomic::new(0),
            given: Lanes::new(),
            stuck: Lanes::new(),
            waited_ns: Atomic::new(0),
            turns: Atomic::new(0),
            by_mover: Atomic::new(0),
            by_workers: Atomic::new(0),
            worker_ns: Atomic::new(0),
        })
    }

    fn start(&mut self, stats: Arc<Stats>) {
        self.raw.ask_always(self.shared.inject.asks_always());
        self.stats = stats;
        self.begun = sched::clock();
        self.cpu = topology::Cpu::current();
        self.mover = sched::current_id();
        self.payer = provider::payer();
        self.patience = Patience::Timeout;
        self.class = None;
        *self.over.get_mut() = 0;
        *self.wanted.get_mut() = 0;
        self.given.clear();
        self.stuck.clear();
        *self.waited_ns.get_mut() = 0;
        *self.turns.get_mut() = 0;
        *self.by_mover.get_mut() = 0;
        *self.by_workers.get_mut() = 0;
        *self.worker_ns.get_mut() = 0;
    }

    /// Drops a reference to a batch. The last one puts the object back into the pool.
    pub(crate) fn put(batch: Arc<Self>) {
        if let Some(unique) = Arc::into_unique_or_drop(batch) {
            Self::give_back(unique);
        }
    }

    /// Puts a batch back into the pool that has not been shared.
    pub(crate) fn give_back(mut batch: Pin<UniqueArc<Self>>) {
        // No other reference exists, so no worker and no engine writes to its folios: the proof
        // that I7 asks for.
        batch.raw.unpark();
        batch.raw.ask_always(false);
        let home = batch.home.clone();
        home.put(batch);
    }

    /// Returns the folios and chunks.
    pub(crate) fn raw(&self) -> &MigrateCopyBatch {
        &self.raw
    }

    /// Returns the folios and chunks, to fill and cut.
    pub(crate) fn raw_mut(&mut self) -> &mut MigrateCopyBatch {
        &mut self.raw
    }

    /// Returns the counters of the migrator that it was begun for.
    pub(crate) fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Returns how CPUs copy it.
    pub(crate) fn routine(&self) -> Routine {
        self.routine
    }

    /// Returns how long its mover waits.
    pub(crate) fn patience(&self) -> Patience {
        self.patience
    }

    /// Returns the time at which it was begun, in nanoseconds.
    pub(crate) fn begun(&self) -> u64 {
        self.begun
    }

    /// Returns the time at which it was about to be submitted, in nanoseconds, if its duration is
    /// to be measured.
    pub(crate) fn planned_at(&self) -> u64 {
        self.planned_at
    }

    /// Returns the nanoseconds that its mover has waited for workers and engines so far.
    pub(crate) fn waited_ns(&self) -> u64 {
        self.waited_ns.load(Relaxed)
    }

    /// Returns the number of workers that it has been given to.
    pub(crate) fn nr_given(&self) -> u32 {
        self.given.count()
    }

    /// Returns the CPU on which it was begun.
    pub(crate) fn cpu(&self) -> topology::Cpu {
        self.cpu
    }

    /// Returns the identity of its mover: a number that no other mover has.
    pub(crate) fn mover(&self) -> usize {
        self.mover
    }

    /// Returns the control group that pays for workers; 0 if none does.
    pub(crate) fn payer(&self) -> u64 {
        self.payer
    }

    /// Sets how CPUs copy it, before it is shared.
    pub(crate) fn set_routine(&mut self, routine: Routine) {
        self.routine = routine;
    }

    /// Sets how long its mover waits, before it is shared.
    pub(crate) fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// Sets its class, if its duration is to be measured, before it is shared; the time begins.
    pub(crate) fn set_class(&mut self, class: Option<BatchClass>) {
        self.class = class;
        self.planned_at = sched::clock();
    }

    /// Returns its class, if its duration is to be measured.
    pub(crate) fn class(&self) -> Option<BatchClass> {
        self.class
    }

    /// Sets how many more workers it is worth.
    pub(crate) fn set_wanted(&self, workers: u32) {
        self.wanted.store(workers, Relaxed);
    }

    /// Returns `true` if it is worth another worker, and counts that worker as found.
    pub(crate) fn want_more(&self) -> bool {
        // A lost race wakes one worker too few or lets two see the last one: neither matters, so no
        // compare-and-exchange. It orders nothing.
        let wanted = self.wanted.load(Relaxed);
        if wanted == 0 || self.over.load(Relaxed) != 0 || self.raw.left() < 2 {
            return false;
        }
        self.wanted.store(wanted - 1, Relaxed);
        true
    }

    /// Remembers that it has been given to a worker.
    pub(crate) fn mark_given(&self, worker: u32) {
        self.given.add(worker);
    }

    /// Returns `true` if it has been given to this worker.
    pub(crate) fn is_given(&self, worker: u32) -> bool {
        self.given.has(worker)
    }

    /// Copies one chunk for the mover, as a worker. Returns `false` if another lane has claimed the
    /// chunk.
    fn copy_chunk(&self, chunk: u32, lane: Lane, spent_ns: &impl Fn() -> u64) -> bool {
        let inject = &self.shared.inject;
        // From claim to done: no sleep, no fault, no allocation, no lock, no preemption (I13).
        let no_preempt = NoPreempt::new();
        let Some(mut claim) = self.raw.claim(chunk, lane) else {
            return false;
        };
        let copied = if inject.fail_chunk() {
            Default::default()
        } else {
            claim.copy(self.routine, inject.delay_in_chunk_ns())
        };
        sched::spin_ns(inject.late_done_ns());
        let ok = claim.is_ok();
        // Before the chunk is complete: from then on the mover may finish, and it counts and pays.
        self.by_workers.add(1u32, Relaxed);
        self.worker_ns.add(spent_ns(), Relaxed);
        drop(claim);
        drop(no_preempt);
        self.account(copied, ok);
        true
    }

    /// Counts bytes that a CPU or an engine has copied.
    fn count_bytes(&self, bytes: u64) {
        let counter = if self.raw.is_early() {
            Counter::BytesEarly
        } else {
            Counter::BytesInPlace
        };
        self.stats.add(counter, bytes);
    }

    /// Counts the result of a chunk that a CPU has copied.
    pub(crate) fn account(&self, copied: Copied, ok: bool) {
        let stats = &self.stats;
        self.count_bytes(copied.bytes);
        stats.add(Counter::CopiedEarly, copied.folios.into());
        for _ in 0..copied.referenced {
            stats.fallback(Cause::References, 0);
        }
        if !ok && copied.referenced == 0 {
            stats.fallback(Cause::Failed, 0);
        }
    }

    /// Returns the first chunk that is too far ahead of the mover.
    pub(crate) fn limit(&self) -> u32 {
        let knobs = &self.shared.knobs;
        let chunks = self.raw.planned().chunks;
        if !self.raw.is_early() {
            return chunks;
        }
        let (ahead, chunk_bytes) = (knobs.lookahead_bytes(), knobs.chunk_bytes());
        policy::lookahead_limit(self.raw.mover_chunk(), ahead, chunk_bytes, chunks)
    }

    /// Copies chunks of the batch until none is left to claim.
    ///
    /// Returns the number of chunks copied. `spent_ns` returns, with each chunk, the CPU time in
    /// nanoseconds that the mover owes since the last one.
    ///
    /// # Context
    ///
    /// May sleep between two chunks.
    pub(crate) fn work(&self, lane: Lane, spent_ns: impl Fn() -> u64) -> u32 {
        let mut copied = 0;
        let planned = self.raw.planned().chunks;
        let mut stalled = None;
        while self.over.load(Acquire) == 0 {
            let limit = self.limit();
            if let Some(chunk) = self.raw.take(limit) {
                stalled = None;
                if self.copy_chunk(chunk, lane, &spent_ns) {
                    copied += 1;
                }
                sched::give_way();
                continue;
            }
            if limit >= planned || sched::need_resched() {
                break;
            }
            // The worker is as far ahead as allowed. The mover copies the rest if the worker
            // leaves.
            let now = sched::clock();
            let since = *stalled.get_or_insert(now);
            if now.saturating_sub(since) > AHEAD_SPIN_NS {
                break;
            }
            kernel::processor::cpu_relax();
        }
        copied
    }

    /// Counts the time since `from` as waited by the mover.
    pub(crate) fn waited(&self, from: u64) {
        let ns = sched::clock().saturating_sub(from);
        self.waited_ns.add(ns, Relaxed);
    }

    /// Counts a turn to move, for fault injection.
    pub(crate) fn turn(&self) -> u32 {
        let turn = self.turns.load(Relaxed);
        self.turns.store(turn.wrapping_add(1), Relaxed);
        turn
    }

    /// Counts a chunk that the mover has copied.
    pub(crate) fn count_mine(&self) {
        self.by_mover.add(1u32, Relaxed);
    }

    /// Returns how many chunks were copied by the mover and by workers, and the CPU time of the
    /// latter in nanoseconds. Final when all chunks are complete.
    pub(crate) fn by_cpus(&self) -> (u32, u32, u64) {
        (
            self.by_mover.load(Relaxed),
            self.by_workers.load(Relaxed),
            self.worker_ns.load(Relaxed),
        )
    }

    /// Keeps workers from looking for more chunks: the mover has finished, or goes on alone.
    pub(crate) fn stop_workers(&self) {
        self.over.store(1, Release);
    }

    /// Returns `true` if a wait for this lane has timed out.
    pub(crate) fn is_stuck(&self, lane: Lane) -> bool {
        self.stuck.has(lane.index().into())
    }

    /// Remembers that a wait for this lane has timed out.
    pub(crate) fn mark_stuck(&self, lane: Lane) {
        self.stuck.add(lane.index().into());
    }
}

/// A set of lanes. Orders nothing.
struct Lanes([Atomic<u64>; Self::WORDS]);

impl Lanes {
    const WORDS: usize = (u8::MAX as usize + 1) / u64::BITS as usize;

    const fn new() -> Self {
        Self([const { Atomic::new(0) }; Self::WORDS])
    }

    fn clear(&mut self) {
        self.0.iter_mut().for_each(|word| *word.get_mut() = 0);
    }

    fn at(&self, lane: u32) -> Option<(&Atomic<u64>, u64)> {
        let word = self.0.get((lane / u64::BITS) as usize)?;
        Some((word, 1 << (lane % u64::BITS)))
    }

    fn add(&self, lane: u32) {
        let Some((word, bit)) = self.at(lane) else {
            return;
        };
        let mut old = word.load(Relaxed);
        while let Err(seen) = word.cmpxchg(old, old | bit, Relaxed) {
            old = seen;
        }
    }

    fn has(&self, lane: u32) -> bool {
        self.at(lane)
            .is_some_and(|(word, bit)| word.load(Relaxed) & bit != 0)
    }

    fn count(&self) -> u32 {
        self.0
            .iter()
            .map(|word| word.load(Relaxed).count_ones())
            .sum()
    }
}
