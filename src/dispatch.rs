// SPDX-License-Identifier: GPL-2.0

//! What the shim calls: decides whether a batch or a folio is worth it, hands it to the migrator,
//! and accounts.
//!
//! Takes no locks but the pool's, a leaf.

use crate::{
    batch::{
        Batch,
        Session, //
    },
    inject::MoveFault,
    kapi::{
        batch::{
            How,
            Now,
            NowDone,
            Settled,
            MAX_CHUNKS, //
        },
        preempt,
        shim::{
            Provider,
            Submitted, //
        },
    },
    stats::Counter,
    trace,
    trace::Cause, //
};
use core::pin::Pin;
use ferry_core::{
    policy,
    reasons::ReasonMask, //
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

    fn begin(&self, _mode: u32, reason: u32) -> Option<Pin<UniqueArc<Batch>>> {
        let shared = &self.session.shared;
        if !shared.knobs.reasons().contains(reason) {
            self.decline(Cause::Reason, 0);
            return None;
        }
        if preempt::in_reclaim() && !self.session.migrator.limits().in_reclaim {
            self.decline(Cause::Small, 0);
            return None;
        }
        if shared.inject.decline_batch() {
            self.decline(Cause::Injected, 0);
            return None;
        }
        let batch = shared.pool.take(&self.session);
        if batch.is_none() {
            self.decline(Cause::Pool, 0);
        }
        batch
    }

    fn submit(mut batch: Pin<UniqueArc<Batch>>) -> Submitted<Batch> {
        let Some(session) = batch.session().cloned() else {
            return Err(Some(batch));
        };
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
            return Err(Some(batch));
        }

        let batch = Arc::from(batch);
        let helpers = session.migrator.submit(&batch);
        if helpers == 0 {
            trace::fallback(stats, Cause::Small, planned.bytes);
            // Nobody has been told of it, so it is ours alone again.
            return Err(Arc::into_unique_or_drop(batch));
        }
        stats.add(Counter::Batches, 1);
        stats.add(Counter::Folios, nr.into());
        stats.add(Counter::Woken, helpers.into());
        let (mode, reason) = batch.raw().mode_reason();
        trace::submit(
            batch.raw().id(),
            nr,
            planned.bytes,
            planned.pieces,
            mode,
            reason,
        );
        Ok(batch)
    }

    fn abandon(batch: Pin<UniqueArc<Batch>>) {
        Batch::give_back(batch);
    }

    fn settle(batch: ArcBorrow<'_, Batch>, i: u32, help: bool) -> Settled {
        let Some(session) = batch.session() else {
            return batch.raw().park(i);
        };
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
        let settled = batch.settle(i, help);
        if i == 0 {
            let ns = preempt::clock().saturating_sub(batch.begun());
            session.stats.first_folio.add(ns);
        }
        match settled.how {
            How::Copied => {
                if batch.copied_by_span(i, &settled) {
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

    fn finish(batch: Arc<Batch>) {
        Batch::finish(batch);
    }

    fn copy_now(&self, now: &Now, reason: Option<u32>) -> NowDone {
        let session = &self.session;
        let shared = &session.shared;
        let reasons = shared.knobs.reasons();
        // Who excludes any reason does not want surprises from unknown ones.
        if !reason.map_or(reasons == ReasonMask::ALL, |r| reasons.contains(r)) {
            return NowDone::NOT;
        }
        let bytes = now.bytes();
        let chunk_bytes = policy::now_chunk_bytes(bytes, shared.knobs.chunk_bytes());
        if bytes < shared.knobs.min_folio_bytes() || bytes <= chunk_bytes {
            return NowDone::NOT;
        }
        if preempt::in_reclaim() && !session.migrator.limits().in_reclaim {
            return NowDone::NOT;
        }
        if shared.inject.decline_now() {
            session.stats.add(Counter::NowFailed, 1);
            return NowDone::NOT;
        }
        // One batch object holds the chunks of one window; a gigantic folio takes several.
        let window = chunk_bytes.saturating_mul(MAX_CHUNKS as u64);
        let mut offset = 0;
        while offset < bytes {
            let Some(mut unique) = shared.pool.take(session) else {
                self.decline(Cause::Pool, bytes);
                return NowDone::NOT;
            };
            let len = window.min(bytes - offset);
            let planned = unique.raw_mut().plan_now(now, offset, len, chunk_bytes);
            if planned.bytes == 0 {
                Batch::give_back(unique);
                return NowDone::NOT;
            }
            let first = offset == 0;
            offset = offset.saturating_add(planned.bytes);
            let batch = Arc::from(unique);
            // Where nobody can help, the stock copy is the fastest, but for what is left of a folio.
            let helpers = if planned.pieces < 2 {
                0
            } else {
                session.migrator.submit(&batch)
            };
            if helpers == 0 && first {
                Batch::put(batch);
                return NowDone::NOT;
            }
            session.stats.add(Counter::Woken, helpers.into());
            if shared.inject.helper_only() {
                leave_to_helpers(&batch, 0);
            }
            batch.work_as_mover();
            let settled = batch.settle(0, true);
            let how = settled.how;
            Batch::finish(batch);
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
