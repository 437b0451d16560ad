// SPDX-License-Identifier: GPL-2.0

//! What a migrator is, and which one is selected.
//!
//! The registry owns the selected migrator: its registration with the shim, its threads or
//! channels, and the session that batches run under. A batch ends with the session it began with.
//!
//! Lock order: [`Registry::current`], then the CPU hotplug lock and SRCU of the shim. Nothing on the
//! path of a migration takes [`Registry::current`].

use crate::{
    batch::{
        Batch,
        Session,
        Shared, //
    },
    cpu,
    dispatch::Dispatcher,
    kapi::shim,
    stats::Stats, //
};
use ferry_core::scale::Want;
use kernel::{
    fmt, new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
};

/// What a migrator can take.
#[derive(Copy, Clone)]
pub(crate) struct Limits {
    /// Smallest batch, in bytes, that it is any use for.
    pub(crate) min_bytes: u64,
    /// May be used by who is reclaiming memory.
    pub(crate) in_reclaim: bool,
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

    /// How many others a batch of this kind should have, of so many pieces, by what such batches have
    /// gained so far.
    fn want(&self, kind: usize, pieces: u32, payer: u64) -> Want;

    /// A batch of this kind, whose duration was worth knowing, has taken `ns`, with so many helpers.
    fn learn(&self, kind: usize, helpers: u32, bytes: u64, ns: u64);

    /// Makes a batch known to whoever copies, to at most so many. Never waits for a copy.
    ///
    /// Says whether anybody will look at it; if not, the batch is the mover's alone.
    fn submit(&self, batch: &Arc<Batch>, helpers: u32) -> bool;

    /// Somebody has begun with the batch, and more could: passes it on.
    fn pass_on(&self, batch: &Arc<Batch>);

    /// The mover needs entry `i`, of which somebody has claimed `chunk`: waits until it is done, or
    /// `ETIMEDOUT`.
    fn wait(&self, batch: &Batch, i: u32, chunk: u32, timeout_ns: u64) -> Result;

    /// Proof that nothing of this migrator touches `chunk`, or the honest answer that there is none.
    fn quiesce(&self, batch: &Batch, chunk: u32) -> Quiet;

    /// The mover is through with the batch: nobody needs to look at it any more.
    fn over(&self, batch: &Arc<Batch>);

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

/// A migrator that can be selected.
struct Kind {
    name: &'static CStr,
    make: fn(&Arc<Shared>) -> Result<Made>,
}

impl Kind {
    fn name(&self) -> &'static str {
        // All of them are ASCII.
        self.name.to_str().unwrap_or(OFF)
    }
}

/// All of them; `off` is none of them.
const KINDS: &[Kind] = &[Kind {
    name: c"cpu",
    make: cpu::make,
}];

/// How many there are.
pub(crate) const NR_KINDS: usize = KINDS.len();

/// The name of the state without a migrator.
pub(crate) const OFF: &str = "off";

/// A selected migrator. Fields are dropped in this order: first no migration uses it any more, then
/// none of its threads uses a batch, then it goes.
struct Current {
    _registration: shim::Registration<Dispatcher>,
    _keep: KBox<dyn Keep>,
    session: Arc<Session>,
    kind: usize,
}

/// The migrators, and which one is selected.
#[pin_data]
pub(crate) struct Registry {
    shared: Arc<Shared>,
    stats: [Arc<Stats>; NR_KINDS],
    #[pin]
    current: Mutex<Option<Current>>,
}

impl Registry {
    /// With none selected.
    pub(crate) fn new(shared: Arc<Shared>) -> Result<impl PinInit<Self>> {
        let stats = [Arc::new(Stats::new(), GFP_KERNEL)?];
        Ok(pin_init!(Self {
            shared,
            stats,
            current <- new_mutex!(None, "ferry::registry"),
        }))
    }

    /// Selects a migrator by name. `EINVAL` for an unknown one; whatever fails, the selected one
    /// stays unless it had to make room.
    pub(crate) fn select(&self, name: &str) -> Result {
        let mut current = self.current.lock();
        if name == OFF {
            *current = None;
            return Ok(());
        }
        let (index, kind) = (KINDS.iter().enumerate())
            .find(|(_, k)| k.name.to_bytes() == name.as_bytes())
            .ok_or(EINVAL)?;
        if current.as_ref().is_some_and(|c| c.kind == index) {
            return Ok(());
        }
        let made = (kind.make)(&self.shared)?;
        let stats = self.stats.get(index).ok_or(EINVAL)?.clone();
        let session = Arc::new(
            Session::new(made.migrator, stats, self.shared.clone()),
            GFP_KERNEL,
        )?;
        let dispatcher = Arc::new(Dispatcher::new(session.clone()), GFP_KERNEL)?;
        // There is one provider at a time. What has begun with the old one ends with it first.
        *current = None;
        *current = Some(Current {
            _registration: shim::Registration::new(dispatcher)?,
            _keep: made.keep,
            session,
            kind: index,
        });
        Ok(())
    }

    /// The name of the selected migrator.
    pub(crate) fn selected(&self) -> &'static str {
        (self.current.lock().as_ref())
            .and_then(|c| KINDS.get(c.kind))
            .map_or(OFF, Kind::name)
    }

    /// The names that can be selected.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        Iterator::chain(core::iter::once(OFF), KINDS.iter().map(Kind::name))
    }

    /// The migrators, by index.
    pub(crate) fn kinds() -> impl Iterator<Item = &'static CStr> {
        KINDS.iter().map(|k| k.name)
    }

    /// The counters of all migrators, with their indices.
    pub(crate) fn stats(&self) -> impl Iterator<Item = (usize, &Stats)> + Clone {
        self.stats.iter().map(|s| &**s).enumerate()
    }

    /// For a person.
    pub(crate) fn show(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        let current = self.current.lock();
        match current.as_ref() {
            Some(c) => c.session.migrator.show(f),
            None => Ok(()),
        }
    }
}
