// SPDX-License-Identifier: GPL-2.0

//! The wait of a mover for the end of descriptors.
//!
//! Takes the lock of the ring to look at the slots and to poll the queue, and the lock of the wait
//! queue to sleep.

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

/// The time, in ns, for which a mover polls before it sleeps.
const POLL_NS: u64 = 10_000;

/// The condition that a sleeping mover waits for.
struct WaitCondition<'a> {
    batch: &'a MigrateCopyBatch,
    entry: u32,
    chunk: u32,
    common: &'a Common,
    /// The value of [`Common::given_up`] before the mover looked at the slots.
    given_up: u32,
}

/// Returns `true` if the mover need not wait any more, or has to look at the slots again.
///
/// # Safety
///
/// `data` is a `WaitCondition` that lives until this returns.
unsafe extern "C" fn wait_is_over(data: *mut ffi::c_void) -> bool {
    // SAFETY: By the requirement of this function.
    let w = unsafe { &*data.cast::<WaitCondition<'_>>() };
    !w.batch.waiting(w.entry, w.chunk) || w.common.given_up.load(Relaxed) != w.given_up
}

impl<B: Pooled> Channel<B> {
    /// Returns `true` if the driver has given up a descriptor that entry `i` of this chunk needs: a
    /// descriptor with a part of the entry, or a descriptor that keeps the chunk from ending while
    /// no descriptor in flight has a part of the entry.
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

    /// Waits until entry `i` is done, or its chunk, which this channel has claimed.
    ///
    /// # Errors
    ///
    /// `ECANCELED` if the driver has given up a descriptor of it, and reports nothing more about
    /// that; `ETIMEDOUT` if the entry is not done after `timeout_ns`.
    ///
    /// # Context
    ///
    /// Sleeps.
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
        // Bounded: each round sleeps for a bounded time, and there are as many rounds as the
        // timeout has room for, and one for each descriptor that is given up meanwhile.
        loop {
            waiting.given_up = self.common.given_up.load(Acquire);
            let given_up = waiting.given_up != 0 && self.is_given_up(batch, i, chunk);
            // After the look at the slots: descriptors that were in flight may have ended
            // meanwhile.
            if given_up && batch.waiting(i, chunk) {
                return Err(ECANCELED);
            }
            let left = timeout_ns.saturating_sub(passed());
            let data: *mut ffi::c_void = (&raw mut waiting).cast();
            // SAFETY: The wait queue lives as long as the channel; `wait_is_over()` gets a
            // `WaitCondition` that lives until this returns.
            let done = unsafe {
                fb::ferry_wait(
                    self.common.waiters.get(),
                    Some(wait_is_over),
                    data,
                    // A wait that has been long may be a quarter longer: fewer polls.
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
