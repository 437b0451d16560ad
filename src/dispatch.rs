// SPDX-License-Identifier: GPL-2.0

//! What the shim calls: decides whether a batch or a folio is worth it, hands it to the migrator,
//! and accounts.
//!
//! Takes no locks but the pool's, a leaf.

use crate::{
    batch::{
        Batch,
        Patience, //
    },
    inject::MoveFault,
    kapi::{
        batch::{
            How,
            NowDone,
            Pair,
            Settled,
            MAX_CHUNKS, //
        },
        preempt,
        shim::{
            self,
            Provider, //
        },
    },
    mover::Session,
    stats::Counter,
    trace,
    trace::Cause, //
};
use core::pin::Pin;
use ferry_core::{
    policy,
    policy::Routine,
    reasons,
    scale,
    scale::Want, //
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

/// How long the mover leaves a folio to helpers with `helper_only`.
const HELPER_ONLY_NS: u64 = 50_000_000;

/// The smallest folio that its mover copies here even if nobody helps: in longer runs than the stock
/// copy, which goes page by page. For smaller ones that makes no difference.
const MIN_ALONE_BYTES: u64 = 16 << 10;

/// How much of such a folio is copied before the CPU is offered to others.
const ALONE_STEP_BYTES: u64 = 128 << 10;

/// The provider that is registered with the shim.
pub(crate) struct Dispatcher {
    session: Arc<Session>,
}

impl Dispatcher {
    /// For one migrator.
    pub(crate) fn new(session: Arc<Session>) -> Self {
        Self { session }
    }

    fn decline(&self, cause: Cause, bytes: u64) {
        trace::fallback(&self.session.stats, cause, bytes);
    }
}

impl Provider for Dispatcher {
    type Batch = Batch;

    fn begin(&self, first: &Pair, _mode: u32, reason: u32) -> Option<Pin<UniqueArc<Batch>>> {
        let shared = &self.session.shared;
        if !shared.knobs.reasons().contains(reason) {
            self.decline(Cause::Reason, 0);
            return None;
        }
        let limits = self.session.migrator.limits();
        if (preempt::in_reclaim() && !limits.in_reclaim)
            || (!limits.in_async && !reasons::may_block(Some(reason)))
        {
            self.decline(Cause::Context, 0);
            return None;
        }
        if shared.inject.decline_batch() {
            self.decline(Cause::Injected, 0);
            return None;
        }
        if !self.session.migrator.ready(first.nodes()) {
            self.decline(Cause::Busy, 0);
            return None;
        }
        let Some(mut batch) = self.session.take() else {
            self.decline(Cause::Pool, 0);
            return None;
        };
        batch.set_routine(shared.knobs.copy_routine(Some(reason)));
        batch.set_patience(patience(Some(reason)));
        Some(batch)
    }

    fn submit(&self, mut batch: Pin<UniqueArc<Batch>>) -> Option<Arc<Batch>> {
        let session = &self.session;
        let shared = &session.shared;
        let (nr, anon, shmem) = batch.raw().filled();
        let stats = &session.stats;
        stats.add(Counter::EligibleAnon, anon.into());
        stats.add(Counter::EligibleShmem, shmem.into());
        stats.add(
            Counter::Ineligible,
            nr.saturating_sub(anon.saturating_add(shmem)).into(),
        );

        let planned = batch.raw_mut().plan_early(shared.knobs.chunk_bytes());
        let min = (shared.knobs.min_batch_bytes()).max(session.migrator.limits().min_bytes);
        if !policy::worth_submitting(planned.bytes, planned.entries, min) || planned.pieces < 2 {
            trace::fallback(stats, Cause::Small, planned.bytes);
            Batch::give_back(batch);
            return None;
        }

        let kind = scale::kind_early(planned.bytes, anon.saturating_add(shmem));
        let kind = scale::kind_to(kind, batch.raw().nodes());
        let want = (session.migrator).want(kind, planned.pieces, batch.payer());
        if want.helpers == 0 {
            trace::fallback(stats, Cause::Gain, planned.bytes);
            Batch::give_back(batch);
            return None;
        }
        batch.set_kind(want.sample.then_some(kind));

        let batch = Arc::from(batch);
        if !session.migrator.submit(&batch, want.helpers) {
            trace::fallback(stats, Cause::Busy, planned.bytes);
            Batch::put(batch);
            return None;
        }
        stats.add(Counter::Batches, 1);
        stats.add(Counter::Folios, nr.into());
        let (mode, reason) = batch.raw().mode_reason();
        trace::submit(
            batch.raw().id(),
            nr,
            planned.bytes,
            planned.pieces,
            mode,
            reason,
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
        if inject.helper_only() {
            leave_to_helpers(&batch, i);
        }
        let settled = session.settle(&batch, i, help);
        if i == 0 {
            let ns = preempt::clock().saturating_sub(batch.begun());
            session.stats.first_folio.add(ns);
        }
        match settled.how {
            How::Copied => {
                if batch.raw().is_cut(i) {
                    session.stats.add(Counter::CopiedEarly, 1);
                }
            }
            How::NotStarted | How::Partial => session.stats.add(Counter::Not, 1),
            How::Unquiet => {}
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

    fn copy_now(&self, folio: &Pair, _mode: u32, reason: u32) -> NowDone {
        let session = &self.session;
        let shared = &session.shared;
        let bytes = folio.bytes();
        if bytes < MIN_ALONE_BYTES {
            return NowDone::NOT;
        }
        if !shared.knobs.reasons().contains(reason) {
            return NowDone::NOT;
        }
        let limits = session.migrator.limits();
        let fits = (limits.in_reclaim || !preempt::in_reclaim())
            && (limits.in_async || reasons::may_block(Some(reason)));
        if shared.inject.decline_now() {
            session.stats.add(Counter::NowFailed, 1);
            return NowDone::NOT;
        }
        let routine = shared.knobs.copy_routine(Some(reason));
        let chunk_bytes = policy::now_chunk_bytes(bytes, shared.knobs.chunk_bytes());
        let kind = scale::kind_to(scale::kind_now(bytes), folio.nodes());
        let mut want = Want::NOBODY;
        if fits && bytes >= shared.knobs.min_folio_bytes() {
            let pieces = policy::pieces(bytes, chunk_bytes);
            want = session.migrator.want(kind, pieces, shim::payer());
        }
        if want.helpers != 0 && session.migrator.ready(folio.nodes()) {
            self.copy_together(folio, (routine, patience(Some(reason))), chunk_bytes, kind, want)
        } else {
            self.copy_alone(folio, routine)
        }
    }
}

impl Dispatcher {
    /// Copies a folio without anybody's help.
    fn copy_alone(&self, folio: &Pair, routine: Routine) -> NowDone {
        let stats = &self.session.stats;
        if !folio.copy_alone(ALONE_STEP_BYTES, routine) {
            stats.add(Counter::NowFailed, 1);
            return NowDone::NOT;
        }
        stats.add(Counter::Alone, 1);
        stats.add(Counter::BytesAlone, folio.bytes());
        NowDone::COPIED
    }

    /// Copies a folio with helpers. Where it turns out that there are none, alone.
    fn copy_together(
        &self,
        folio: &Pair,
        (routine, patience): (Routine, Patience),
        chunk_bytes: u64,
        kind: usize,
        want: Want,
    ) -> NowDone {
        let session = &self.session;
        let shared = &session.shared;
        let bytes = folio.bytes();
        // One batch object holds the chunks of one window; a gigantic folio takes several.
        let window = chunk_bytes.saturating_mul(MAX_CHUNKS as u64);
        let mut offset = 0;
        while offset < bytes {
            let Some(mut unique) = session.take() else {
                self.decline(Cause::Pool, bytes);
                return NowDone::NOT;
            };
            let len = window.min(bytes - offset);
            let planned = unique.raw_mut().plan_now(folio, offset, len, chunk_bytes);
            if planned.bytes == 0 {
                Batch::give_back(unique);
                return NowDone::NOT;
            }
            unique.set_routine(routine);
            unique.set_patience(patience);
            unique.set_kind(want.sample.then_some(kind));
            let first = offset == 0;
            offset = offset.saturating_add(planned.bytes);
            let batch = Arc::from(unique);
            let helped = planned.pieces > 1 && session.migrator.submit(&batch, want.helpers);
            if !helped && first {
                Batch::put(batch);
                return self.copy_alone(folio, routine);
            }
            if shared.inject.helper_only() {
                leave_to_helpers(&batch, 0);
            }
            session.copy_all(&batch);
            let settled = session.settle(&batch, 0, true);
            let how = settled.how;
            session.finish(batch);
            match how {
                How::Copied => {}
                How::Unquiet => return NowDone::parked(settled),
                How::NotStarted | How::Partial => {
                    session.stats.add(Counter::NowFailed, 1);
                    return NowDone::NOT;
                }
            }
        }
        session.stats.add(Counter::NowCalls, 1);
        NowDone::COPIED
    }
}

/// Returns how long the caller may wait for others: it must not block if it says so by its reason, or
/// reclaims memory.
fn patience(reason: Option<u32>) -> Patience {
    if preempt::in_reclaim() || !reasons::may_block(reason) {
        Patience::Copy
    } else {
        Patience::Timeout
    }
}

/// Gives helpers the time to take the folio first. Bounded by [`HELPER_ONLY_NS`].
fn leave_to_helpers(batch: &Batch, i: u32) {
    let Some(chunk) = batch.raw().first_chunk(i) else {
        return;
    };
    let from = preempt::clock();
    while batch.raw().is_free(chunk) && preempt::clock().saturating_sub(from) < HELPER_ONLY_NS {
        preempt::cond_resched();
        kernel::processor::cpu_relax();
    }
}
