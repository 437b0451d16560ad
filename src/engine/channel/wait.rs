// SPDX-License-Identifier: GPL-2.0

//! How movers wait for descriptors.
//!
//! Takes the lock of the ring to look at the slots and the queue, and that of the wait queue.

use super::{
    queue::LOST_INTERRUPT_NS,
    slot::{
        Common,
        Job,
        BUSY,
        ENDING,
        GIVEN_UP, //
    },
    Channel, //
};
use crate::{
    kapi::sched,
    migrate_copy::batch::{
        MigrateCopyBatch,
        Pooled, //
    },
};
use ferry_bindings as fb;
use kernel::{
    ffi,
    prelude::*,
    sync::atomic::{
        Acquire,
        Relaxed, //
    },
};

/// How long a mover polls before it sleeps, in ns.
const POLL_NS: u64 = 10_000;

/// What a sleeping mover waits for.
struct WaitCondition<'a> {
    batch: &'a MigrateCopyBatch,
    entry: u32,
    chunk: u32,
    common: &'a Common,
    /// [`Common::given_up`] when the slots were looked at.
    given_up: u32,
}

/// # Safety
///
/// `data` is a `WaitCondition` that lives until this returns.
unsafe extern "C" fn wait_is_over(data: *mut ffi::c_void) -> bool {
    // SAFETY: By the requirement of this function.
    let w = unsafe { &*data.cast::<WaitCondition<'_>>() };
    !w.batch.waiting(w.entry, w.chunk) || w.common.given_up.load(Relaxed) != w.given_up
}

impl<B: Pooled> Channel<B> {
    /// Returns whether the driver has given up what entry `i` of this chunk needs: a descriptor for
    /// a part of the entry, or one that keeps the chunk from ending while none in flight has a part
    /// of the entry.
    fn is_given_up(&self, batch: &MigrateCopyBatch, i: u32, chunk: u32) -> bool {
        let has = |(first, last): (u32, u32), n| (first..=last).contains(&n);
        let of_chunk = |job: &Job<B>| {
            core::ptr::eq((*job.batch).as_ref(), batch) && has(job.extent.chunks, chunk)
        };
        let of_entry = |job: &Job<B>| of_chunk(job) && has(job.extent.entries, i);
        let given_up = |state| state == GIVEN_UP;
        self.any(|state, job| given_up(state) && of_entry(job))
            || self.any(|state, job| given_up(state) && of_chunk(job))
                && !self.any(|state, job| matches!(state, BUSY | ENDING) && of_entry(job))
    }

    /// Waits until entry `i` is done, or its chunk, which this channel has.
    ///
    /// # Errors
    ///
    /// `ECANCELED` if the driver has given it up, so that nothing more will be said of it;
    /// `ETIMEDOUT` if it has not ended in time.
    pub(crate) fn wait(
        &self,
        batch: &MigrateCopyBatch,
        i: u32,
        chunk: u32,
        timeout_ns: u64,
    ) -> Result {
        let from = sched::clock();
        let passed = || sched::clock().saturating_sub(from);
        let poll_interval_ns = self.common.poll_interval_ns.load(Relaxed);
        while passed() < POLL_NS {
            if !batch.waiting(i, chunk) {
                return Ok(());
            }
            if poll_interval_ns < LOST_INTERRUPT_NS {
                self.poll();
            }
            kernel::processor::cpu_relax();
        }
        let mut waiting = WaitCondition {
            batch,
            entry: i,
            chunk,
            common: &self.common,
            given_up: 0,
        };
        // Each round sleeps for a bounded time, and there are as many as the timeout has room for,
        // and one for each descriptor that is given up meanwhile.
        loop {
            waiting.given_up = self.common.given_up.load(Acquire);
            let given_up = waiting.given_up != 0 && self.is_given_up(batch, i, chunk);
            // Afterwards: what was in flight may have ended between two looks at the slots.
            if given_up && batch.waiting(i, chunk) {
                return Err(ECANCELED);
            }
            let left = timeout_ns.saturating_sub(passed());
            let data: *mut ffi::c_void = (&raw mut waiting).cast();
            // SAFETY: The wait queue lives as long as the channel; `wait_is_over()` gets what it
            // expects until this returns.
            let done = unsafe {
                fb::ferry_wait(
                    self.common.waiters.get(),
                    Some(wait_is_over),
                    data,
                    // What has taken long may take a little longer.
                    left.min(poll_interval_ns.max(passed() / 4))
                        .min(LOST_INTERRUPT_NS),
                )
            };
            if !done {
                self.poll();
            }
            if !batch.waiting(i, chunk) {
                return Ok(());
            }
            if left == 0 {
                return Err(ETIMEDOUT);
            }
        }
    }
}
