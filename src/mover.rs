// SPDX-License-Identifier: GPL-2.0

//! The mover's side of a batch: the mover copies chunks, waits for the workers and engines that
//! copy other chunks, and settles the folios.
//!
//! The mover is the task that migrates. It takes a batch from the pool, gives it to the migrator,
//! and is the only one that waits for anything. Everything here runs in it.
//!
//! Lock order: a mover takes no locks here but those of the migrator and the pool's, all of them
//! leaves.

use crate::{
    batch::{
        Batch,
        Patience,
        Pool, //
    },
    kapi::{
        log,
        sched,
        trace, //
    },
    migrate_copy::{
        batch::{
            claim::{
                Claim,
                Step, //
            },
            ByEngine,
            Settled, //
        },
        provider, //
    },
    migrator::{
        CopyPlan,
        Migrator,
        Quiet, //
    },
    shared::Shared,
    stats::{
        Cause,
        Counter,
        Stats, //
    }, //
};
use core::pin::Pin;
use ferry_core::Lane;
use kernel::{
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc,
        UniqueArc, //
    },
};

/// A selected migrator with all that movers need to use it. A batch ends with the session that it
/// began with.
pub(crate) struct Session {
    pub(crate) migrator: Arc<dyn Migrator>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) shared: Arc<Shared>,
    pool: Arc<Pool>,
}

impl Session {
    /// Creates a session of this migrator, with its counters.
    pub(crate) fn new(
        migrator: Arc<dyn Migrator>,
        stats: Arc<Stats>,
        shared: Arc<Shared>,
        pool: Arc<Pool>,
    ) -> Self {
        Self {
            migrator,
            stats,
            shared,
            pool,
        }
    }

    /// Takes a batch object; `None` if none is free.
    pub(crate) fn take(&self) -> Option<Pin<UniqueArc<Batch>>> {
        if self.shared.inject.exhaust_pool() {
            return None;
        }
        self.pool.take(&self.stats)
    }

    /// Hands a batch to the workers or channels that copy it with the mover. Returns `false` if
    /// none of them has taken it; a batch that is planned for the mover alone needs none.
    pub(crate) fn submit(&self, batch: &Arc<Batch>, plan: CopyPlan) -> bool {
        plan == CopyPlan::MoverOnly || self.migrator.submit(batch, plan)
    }

    /// Copies the chunk of a claim, and counts it.
    fn copy(&self, batch: &Batch, mut claim: Claim<'_>) {
        let from = sched::clock();
        let copied = claim.copy(batch.routine(), 0);
        let ok = claim.is_ok();
        drop(claim);
        let ns = sched::clock().saturating_sub(from);
        self.shared.pace.learn(copied.bytes, ns);
        batch.count_mine();
        batch.account(copied, ok);
    }

    /// Copies, in move order, all chunks that no other lane has claimed.
    pub(crate) fn copy_all(&self, batch: &Batch) {
        while let Some(chunk) = batch.raw().take(u32::MAX) {
            if let Some(claim) = batch.raw().claim(chunk, Lane::MOVER) {
                self.copy(batch, claim);
            }
            sched::cond_resched();
        }
    }

    /// Copies a chunk whose turn has not come, where the mover would otherwise have to wait.
    /// Returns `true` if there was one.
    ///
    /// Without this the mover and a worker would go on in step: the mover would reach each chunk
    /// just when the worker copies it, and wait for it.
    fn copy_ahead(&self, batch: &Batch) -> bool {
        if self.shared.inject.workers_only() {
            return false;
        }
        // A chunk that has been taken and could not be claimed is never offered again, so this
        // ends.
        while let Some(chunk) = batch.raw().take(batch.limit()) {
            if let Some(claim) = batch.raw().claim(chunk, Lane::MOVER) {
                self.copy(batch, claim);
                sched::cond_resched();
                return true;
            }
        }
        false
    }

    /// Settles an entry: copies its free chunks, waits for those in flight, or gives up. If `help`
    /// is `false`, the folio is about to fail, so that nothing more of it is copied.
    ///
    /// # Context
    ///
    /// May sleep, for a bounded time ([`Patience`]), and with none of Ferry's locks.
    pub(crate) fn settle(&self, batch: &Batch, i: u32, help: bool) -> Settled {
        // Bounded: each round completes a chunk of the entry, or copies another one of the batch.
        loop {
            match batch.raw().settle(i, help) {
                Step::Final(settled) => return settled,
                Step::Mine(claim) => {
                    self.copy(batch, claim);
                    sched::cond_resched();
                }
                Step::Wait(chunk) => {
                    if !self.copy_ahead(batch) && !self.wait(batch, i, chunk) {
                        self.stats.fallback(Cause::NotQuiet, 0);
                        return batch.raw().park(i);
                    }
                }
            }
        }
    }

    /// Waits until a chunk in flight is done, or at least entry `i` of it. Returns `false` if
    /// nothing proves that the lane does not touch the entry any more.
    fn wait(&self, batch: &Batch, i: u32, chunk: u32) -> bool {
        let Some(lane) = batch.raw().in_flight(chunk) else {
            return true;
        };
        // One timeout for a lane, not one for each of the folios that it holds (I15).
        if batch.is_stuck(lane) {
            return !batch.raw().waiting(i, chunk);
        }
        let patience = batch.patience();
        let timeout = match patience {
            Patience::Timeout => self.shared.knobs.timeout_ns(),
            Patience::Copy => {
                // The limit is for all waits of the batch together.
                let all = self.shared.pace.patience_ns(batch.raw().planned().bytes);
                match all.saturating_sub(batch.waited_ns()) {
                    0 => return !batch.raw().waiting(i, chunk),
                    left => left,
                }
            }
        };
        let from = sched::clock();
        let result = self.migrator.wait(batch, i, chunk, timeout);
        let answered = result.is_ok();
        let given_up = result == Err(ECANCELED);
        // This time counts towards the timeout of the batch.
        batch.waited(from);
        let mut quiet = answered;
        if given_up {
            trace::engine_error(lane.index().into(), ECANCELED.to_errno());
        } else if !answered && patience == Patience::Timeout {
            self.stats.add(Counter::WaitTimeouts, 1);
            trace::engine_error(lane.index().into(), ETIMEDOUT.to_errno());
            let proving = sched::clock();
            quiet = self.migrator.quiesce(batch, i, chunk, timeout) == Quiet::Yes;
            batch.waited(proving);
        }
        let ns = sched::clock().saturating_sub(from);
        self.stats.add(Counter::Waits, 1);
        if patience == Patience::Copy {
            self.stats.add(Counter::WaitsAsync, 1);
            self.stats.wait_async.add(ns);
        }
        self.stats.wait.add(ns);
        trace::wait(batch.raw().id(), chunk, ns, answered);
        if quiet {
            return true;
        }
        if patience == Patience::Copy {
            if !batch.raw().waiting(i, chunk) {
                return true;
            }
            // The worker is not at fault: a hypervisor or firmware has taken its CPU away, and
            // gives it back. The folio that it holds fails (I7); the mover goes on alone.
            self.stats.add(Counter::WaitsCut, 1);
            batch.stop_workers();
            return false;
        }
        if given_up {
            // Other descriptors of the lane may still end, and are waited for.
            if log::allowed() {
                pr_warn!(
                    "lane {}: the driver aborted a copy that its engine may still be working on; folio not migrated, destination parked\n",
                    lane.index()
                );
            }
            return false;
        }
        batch.mark_stuck(lane);
        if log::allowed() {
            pr_warn!(
                "lane {}: copy timed out after {} ms; folios not migrated, destinations parked\n",
                lane.index(),
                ns / 1_000_000
            );
        }
        false
    }

    /// Ends the batch for the mover: afterwards no chunk of it can be claimed, and the folios of
    /// chunks in flight are parked.
    pub(crate) fn finish(&self, batch: Arc<Batch>) {
        batch.raw().close();
        batch.stop_workers();
        self.migrator.batch_done(&batch);
        let (mover, workers, worker_ns) = batch.by_cpus();
        let engine = batch.raw().by_engine();
        let others = workers.saturating_add(engine.chunks.load(Relaxed));
        if let Some(class) = batch.class() {
            let ns = sched::clock().saturating_sub(batch.planned_at());
            self.migrator.learn(class, &batch, ns);
        }
        let stats = &self.stats;
        account_engine(stats, engine);
        stats.add(Counter::ByMover, mover.into());
        stats.add(Counter::ByOthers, others.into());
        stats.add(Counter::WorkerNs, worker_ns);
        if batch.raw().is_early() {
            stats.add(Counter::ChunksRevoked, batch.raw().revoked().into());
        }
        provider::charge(worker_ns);
        trace::finish(batch.raw().id(), mover, others, worker_ns);
        Batch::put(batch);
    }
}

/// Counts the folios that engines have copied, and their chunks that failed.
fn account_engine(stats: &Stats, engine: &ByEngine) {
    stats.add(Counter::CopiedEarly, engine.folios.load(Relaxed).into());
    for _ in 0..engine.failed.load(Relaxed) {
        stats.fallback(Cause::Failed, 0);
    }
}
