// SPDX-License-Identifier: GPL-2.0

//! The interface of a migrator.
//!
//! Takes no locks.

use crate::batch::Batch;
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

/// The answer to whether anything of a migrator still touches a batch.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(crate) enum Quiet {
    /// It is proven that nothing of the migrator does, or will.
    Yes,
    /// There is no proof.
    No,
}

/// How a batch is to be copied, with or without help for the mover.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum CopyPlan {
    /// By the stock code.
    Decline,
    /// By the mover alone, chunk by chunk, to measure what that costs.
    MoverOnly,
    /// By the mover and workers.
    Workers {
        /// The number of workers, at most; not 0.
        count: u32,
        /// The duration is to be measured.
        measure: bool,
    },
    /// By the mover and an engine.
    Engine {
        /// The part of the chunks that the engine gets.
        part: Fraction,
        /// The duration is to be measured.
        measure: bool,
    },
}

impl CopyPlan {
    /// Returns `true` if the duration is to be measured.
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
/// All of it is called on the path of migration: nothing may allocate in a way that can enter
/// reclaim, or take anything but leaf locks.
pub(crate) trait Migrator: Send + Sync {
    /// Returns its limits.
    fn limits(&self) -> Limits;

    /// Returns `true` if something of the migrator could begin at once with folios of this route.
    ///
    /// Asked before anything is done for a batch, so that one that gets no help costs nothing.
    fn ready(&self, route: Route) -> bool;

    /// Decides how to copy a batch of this class with this number of chunks, from the measurements
    /// of such batches. `payer` is the cgroup that pays for workers.
    fn choose(&self, class: BatchClass, chunks: u32, payer: u64) -> CopyPlan;

    /// Learns from a batch of this class, whose duration was to be measured and is `ns`.
    fn learn(&self, class: BatchClass, batch: &Batch, ns: u64);

    /// Gives a batch to the workers or channels that copy it with the mover, as planned. Never
    /// waits for a copy.
    ///
    /// Returns `false` if none of them has taken it: the caller then has the only reference.
    fn submit(&self, batch: &Arc<Batch>, plan: CopyPlan) -> bool;

    /// Waits until entry `i`, which the mover needs and of which another lane has claimed `chunk`,
    /// is done.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT` if it is not done in time; [`Migrator::quiesce()`] may say more then.
    /// `ECANCELED` if it has been given up without proof of quiet, and whatever has given it up
    /// takes nothing any more.
    fn wait(&self, batch: &Batch, i: u32, chunk: u32, timeout_ns: u64) -> Result;

    /// Proves that nothing of this migrator touches entry `i` of `chunk` any more, which has ended
    /// then, or reports that there is no proof. Called when the mover has waited in vain.
    ///
    /// # Context
    ///
    /// May sleep, because [`Limits`] keep out migrations that must not: for `timeout_ns` at most,
    /// less what the batch has [waited](Batch::waited_ns()) already, and with no lock.
    fn quiesce(&self, batch: &Batch, i: u32, chunk: u32, timeout_ns: u64) -> Quiet;

    /// Tells the migrator that the mover has finished with the batch: no worker needs to look at it
    /// any more.
    fn batch_done(&self, batch: &Arc<Batch>);

    /// Releases what was quarantined, to be tried again.
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

/// The resources that live while a migrator is selected, and end with it: threads, channels.
pub(crate) trait Keep: Send {}

/// A new migrator, with the resources that it needs.
pub(crate) struct Made {
    /// The migrator, for batches.
    pub(crate) migrator: Arc<dyn Migrator>,
    /// Its resources, for the registry. Dropping them waits until nothing of the migrator uses a
    /// batch.
    pub(crate) keep: KBox<dyn Keep>,
}
