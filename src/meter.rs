// SPDX-License-Identifier: GPL-2.0

//! Who pays for a helper's time.
//!
//! A helper's time from when it wakes until it sleeps is spent for somebody: for the mover whose batch
//! it has, and between batches for the one it had last, or the next one if that is of the same control
//! group. What it spent since the last time goes to a batch with each chunk, before the chunk is done,
//! and the mover pays when it finishes. What was spent on looking for a batch that came from somebody
//! else, or in which there was nothing left to do, is paid by nobody and counted.
//!
//! All fields are the helper's own: relaxed atomics that pair with nothing.

use crate::kapi::preempt;
use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

/// The time of one helper.
pub(crate) struct Meter {
    /// Up to when its time has been counted, by the clock of its CPU.
    since: Atomic<u64>,
    /// How often it had been taken off its CPU by then.
    switches: Atomic<u64>,
    /// Who pays, and what is open.
    payer: Atomic<u64>,
    open: Atomic<u64>,
}

impl Meter {
    /// Nothing is open.
    pub(crate) fn new() -> Self {
        Self {
            since: Atomic::new(0),
            switches: Atomic::new(0),
            payer: Atomic::new(0),
            open: Atomic::new(0),
        }
    }

    /// The helper has woken up, or is back on a CPU: what was before does not count.
    pub(crate) fn start(&self) {
        self.switches.store(preempt::switches(), Relaxed);
        self.since.store(preempt::clock(), Relaxed);
    }

    /// Time since the last call. At least since `claimed`, from when on the helper cannot have been
    /// taken off its CPU; if it was before, what was before does not count.
    fn lap(&self, claimed: Option<u64>) -> u64 {
        let (now, switches) = (preempt::clock(), preempt::switches());
        let since = if switches == self.switches.load(Relaxed) {
            self.since.load(Relaxed)
        } else {
            claimed.unwrap_or(now)
        };
        self.since.store(now, Relaxed);
        self.switches.store(switches, Relaxed);
        now.saturating_sub(since)
    }

    /// Time that goes by without a batch, or without a chunk of one.
    pub(crate) fn idle(&self) {
        let ns = self.lap(None);
        self.open
            .store(self.open.load(Relaxed).saturating_add(ns), Relaxed);
    }

    /// There is a batch of this payer; returns what nobody will pay.
    pub(crate) fn turn_to(&self, payer: u64) -> u64 {
        self.idle();
        if self.payer.load(Relaxed) == payer {
            return 0;
        }
        self.payer.store(payer, Relaxed);
        let lost = self.open.load(Relaxed);
        self.open.store(0, Relaxed);
        lost
    }

    /// What the batch owes now, with a chunk that was claimed at `claimed`.
    pub(crate) fn chunk(&self, claimed: u64) -> u64 {
        let ns = self
            .lap(Some(claimed))
            .saturating_add(self.open.load(Relaxed));
        self.open.store(0, Relaxed);
        ns
    }
}
