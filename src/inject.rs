// SPDX-License-Identifier: GPL-2.0

//! Fault injection: delays and failures at the steps where an invariant could break.
//!
//! The values are numbers in debugfs `ferry/inject/`, all 0 when the module is loaded. They are
//! relaxed atomics that pair with nothing: a batch sees a new value sooner or later.

use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    time::{
        delay::fsleep,
        Delta, //
    },
};

macro_rules! inject {
    ($($(#[$doc:meta])* $field:ident => $name:literal,)*) => {
        /// The faults and delays to inject, and the counts for those of every n-th event.
        pub(crate) struct Inject {
            $($(#[$doc])* $field: Atomic<u32>,)*
            batches: Atomic<u32>,
            in_place: Atomic<u32>,
            chunks: Atomic<u32>,
        }

        impl Inject {
            /// Creates the state in which nothing is injected.
            pub(crate) fn new() -> Self {
                Self {
                    $($field: Atomic::new(0),)*
                    batches: Atomic::new(0),
                    in_place: Atomic::new(0),
                    chunks: Atomic::new(0),
                }
            }

            /// Calls `f` with each value and its name in debugfs.
            pub(crate) fn for_each<'a>(&'a self, mut f: impl FnMut(&CStr, &'a Atomic<u32>)) {
                $(f($name, &self.$field);)*
            }
        }
    };
}

inject! {
    /// Microseconds that the mover waits after it has submitted a batch.
    delay_after_submit_us => c"delay_after_submit_us",
    /// Microseconds that a worker waits with a claim, before it copies.
    delay_in_chunk_us => c"delay_in_chunk_us",
    /// Microseconds that a worker waits with a claim, after it has copied.
    late_done_us => c"late_done_us",
    /// Microseconds that a mover takes longer for each descriptor that it makes, with the channel
    /// locked.
    delay_in_descriptor_us => c"delay_in_descriptor_us",
    /// Every n-th batch is declined.
    decline_batch_every => c"decline_batch_every",
    /// Every n-th copy in place is declined.
    decline_in_place_every => c"decline_in_place_every",
    /// Every n-th chunk of a worker fails without being copied.
    fail_chunk_every => c"fail_chunk_every",
    /// Every n-th folio of a batch fails for good after it has been settled.
    fail_move_every => c"fail_move_every",
    /// Every n-th folio of a batch is settled, has its destination spoiled, and must be retried.
    again_move_every => c"again_move_every",
    /// The pool looks empty.
    exhaust_pool => c"exhaust_pool",
    /// The mover gives workers up to 50 ms to take each folio before it takes it itself.
    workers_only => c"workers_only",
    /// Microseconds between the look at whether a migrator is selected and the setting of the
    /// limits of batches.
    delay_limits_us => c"delay_limits_us",
    /// A batch gets as many workers as bytes, idle CPUs and knobs allow, however little they have
    /// gained.
    all_workers => c"all_workers",
}

/// The fault of a folio after it has been settled.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(crate) enum MoveFault {
    /// The folio has no fault.
    None,
    /// The folio fails for good.
    Fail,
    /// The destination of the folio is spoiled, and the folio has to be retried.
    Again,
}

fn every(n: &Atomic<u32>, count: &Atomic<u32>) -> bool {
    match n.load(Relaxed) {
        0 => false,
        n => count.fetch_add(1, Relaxed) % n == n - 1,
    }
}

fn ns(us: &Atomic<u32>) -> u64 {
    u64::from(us.load(Relaxed)) * 1000
}

impl Inject {
    /// Returns the microseconds that the mover waits after submit.
    pub(crate) fn delay_after_submit_us(&self) -> u32 {
        self.delay_after_submit_us.load(Relaxed)
    }

    /// Returns the nanoseconds that a worker waits in a chunk before it copies.
    pub(crate) fn delay_in_chunk_ns(&self) -> u64 {
        ns(&self.delay_in_chunk_us)
    }

    /// Returns the nanoseconds that a worker waits in a chunk after it has copied.
    pub(crate) fn late_done_ns(&self) -> u64 {
        ns(&self.late_done_us)
    }

    /// Returns the nanoseconds that a mover takes longer for a descriptor.
    pub(crate) fn delay_in_descriptor_ns(&self) -> u64 {
        ns(&self.delay_in_descriptor_us)
    }

    /// Returns `true` if this batch is to be declined, and counts it.
    pub(crate) fn decline_batch(&self) -> bool {
        every(&self.decline_batch_every, &self.batches)
    }

    /// Returns `true` if this copy in place is to be declined, and counts it.
    pub(crate) fn decline_in_place(&self) -> bool {
        every(&self.decline_in_place_every, &self.in_place)
    }

    /// Returns `true` if this chunk is to fail, and counts it.
    pub(crate) fn fail_chunk(&self) -> bool {
        every(&self.fail_chunk_every, &self.chunks)
    }

    /// Returns the fault of the folio with this turn, counted from 0.
    pub(crate) fn move_fault(&self, turn: u32) -> MoveFault {
        let nth = |n: &Atomic<u32>| match n.load(Relaxed) {
            0 => false,
            n => turn % n == n - 1,
        };
        if nth(&self.fail_move_every) {
            MoveFault::Fail
        } else if nth(&self.again_move_every) {
            MoveFault::Again
        } else {
            MoveFault::None
        }
    }

    /// Waits for `delay_limits_us`, between the check which migrator is selected and the setting of
    /// the limits that follow from it.
    ///
    /// # Context
    ///
    /// May sleep.
    pub(crate) fn delay_limits(&self) {
        let us = self.delay_limits_us.load(Relaxed);
        if us != 0 {
            fsleep(Delta::from_micros(us.into()));
        }
    }

    /// Returns `true` if the shim must ask about every folio, so that a fault of single folios can
    /// happen.
    pub(crate) fn asks_always(&self) -> bool {
        self.fail_move_every.load(Relaxed) != 0
            || self.again_move_every.load(Relaxed) != 0
            || self.workers_only()
    }

    /// Returns `true` if the pool is to look empty.
    pub(crate) fn exhaust_pool(&self) -> bool {
        self.exhaust_pool.load(Relaxed) != 0
    }

    /// Returns `true` if the measured gain of batches from workers is ignored: durations with
    /// injected delays or faults say nothing about the gain, and the injection is not to be
    /// avoided.
    pub(crate) fn ignores_gain(&self) -> bool {
        [
            &self.all_workers,
            &self.workers_only,
            &self.delay_after_submit_us,
            &self.delay_in_chunk_us,
            &self.late_done_us,
            &self.delay_in_descriptor_us,
            &self.fail_chunk_every,
            &self.fail_move_every,
            &self.again_move_every,
        ]
        .iter()
        .any(|value| value.load(Relaxed) != 0)
    }

    /// Returns `true` if the mover leaves the copying to workers.
    pub(crate) fn workers_only(&self) -> bool {
        self.workers_only.load(Relaxed) != 0
    }
}
