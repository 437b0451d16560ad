// SPDX-License-Identifier: GPL-2.0

//! The accounting of a worker's time to control groups.
//!
//! A worker's time from when it wakes until it sleeps is spent for a mover: for the one whose batch
//! it has, and between batches for the one it had last, or the next one if that is of the same
//! control group. The time since the last chunk goes to a batch with each chunk, before the chunk
//! is complete, and the mover pays when it finishes. The time spent on looking for a batch that
//! came from another payer, or that had no free chunk left, is paid by no control group and
//! counted.
//!
//! All fields are the worker's own: relaxed atomics that pair with nothing.

use crate::kapi::sched;
use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

/// The time of one worker.
pub(crate) struct CpuTime {
    /// The point up to which its time has been counted, in nanoseconds: by its runtime, and by the
    /// clock of its CPU.
    run: Atomic<u64>,
    clock: Atomic<u64>,
    /// The payer, and the nanoseconds that are not charged yet.
    payer: Atomic<u64>,
    open: Atomic<u64>,
}

impl CpuTime {
    /// Creates an account with nothing to charge.
    pub(crate) fn new() -> Self {
        Self {
            run: Atomic::new(0),
            clock: Atomic::new(0),
            payer: Atomic::new(0),
            open: Atomic::new(0),
        }
    }

    /// Returns the nanoseconds that it has run since the last call; never more than have gone by.
    fn elapsed(&self) -> u64 {
        let (run, clock) = (sched::runtime(), sched::clock());
        let ran = run.saturating_sub(self.run.load(Relaxed));
        let gone = clock.saturating_sub(self.clock.load(Relaxed));
        self.run.store(run, Relaxed);
        self.clock.store(clock, Relaxed);
        ran.min(gone)
    }

    /// Counts the time that went by without a batch, or without a chunk of one.
    pub(crate) fn idle(&self) {
        let ns = self.elapsed();
        self.open
            .store(self.open.load(Relaxed).saturating_add(ns), Relaxed);
    }

    /// Leaves out the time since the last call, which has been charged elsewhere.
    pub(crate) fn skip(&self) {
        self.elapsed();
    }

    /// Begins a batch of this payer; returns the nanoseconds that no payer is charged for.
    pub(crate) fn switch_to(&self, payer: u64) -> u64 {
        self.idle();
        if self.payer.load(Relaxed) == payer {
            return 0;
        }
        self.payer.store(payer, Relaxed);
        let lost = self.open.load(Relaxed);
        self.open.store(0, Relaxed);
        lost
    }

    /// Returns the nanoseconds that the batch owes now, with a chunk.
    pub(crate) fn take(&self) -> u64 {
        let ns = self.elapsed().saturating_add(self.open.load(Relaxed));
        self.open.store(0, Relaxed);
        ns
    }
}
