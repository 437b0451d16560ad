// SPDX-License-Identifier: GPL-2.0

//! The interface of a migrator, which copies chunks of batches for movers.
//!
//! Lock order: there are no locks here. What an implementation may take is said at [`Migrator`].

use crate::{
    batch::Batch,
    migrate_copy::spread::SpreadCall,
    stats::Stats, //
};
use ferry_core::{
    class::{
        BatchClass,
        Route, //
    },
    engine_share::Fraction, //
};
use kernel::{
    fmt,
    prelude::*,
    sync::Arc, //
};

/// The limits of a migrator.
#[derive(Copy, Clone)]
pub(crate) struct Limits {
    /// Bytes of the smallest batch that gains from it.
    pub(crate) min_bytes: u64,
    /// `true` if a task that reclaims memory may use it.
    pub(crate) in_reclaim: bool,
    /// `true` if a migration that must not block may use it. The reason of a migration tells that,
    /// not its mode: every batch is `MIGRATE_ASYNC`, as a task that holds the locks of many folios
    /// must not wait for further locks.
    pub(crate) in_async: bool,
}

/// The presence or absence of a proof that nothing of a migrator touches an entry any more.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(crate) enum Quiet {
    /// It is proven that nothing of the migrator touches the entry, now or later.
    Yes,
    /// There is no proof.
    No,
}

/// The plan for copying a batch, with or without help for the mover.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum CopyPlan {
    /// The stock code copies the batch.
    Decline,
    /// The mover copies the batch alone, chunk by chunk, so that the cost of that is measured.
    MoverOnly,
    /// The mover and workers copy the batch.
    Workers {
        /// The largest number of workers; not 0.
        count: u32,
        /// `true` if the duration is to be measured.
        measure: bool,
    },
    /// The mover and an engine copy the batch.
    Engine {
        /// The part of the chunks that the engine copies.
        part: Fraction,
        /// `true` if the duration is to be measured.
        measure: bool,
    },
}

impl CopyPlan {
    /// Returns `true` if the duration of the batch is to be measured.
    pub(crate) fn measures(self) -> bool {
        match self {
            Self::Decline => false,
            Self::MoverOnly => true,
            Self::Workers { measure, .. } | Self::Engine { measure, .. } => measure,
        }
    }
}

/// A copier of chunks of batches.
///
/// # Context
///
/// All methods but [`Self::rearm()`] and [`Self::show()`] are called on the path of migration: they
/// must not allocate in a way that can enter reclaim, and take no locks but leaves. None of them
/// but [`Self::wait()`] and [`Self::quiesce()`] waits for a copy.
pub(crate) trait Migrator: Send + Sync {
    /// Returns the limits of the migrator.
    fn limits(&self) -> Limits;

    /// Returns `true` if a worker or a channel could begin at once with folios of this route.
    ///
    /// The dispatcher asks this before it does anything for a batch, so that a batch without help
    /// costs nothing.
    fn ready(&self, route: Route) -> bool;

    /// Decides how to copy a batch of this class with this number of chunks, from the measurements
    /// of such batches. `payer` is the number of the cgroup that pays for workers, 0 for the root.
    fn choose(&self, class: BatchClass, chunks: u32, payer: u64) -> CopyPlan;

    /// Learns from a batch of this class, whose duration was to be measured and is `ns`.
    fn learn(&self, class: BatchClass, batch: &Batch, ns: u64);

    /// Gives a batch to the workers or channels that copy it with the mover, as planned. Returns
    /// `false` if none of them has taken it: the caller then has the only reference.
    fn submit(&self, batch: &Arc<Batch>, plan: CopyPlan) -> bool;

    /// Waits until entry `i`, which the mover needs and of which another lane has claimed `chunk`,
    /// is done.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT` if the entry is not done in time; [`Self::quiesce()`] may find a proof then.
    /// `ECANCELED` if the driver of an engine has given the copy up without a proof of quiet; its
    /// channel is quarantined then.
    ///
    /// # Context
    ///
    /// May sleep, for a time that `timeout_ns` bounds, and with none of Ferry's locks.
    fn wait(&self, batch: &Batch, i: u32, chunk: u32, timeout_ns: u64) -> Result;

    /// Proves that nothing of this migrator touches entry `i` of `chunk` any more, which has ended
    /// then, or reports that there is no proof. The mover calls this when it has waited in vain.
    ///
    /// # Context
    ///
    /// May sleep, because [`Limits`] keep out migrations that must not: for `timeout_ns` at most,
    /// less the time that the batch has [waited](Batch::waited_ns()) already, and with none of
    /// Ferry's locks.
    fn quiesce(&self, batch: &Batch, i: u32, chunk: u32, timeout_ns: u64) -> Quiet;

    /// Gives a call to at most `most` workers that could begin at once. Returns their number. They
    /// migrate batches of it, and count these in `stats`.
    fn spread(&self, _call: &SpreadCall, _route: Route, _most: u32, _stats: &Arc<Stats>) -> u32 {
        0
    }

    /// Tells the migrator that the mover has finished with the batch: no worker needs to look at it
    /// any more.
    fn batch_done(&self, batch: &Arc<Batch>);

    /// Releases quarantined channels, to be tried again.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if the migrator has no quarantine.
    fn rearm(&self) -> Result {
        Err(EOPNOTSUPP)
    }

    /// Writes the state of the migrator, for debugfs.
    fn show(&self, f: &mut dyn fmt::Write) -> fmt::Result;
}

/// The resources that exist while a migrator is selected, such as threads or channels.
pub(crate) trait Keep: Send {}

/// A new migrator, with the resources that it needs.
pub(crate) struct Made {
    /// The migrator, for batches.
    pub(crate) migrator: Arc<dyn Migrator>,
    /// Its resources, for the registry. Dropping them waits until nothing of the migrator uses a
    /// batch.
    pub(crate) keep: KBox<dyn Keep>,
}
