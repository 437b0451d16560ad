// SPDX-License-Identifier: GPL-2.0

//! Who pays for a worker's time.
//!
//! A worker's time from when it wakes until it sleeps is spent for somebody: for the mover whose batch
//! it has, and between batches for the one it had last, or the next one if that is of the same control
//! group. What it spent since the last time goes to a batch with each chunk, before the chunk is done,
//! and the mover pays when it finishes. What was spent on looking for a batch that came from somebody
//! else, or in which there was nothing left to do, is paid by nobody and counted.
//!
//! All fields are the worker's own: relaxed atomics that pair with nothing.

use crate::kapi::sched;
use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

/// The time of one worker.
pub(crate) struct CpuTime {
    /// Up to when its time has been counted: by what it has run, and by the clock of its CPU.
    run: Atomic<u64>,
    clock: Atomic<u64>,
    /// Who pays, and what is open.
    payer: Atomic<u64>,
    open: Atomic<u64>,
}

impl CpuTime {
    /// Nothing is open.
    pub(crate) fn new() -> Self {
        Self {
            run: Atomic::new(0),
            clock: Atomic::new(0),
            payer: Atomic::new(0),
            open: Atomic::new(0),
        }
    }

    /// What it has run since the last call; never more than has gone by.
    fn elapsed(&self) -> u64 {
        let (run, clock) = (sched::runtime(), sched::clock());
        let ran = run.saturating_sub(self.run.load(Relaxed));
        let gone = clock.saturating_sub(self.clock.load(Relaxed));
        self.run.store(run, Relaxed);
        self.clock.store(clock, Relaxed);
        ran.min(gone)
    }

    /// Time that goes by without a batch, or without a chunk of one.
    pub(crate) fn idle(&self) {
        let ns = self.elapsed();
        self.open
            .store(self.open.load(Relaxed).saturating_add(ns), Relaxed);
    }

    /// There is a batch of this payer; returns what nobody will pay.
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

    /// What the batch owes now, with a chunk.
    pub(crate) fn take(&self) -> u64 {
        let ns = self.elapsed().saturating_add(self.open.load(Relaxed));
        self.open.store(0, Relaxed);
        ns
    }
}
