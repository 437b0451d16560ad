// SPDX-License-Identifier: GPL-2.0

//! Counters and histograms of one migrator.
//!
//! The registry owns them, so that they outlive the selection of their migrator. All counters are
//! relaxed atomics: they order nothing and pair with nothing.

use crate::kapi::trace;
use ferry_core::hist;
use kernel::{
    fmt,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// A counter of one migrator.
        #[derive(Copy, Clone)]
        pub(crate) enum Counter {
            $($(#[$doc])* $variant,)*
        }

        /// The names of the counters, in the same order.
        const NAMES: &[&str] = &[$($name,)*];
    };
}

counters! {
    /// Batches submitted.
    Batches => "batches",
    /// Batches declined: no batch object left.
    DeclinedPool => "batches_declined_pool",
    /// Batches declined: too small.
    DeclinedSmall => "batches_declined_small",
    /// Batches declined: no worker and no channel could begin at once.
    DeclinedBusy => "batches_declined_busy",
    /// Batches declined: such batches gain nothing from workers.
    DeclinedGain => "batches_declined_gain",
    /// Batches declined: the migrator cannot be used in reclaim, or where the migration must not
    /// block.
    DeclinedContext => "batches_declined_context",
    /// Batches declined: reason filtered.
    DeclinedReason => "batches_declined_reason",
    /// Batches declined by fault injection.
    DeclinedInject => "batches_declined_inject",
    /// Folios in submitted batches.
    Folios => "folios",
    /// Folios whose content was in the destination before their turn.
    CopiedEarly => "folios_copied_early",
    /// Folios not copied early because of a reference (I1).
    Referenced => "folios_referenced",
    /// Folios that the mover had to copy when their turn came.
    NotCopied => "folios_not_copied",
    /// Folios failed because a worker or an engine could still write to them (I7).
    NotQuiet => "folios_not_quiet",
    /// Bytes copied early.
    BytesEarly => "bytes_early",
    /// Bytes copied in place, in parallel.
    BytesInPlace => "bytes_in_place",
    /// Folios copied in place.
    InPlace => "folios_in_place",
    /// Folios copied in place by their movers alone.
    InPlaceAlone => "folios_in_place_alone",
    /// Bytes of folios copied in place by their movers alone.
    BytesInPlaceAlone => "bytes_in_place_alone",
    /// Folios that could not be copied in place, or were declined by fault injection.
    InPlaceFailed => "folios_in_place_failed",
    /// Chunks copied by movers.
    ByMover => "chunks_by_mover",
    /// Chunks copied by workers and engines.
    ByOthers => "chunks_by_others",
    /// Chunks that failed.
    ChunksFailed => "chunks_failed",
    /// Chunks of submitted batches that no lane had claimed when the mover came.
    ChunksRevoked => "chunks_revoked",
    /// Waits for a claimed chunk.
    Waits => "waits",
    /// Waits of migrations that must not block: their sum in a batch is no longer than copying it
    /// takes (I15).
    WaitsAsync => "waits_async",
    /// Waits of such migrations that this limit has ended; the folio waited for failed (I7).
    WaitsCut => "waits_cut",
    /// Waits that ended with a timeout.
    WaitTimeouts => "wait_timeouts",
    /// Anonymous folios eligible to be copied early.
    EligibleAnon => "eligible_anon",
    /// shmem folios eligible to be copied early.
    EligibleShmem => "eligible_shmem",
    /// Folios not eligible.
    Ineligible => "ineligible",
    /// Nanoseconds that workers spent for movers, charged to their cgroups.
    WorkerNs => "worker_ns",
    /// Nanoseconds that workers spent and no control group pays.
    WorkerUnpaidNs => "worker_unpaid_ns",
    /// Workers woken, or found spinning.
    WorkersWoken => "workers_woken",
    /// Calls of `migrate_pages()` whose batches workers could take.
    Spread => "calls_spread",
    /// Batches of these calls that workers migrated.
    BatchesByWorkers => "batches_by_workers",
    /// Base pages in them that have moved.
    PagesByWorkers => "pages_by_workers",
    /// Bytes copied by engines.
    EngineBytes => "engine_bytes",
    /// Descriptors made for engines.
    Descriptors => "engine_descriptors",
    /// Mappings made for descriptors.
    Mappings => "engine_mappings",
    /// Times that the lock of a channel was taken to make descriptors; each keeps preemption off.
    EngineSections => "engine_sections",
    /// Times that new descriptors were submitted to a channel.
    EngineSubmits => "engine_submits",
    /// Times that an engine did not answer before the timeout.
    EngineTimeouts => "engine_timeouts",
}

/// The reason for which a batch or a folio is left to the stock copy; the number is what the
/// tracepoint `ferry:ferry_fallback` shows.
#[derive(Copy, Clone)]
#[repr(u32)]
pub(crate) enum Cause {
    /// The pool has no batch object left.
    Pool = 0,
    /// The batch is too small.
    Small = 1,
    /// The migration's reason is filtered.
    Reason = 2,
    /// A fault is injected.
    Injected = 3,
    /// The folio has a reference that the migration does not expect (I1).
    References = 4,
    /// A chunk failed.
    Failed = 5,
    /// A worker or an engine may still write to the destination (I7).
    NotQuiet = 6,
    /// No worker and no channel could begin at once.
    Busy = 7,
    /// Batches of this class gain nothing from workers.
    Gain = 8,
    /// The migrator cannot be used where the migration must not block, or in reclaim.
    Context = 9,
}

impl Cause {
    /// Returns the counter of this cause.
    fn counter(self) -> Counter {
        match self {
            Self::Pool => Counter::DeclinedPool,
            Self::Small => Counter::DeclinedSmall,
            Self::Reason => Counter::DeclinedReason,
            Self::Injected => Counter::DeclinedInject,
            Self::References => Counter::Referenced,
            Self::Failed => Counter::ChunksFailed,
            Self::NotQuiet => Counter::NotQuiet,
            Self::Busy => Counter::DeclinedBusy,
            Self::Gain => Counter::DeclinedGain,
            Self::Context => Counter::DeclinedContext,
        }
    }
}

/// A histogram of durations, in nanoseconds.
pub(crate) struct Hist([Atomic<u64>; hist::BUCKETS]);

impl Hist {
    fn new() -> Self {
        Self([const { Atomic::new(0) }; hist::BUCKETS])
    }

    /// Counts one duration of `ns` nanoseconds.
    pub(crate) fn add(&self, ns: u64) {
        if let Some(bucket) = self.0.get(hist::bucket(ns)) {
            bucket.add(1u64, Relaxed);
        }
    }

    fn reset(&self) {
        for bucket in &self.0 {
            bucket.store(0, Relaxed);
        }
    }

    /// Writes the sum of several histograms: a line "LO HI COUNT", in nanoseconds, for each bucket
    /// that is not empty.
    pub(crate) fn show<'a>(
        of: impl Iterator<Item = &'a Self> + Clone,
        f: &mut fmt::Formatter<'_>,
    ) -> fmt::Result {
        for i in 0..hist::BUCKETS {
            let counts = of.clone().filter_map(|h| h.0.get(i));
            let count = counts.fold(0u64, |n, c| n.wrapping_add(c.load(Relaxed)));
            if count != 0 {
                let (lo, hi) = hist::bounds(i);
                writeln!(f, "{lo} {hi} {count}")?;
            }
        }
        Ok(())
    }
}

/// Counters and histograms of one migrator.
pub(crate) struct Stats {
    counters: [Atomic<u64>; NAMES.len()],
    /// The waits of movers for claimed chunks.
    pub(crate) wait: Hist,
    /// The waits of migrations that must not block.
    pub(crate) wait_async: Hist,
    /// The times from the end of the flush to the turn of the first folio of a batch.
    pub(crate) first_folio: Hist,
}

impl Stats {
    /// Creates counters and histograms that are all 0.
    pub(crate) fn new() -> Self {
        Self {
            counters: [const { Atomic::new(0) }; NAMES.len()],
            wait: Hist::new(),
            wait_async: Hist::new(),
            first_folio: Hist::new(),
        }
    }

    /// Adds to a counter.
    #[inline]
    pub(crate) fn add(&self, counter: Counter, n: u64) {
        if let Some(c) = self.counters.get(counter as usize) {
            c.add(n, Relaxed);
        }
    }

    /// Counts a fallback to the stock copy, and traces it with its size in bytes, or 0 where the
    /// size is not known.
    pub(crate) fn fallback(&self, cause: Cause, bytes: u64) {
        self.add(cause.counter(), 1);
        trace::fallback(cause as u32, bytes);
    }

    /// Sets all counters and histograms to 0.
    pub(crate) fn reset(&self) {
        for c in &self.counters {
            c.store(0, Relaxed);
        }
        self.wait.reset();
        self.wait_async.reset();
        self.first_folio.reset();
    }

    /// Writes the sums of several migrators: a line "NAME VALUE" for each counter.
    pub(crate) fn show<'a>(
        of: impl Iterator<Item = &'a Self> + Clone,
        f: &mut fmt::Formatter<'_>,
    ) -> fmt::Result {
        for (i, name) in NAMES.iter().enumerate() {
            let counters = of.clone().filter_map(|s| s.counters.get(i));
            let value = counters.fold(0u64, |n, c| n.wrapping_add(c.load(Relaxed)));
            writeln!(f, "{name} {value}")?;
        }
        Ok(())
    }
}
