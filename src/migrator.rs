// SPDX-License-Identifier: GPL-2.0

//! What a migrator is.
//!
//! Takes no locks.

use crate::batch::Batch;
use ferry_core::scale::Want;
use kernel::{
    fmt,
    prelude::*,
    sync::Arc, //
};

/// What a migrator can take.
#[derive(Copy, Clone)]
pub(crate) struct Limits {
    /// Smallest batch, in bytes, that it is any use for.
    pub(crate) min_bytes: u64,
    /// May be used by who is reclaiming memory.
    pub(crate) in_reclaim: bool,
    /// May be used where the migration must not block. That is for its reason to say: batches are
    /// `MIGRATE_ASYNC` for everybody, as whoever has many folios locked must not wait for locks.
    pub(crate) in_async: bool,
}

/// The answer to whether anything of a migrator still touches a batch.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(crate) enum Quiet {
    /// Proven: nothing does, or will.
    Yes,
    /// There is no proof.
    No,
}

/// Somebody who copies chunks of batches.
///
/// All of it is called on the path of migration: nothing may allocate in a way that can enter
/// reclaim, or take anything but leaf locks.
pub(crate) trait Migrator: Send + Sync {
    /// What it can take.
    fn limits(&self) -> Limits;

    /// Could anybody begin at once with folios that go from the first of these nodes to the second?
    ///
    /// Asked before anything is done for a batch, so that one that nobody can help with costs nothing.
    fn ready(&self, nodes: (i32, i32)) -> bool;

    /// How much help a batch of this kind should have, of so many pieces, by what such batches have
    /// gained so far: helpers, or whatever else [`Migrator::submit()`] takes it for. 0 for none.
    fn want(&self, kind: usize, pieces: u32, payer: u64) -> Want;

    /// A batch of this kind, whose duration was worth knowing, has taken `ns`.
    fn learn(&self, kind: usize, batch: &Batch, ns: u64);

    /// Makes a batch known to whoever copies, with as much help as [`Migrator::want()`] said. Never waits
    /// for a copy.
    ///
    /// Says whether anybody will look at it, or its duration is worth knowing; if not, the batch is the
    /// mover's alone, and nobody else has a reference to it.
    fn submit(&self, batch: &Arc<Batch>, helpers: u32) -> bool;

    /// Waits until entry `i`, which the mover needs and of which another lane has claimed `chunk`, is done.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT` if it is not done in time; [`Migrator::quiesce()`] may say more then. `ECANCELED` if it has
    /// been given up without proof of quiet, and whatever has given it up takes nothing any more.
    fn wait(&self, batch: &Batch, i: u32, chunk: u32, timeout_ns: u64) -> Result;

    /// The mover has waited in vain: proof that nothing of this migrator touches entry `i` of
    /// `chunk` any more, which has ended then, or the honest answer that there is none.
    ///
    /// May wait for it, where [`Limits`] keep out who must not: for `timeout_ns` at most, less what
    /// the batch has [waited](Batch::waited_ns()) already, and with no lock.
    fn quiesce(&self, batch: &Batch, i: u32, chunk: u32, timeout_ns: u64) -> Quiet;

    /// The mover is through with the batch: nobody needs to look at it any more.
    fn over(&self, batch: &Arc<Batch>);

    /// Tries again who was quarantined.
    fn rearm(&self) -> Result {
        Err(EOPNOTSUPP)
    }

    /// For a person.
    fn show(&self, f: &mut dyn fmt::Write) -> fmt::Result;
}

/// What has to stay alive while a migrator is selected, and ends with it: threads, channels.
pub(crate) trait Keep: Send {}

/// What a migrator is made as.
pub(crate) struct Made {
    /// For batches.
    pub(crate) migrator: Arc<dyn Migrator>,
    /// For the registry. Dropping it waits until nobody of the migrator uses a batch.
    pub(crate) keep: KBox<dyn Keep>,
}
