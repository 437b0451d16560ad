// SPDX-License-Identifier: GPL-2.0

//! The dispatcher, which the shim calls: it decides whether Ferry copies a batch or a folio, gives
//! it to the migrator, and counts the results.
//!
//! Lock order: the dispatcher takes no locks but the pool's, a leaf.

use crate::{
    batch::{
        Batch,
        Patience, //
    },
    inject::MoveFault,
    kapi::{
        sched,
        trace, //
    },
    migrate_copy::{
        batch::{
            folio::FolioPair,
            Call,
            CopyOutcome,
            SettleOutcome,
            Settled,
            MAX_CHUNKS, //
        },
        provider::{
            self,
            Provider, //
        },
        spread::SpreadCall,
    },
    migrator::CopyPlan,
    mover::Session,
    stats::{
        Cause,
        Counter, //
    }, //
};
use core::pin::Pin;
use ferry_core::{
    class::{
        BatchClass,
        Route, //
    },
    policy,
    policy::Routine,
    reasons, //
};
use kernel::{
    prelude::*,
    sync::{
        Arc,
        ArcBorrow,
        UniqueArc, //
    },
    time::{
        delay::fsleep,
        Delta, //
    },
};

/// The longest time, in nanoseconds, for which the mover leaves a folio to workers with
/// `workers_only`. It is far longer than a worker takes to wake up, and keeps a mover from hanging
/// where no worker comes.
const WORKERS_ONLY_NS: u64 = 50_000_000;

/// The size, in bytes, of the smallest folio that its mover copies here even without workers: in
/// longer runs than the stock copy, which goes page by page. Smaller folios gain nothing from that.
const MIN_ALONE_BYTES: u64 = 16 << 10;

/// The bytes of a folio that its mover copies alone before it offers the CPU to other tasks: half
/// of the largest chunk, for the same reason ([`ferry_core::knob::MAX_CHUNK_BYTES`]).
const ALONE_STEP_BYTES: u64 = 128 << 10;

/// The provider that is registered with the shim.
pub(crate) struct Dispatcher {
    session: Arc<Session>,
}

impl Dispatcher {
    /// Creates a dispatcher for the migrator of this session.
    pub(crate) fn new(session: Arc<Session>) -> Self {
        Self { session }
    }

    /// Returns `true` if the migrator may be used for this call: its [`Limits`] may exclude
    /// callers in reclaim and callers that must not block.
    ///
    /// [`Limits`]: crate::migrator::Limits
    fn may_use_migrator(&self, call: Call) -> bool {
        let limits = self.session.migrator.limits();
        (limits.in_reclaim || !sched::in_reclaim())
            && (limits.in_async || reasons::may_block(call.reason))
    }

    fn decline(&self, cause: Cause, bytes: u64) {
        self.session.stats.fallback(cause, bytes);
    }
}

impl Provider for Dispatcher {
    type Batch = Batch;

    fn begin(&self, first: &FolioPair, call: Call) -> Option<Pin<UniqueArc<Batch>>> {
        let shared = &self.session.shared;
        if !shared.knobs.reasons().contains(call.reason) {
            self.decline(Cause::Reason, 0);
            return None;
        }
        if !self.may_use_migrator(call) {
            self.decline(Cause::Context, 0);
            return None;
        }
        if shared.inject.decline_batch() {
            self.decline(Cause::Injected, 0);
            return None;
        }
        if !self.session.migrator.ready(first.route()) {
            self.decline(Cause::Busy, 0);
            return None;
        }
        let Some(mut batch) = self.session.take() else {
            self.decline(Cause::Pool, 0);
            return None;
        };
        batch.set_routine(shared.knobs.copy_routine(call.reason));
        batch.set_patience(patience(call));
        Some(batch)
    }

    fn submit(&self, mut batch: Pin<UniqueArc<Batch>>) -> Option<Arc<Batch>> {
        let session = &self.session;
        let shared = &session.shared;
        let filled = batch.raw().filled();
        let stats = &session.stats;
        stats.add(Counter::EligibleAnon, filled.anon.into());
        stats.add(Counter::EligibleShmem, filled.shmem.into());
        let ineligible = filled.folios.saturating_sub(filled.eligible());
        stats.add(Counter::Ineligible, ineligible.into());

        let planned = batch.raw_mut().plan_early(shared.knobs.chunk_bytes());
        let min = (shared.knobs.min_batch_bytes()).max(session.migrator.limits().min_bytes);
        if !policy::worth_submitting(planned.bytes, planned.entries, min) || planned.chunks < 2 {
            stats.fallback(Cause::Small, planned.bytes);
            Batch::give_back(batch);
            return None;
        }

        let class = BatchClass::early(planned.bytes, filled.eligible(), batch.raw().route());
        let plan = (session.migrator).choose(class, planned.chunks, batch.payer());
        if plan == CopyPlan::Decline {
            stats.fallback(Cause::Gain, planned.bytes);
            Batch::give_back(batch);
            return None;
        }
        batch.set_class(plan.measures().then_some(class));

        let batch = Arc::from(batch);
        if !session.submit(&batch, plan) {
            stats.fallback(Cause::Busy, planned.bytes);
            Batch::put(batch);
            return None;
        }
        stats.add(Counter::Batches, 1);
        stats.add(Counter::Folios, filled.folios.into());
        let call = batch.raw().call();
        trace::submit(
            batch.raw().id(),
            filled.folios,
            planned.bytes,
            planned.chunks,
            call.mode,
            call.reason,
        );
        Some(batch)
    }

    fn abandon(&self, batch: Pin<UniqueArc<Batch>>) {
        Batch::give_back(batch);
    }

    fn settle(&self, batch: ArcBorrow<'_, Batch>, i: u32, help: bool) -> Settled {
        let session = &self.session;
        let inject = &session.shared.inject;
        if i == 0 {
            let delay = inject.delay_after_submit_us();
            if delay != 0 {
                fsleep(Delta::from_micros(delay.into()));
            }
        }
        if inject.workers_only() {
            leave_to_workers(&batch, i);
        }
        let settled = session.settle(&batch, i, help);
        if i == 0 {
            let ns = sched::clock().saturating_sub(batch.begun());
            session.stats.first_folio.add(ns);
        }
        match settled.how {
            SettleOutcome::Copied => {
                if batch.raw().is_cut(i) {
                    session.stats.add(Counter::CopiedEarly, 1);
                }
            }
            SettleOutcome::NotStarted | SettleOutcome::Partial => {
                session.stats.add(Counter::NotCopied, 1)
            }
            SettleOutcome::NotQuiet => {}
        }
        match inject.move_fault(batch.turn()) {
            MoveFault::None => settled,
            MoveFault::Fail => settled.fail(EBUSY),
            MoveFault::Again => {
                batch.raw().scribble(i, &settled);
                settled.fail(EAGAIN)
            }
        }
    }

    fn finish(&self, batch: Arc<Batch>) {
        self.session.finish(batch);
    }

    fn copy_now(&self, folio: &FolioPair, call: Call) -> CopyOutcome {
        let session = &self.session;
        let shared = &session.shared;
        let bytes = folio.bytes();
        if bytes < MIN_ALONE_BYTES {
            return CopyOutcome::NOT;
        }
        if !shared.knobs.reasons().contains(call.reason) {
            return CopyOutcome::NOT;
        }
        let fits = self.may_use_migrator(call);
        if shared.inject.decline_in_place() {
            session.stats.add(Counter::InPlaceFailed, 1);
            return CopyOutcome::NOT;
        }
        let cpu = CpuCopy {
            routine: shared.knobs.copy_routine(call.reason),
            patience: patience(call),
        };
        let chunk_bytes = policy::in_place_chunk_bytes(bytes, shared.knobs.chunk_bytes());
        let class = BatchClass::in_place(bytes, folio.route());
        let mut plan = CopyPlan::Decline;
        if fits && bytes >= shared.knobs.min_folio_bytes() {
            let chunks = policy::chunks(bytes, chunk_bytes);
            plan = session.migrator.choose(class, chunks, provider::payer());
        }
        if plan != CopyPlan::Decline && session.migrator.ready(folio.route()) {
            self.copy_together(folio, cpu, chunk_bytes, class, plan)
        } else {
            self.copy_alone(folio, cpu.routine)
        }
    }

    fn spread(&self, spread: &SpreadCall, route: Route, call: Call) -> bool {
        let session = &self.session;
        let knobs = &session.shared.knobs;
        let most = knobs.spread_workers(provider::payer() != 0);
        // The mover waits for the batch that each worker has, so that it must be allowed to block.
        if most == 0
            || !knobs.reasons().contains(call.reason)
            || patience(call) != Patience::Timeout
        {
            return false;
        }
        let given = session.migrator.spread(spread, route, most, &session.stats);
        if given == 0 {
            return false;
        }
        session.stats.add(Counter::Spread, 1);
        session.stats.add(Counter::WorkersWoken, given.into());
        true
    }
}

/// The routine with which CPUs copy a folio, and the patience of its mover.
#[derive(Copy, Clone)]
struct CpuCopy {
    routine: Routine,
    patience: Patience,
}

impl Dispatcher {
    /// Copies a folio by the mover alone.
    fn copy_alone(&self, folio: &FolioPair, routine: Routine) -> CopyOutcome {
        let stats = &self.session.stats;
        if !folio.copy_alone(ALONE_STEP_BYTES, routine) {
            stats.add(Counter::InPlaceFailed, 1);
            return CopyOutcome::NOT;
        }
        stats.add(Counter::InPlaceAlone, 1);
        stats.add(Counter::BytesInPlaceAlone, folio.bytes());
        CopyOutcome::COPIED
    }

    /// Copies a folio with workers or an engine, or by the mover alone if the migrator does not
    /// take the first batch.
    fn copy_together(
        &self,
        folio: &FolioPair,
        cpu: CpuCopy,
        chunk_bytes: u64,
        class: BatchClass,
        plan: CopyPlan,
    ) -> CopyOutcome {
        let session = &self.session;
        let shared = &session.shared;
        let bytes = folio.bytes();
        // One batch object holds the chunks of one window; a gigantic folio takes several.
        let window = chunk_bytes.saturating_mul(MAX_CHUNKS as u64);
        let mut offset = 0;
        while offset < bytes {
            let Some(mut unique) = session.take() else {
                self.decline(Cause::Pool, bytes);
                return CopyOutcome::NOT;
            };
            let len = window.min(bytes - offset);
            let planned = unique
                .raw_mut()
                .plan_in_place(folio, offset, len, chunk_bytes);
            if planned.bytes == 0 {
                Batch::give_back(unique);
                return CopyOutcome::NOT;
            }
            unique.set_routine(cpu.routine);
            unique.set_patience(cpu.patience);
            unique.set_class(plan.measures().then_some(class));
            let first = offset == 0;
            offset = offset.saturating_add(planned.bytes);
            let batch = Arc::from(unique);
            let taken = planned.chunks > 1 && session.submit(&batch, plan);
            if !taken && first {
                Batch::put(batch);
                return self.copy_alone(folio, cpu.routine);
            }
            if shared.inject.workers_only() {
                leave_to_workers(&batch, 0);
            }
            session.copy_all(&batch);
            let settled = session.settle(&batch, 0, true);
            let how = settled.how;
            session.finish(batch);
            match how {
                SettleOutcome::Copied => {}
                SettleOutcome::NotQuiet => return CopyOutcome::parked(settled),
                SettleOutcome::NotStarted | SettleOutcome::Partial => {
                    session.stats.add(Counter::InPlaceFailed, 1);
                    return CopyOutcome::NOT;
                }
            }
        }
        session.stats.add(Counter::InPlace, 1);
        CopyOutcome::COPIED
    }
}

/// Returns how long the caller may wait for workers and engines: it must not block if migrations
/// for its reason must not, or if it reclaims memory.
fn patience(call: Call) -> Patience {
    if sched::in_reclaim() || !reasons::may_block(call.reason) {
        Patience::Copy
    } else {
        Patience::Timeout
    }
}

/// Waits until a lane has claimed the first chunk of entry `i`, for [`WORKERS_ONLY_NS`] at most.
fn leave_to_workers(batch: &Batch, i: u32) {
    let Some(chunk) = batch.raw().first_chunk(i) else {
        return;
    };
    let from = sched::clock();
    while batch.raw().is_free(chunk) && sched::clock().saturating_sub(from) < WORKERS_ONLY_NS {
        sched::cond_resched();
        kernel::processor::cpu_relax();
    }
}
