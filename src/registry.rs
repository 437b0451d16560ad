// SPDX-License-Identifier: GPL-2.0

//! The registry of migrators, one of which is selected at a time.
//!
//! The registry owns the selected migrator: its registration with the shim, its threads or
//! channels, and the session that batches run under. A batch ends with the session it began with.
//!
//! Lock order: [`Registry::current`], then the CPU hotplug lock and SRCU of the shim. Nothing on
//! the path of a migration takes [`Registry::current`].

#[cfg(CONFIG_DMA_ENGINE)]
use crate::dmaengine;
#[cfg(CONFIG_PCI)]
use crate::sdxi;
use crate::{
    batch::Pool,
    cpu,
    dispatch::Dispatcher,
    migrate_copy::provider,
    migrator::{
        Keep,
        Made, //
    },
    mover::Session,
    names::{
        DmaDrivers,
        Name, //
    },
    shared::Shared,
    stats::Stats, //
};
use kernel::{
    fmt, new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex,
        SetOnce, //
    },
};

/// Bytes of a page: the unit in which the shim takes the limit of a batch in bytes.
const PAGE_BYTES: u64 = kernel::page::PAGE_SIZE as u64;

/// The name of the migrator that is always available.
const CPU: &str = "cpu";

/// The most migrators that can be selected while the module is loaded: each has counters of its
/// own.
pub(crate) const MAX_KINDS: usize = 8;

/// A migrator with counters: its name, which is set when it is selected for the first time, and its
/// counters, which outlive its selection.
struct Kind {
    name: SetOnce<Name>,
    stats: Arc<Stats>,
}

/// The name of the state without a migrator.
pub(crate) const OFF: &str = "off";

/// Returns `true` if this is the name of a selection that is no driver of dmaengine. A dmaengine
/// driver with such a name cannot be selected.
fn is_own(name: &str) -> bool {
    #[cfg(CONFIG_PCI)]
    if name == sdxi::migrator::NAME {
        return true;
    }
    name == OFF || name == CPU
}

/// A selected migrator. Fields are dropped in this order: first no migration uses the migrator any
/// more, then none of its threads and channels uses a batch, then the migrator itself is dropped.
struct Current {
    _registration: provider::Registration<Dispatcher>,
    _keep: KBox<dyn Keep>,
    session: Arc<Session>,
    name: Name,
}

/// The migrators, and the selected one.
#[pin_data]
pub(crate) struct Registry {
    shared: Arc<Shared>,
    pool: Arc<Pool>,
    kinds: [Kind; MAX_KINDS],
    #[cfg(CONFIG_PCI)]
    sdxi: SetOnce<Arc<sdxi::Functions>>,
    #[pin]
    current: Mutex<Option<Current>>,
}

impl Registry {
    /// Creates a registry with no migrator selected.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if memory is short.
    pub(crate) fn new(shared: Arc<Shared>, pool: Arc<Pool>) -> Result<impl PinInit<Self>> {
        let kind = || -> Result<Kind> {
            Ok(Kind {
                name: SetOnce::new(),
                stats: Arc::new(Stats::new(), GFP_KERNEL)?,
            })
        };
        let kinds = [
            kind()?,
            kind()?,
            kind()?,
            kind()?,
            kind()?,
            kind()?,
            kind()?,
            kind()?,
        ];
        if let ([first, ..], Some(cpu)) = (&kinds, Name::new(CPU.as_bytes())) {
            first.name.populate(cpu);
        }
        Ok(pin_init!(Self {
            shared,
            pool,
            kinds,
            #[cfg(CONFIG_PCI)]
            sdxi: SetOnce::new(),
            current <- new_mutex!(None, "ferry::registry"),
        }))
    }

    /// Returns the counters of the migrator with this name; `None` if it has none yet and no more
    /// can be added.
    ///
    /// # Context
    ///
    /// The caller holds the lock of `current`.
    fn stats_of(&self, name: &Name) -> Option<&Arc<Stats>> {
        self.kinds.iter().find_map(|kind| {
            // No other task populates it meanwhile, because the caller holds the lock.
            kind.name.populate(*name);
            (kind.name.as_ref() == Some(name)).then_some(&kind.stats)
        })
    }

    /// Selects a migrator by name.
    ///
    /// # Errors
    ///
    /// `EINVAL` for an unknown name, `ENOSPC` if no counters are left, or the error of creating the
    /// migrator or registering it. The migrator that was selected stays selected, unless the error
    /// is one of registering: then none is selected.
    ///
    /// # Context
    ///
    /// Sleeps until the migrations that began with the old migrator have ended. Takes the lock of
    /// `current`. Must not be called in reclaim.
    pub(crate) fn select(&self, name: &str) -> Result {
        let mut current = self.current.lock();
        let selected = self.select_in(&mut current, name);
        self.set_limits(&current);
        selected
    }

    fn select_in(&self, current: &mut Option<Current>, name: &str) -> Result {
        if name == OFF {
            *current = None;
            return Ok(());
        }
        let name = Name::new(name.as_bytes()).ok_or(EINVAL)?;
        if current.as_ref().is_some_and(|c| c.name == name) {
            return Ok(());
        }
        let made = if name.as_str() == CPU {
            cpu::make(&self.shared)?
        } else {
            self.engine(&name)?
        };
        let stats = self.stats_of(&name).ok_or(ENOSPC)?.clone();
        let session = Arc::new(
            Session::new(made.migrator, stats, self.shared.clone(), self.pool.clone()),
            GFP_KERNEL,
        )?;
        let dispatcher = Arc::new(Dispatcher::new(session.clone()), GFP_KERNEL)?;
        // There is one provider at a time. Batches that began with the old one end with it first.
        *current = None;
        *current = Some(Current {
            _registration: provider::Registration::new(dispatcher)?,
            _keep: made.keep,
            session,
            name,
        });
        Ok(())
    }

    /// Sets the size of batches as the knobs say.
    ///
    /// # Context
    ///
    /// May sleep. Takes the lock of `current`.
    pub(crate) fn apply_limits(&self) {
        self.set_limits(&self.current.lock());
    }

    /// Sets the size of batches: as the knobs say, or the stock size while no migrator is selected.
    ///
    /// `current` is borrowed from under its lock, so that the limits are those of the migrator that
    /// is selected when they are set.
    fn set_limits(&self, current: &Option<Current>) {
        let knobs = &self.shared.knobs;
        let selected = current.is_some();
        self.shared.inject.delay_limits();
        if !selected {
            provider::set_limits(provider::BatchLimits::STOCK);
            return;
        }
        let pages = (knobs.batch_bytes() / PAGE_BYTES).max(1);
        provider::set_limits(provider::BatchLimits {
            folios: u32::try_from(knobs.batch_folios()).unwrap_or(u32::MAX),
            pages: u32::try_from(pages).unwrap_or(u32::MAX),
        });
    }

    /// Returns how many batch objects are free, and how many there are.
    pub(crate) fn batches(&self) -> (usize, usize) {
        self.pool.count()
    }

    /// Returns the name of the selected migrator.
    pub(crate) fn selected(&self) -> Option<Name> {
        self.current.lock().as_ref().map(|c| c.name)
    }

    /// Writes the names that can be selected at the moment.
    pub(crate) fn show_available(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        write!(f, "{OFF} {CPU}")?;
        let selected = self.selected();
        let mut listed = selected.is_none_or(|name| name.as_str() == CPU);
        for name in self.providers().iter() {
            listed |= selected == Some(*name);
            write!(f, " {}", name.as_str())?;
        }
        match selected {
            // Its driver has no free channel: Ferry holds all of them, or there are none.
            Some(name) if !listed => write!(f, " {}", name.as_str()),
            _ => Ok(()),
        }
    }

    /// Returns the names of the migrators that have been selected so far, and of `cpu`, with their
    /// indices.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = (usize, &Name)> {
        self.kinds
            .iter()
            .enumerate()
            .filter_map(|(i, kind)| kind.name.as_ref().map(|name| (i, name)))
    }

    /// Returns the counters of all migrators, with their indices.
    pub(crate) fn stats(&self) -> impl Iterator<Item = (usize, &Stats)> + Clone {
        self.kinds.iter().map(|kind| &*kind.stats).enumerate()
    }

    /// Makes the selected migrator try its quarantined channels again.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` without a migrator, or with one that has no quarantine.
    pub(crate) fn rearm(&self) -> Result {
        match self.current.lock().as_ref() {
            Some(c) => c.session.migrator.rearm(),
            None => Err(EOPNOTSUPP),
        }
    }

    /// Writes which migrator is selected, and the size of batches that goes with it.
    pub(crate) fn show_selection(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        let current = self.current.lock();
        let name = current.as_ref().map_or(OFF, |c| c.name.as_str());
        writeln!(f, "migrator {name}")?;
        match provider::limits() {
            provider::BatchLimits::STOCK => writeln!(f, "limits stock"),
            limits => writeln!(f, "limits {} {}", limits.folios, limits.pages),
        }
    }

    /// Writes the state of the selected migrator, for debugfs.
    pub(crate) fn show(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        let current = self.current.lock();
        match current.as_ref() {
            Some(c) => c.session.migrator.show(f),
            None => Ok(()),
        }
    }

    /// Sets the list of SDXI functions, once.
    #[cfg(CONFIG_PCI)]
    pub(crate) fn set_sdxi(&self, functions: Arc<sdxi::Functions>) {
        self.sdxi.populate(functions);
    }

    /// Returns the names of the engines that are available at the moment.
    fn providers(&self) -> DmaDrivers {
        #[cfg(CONFIG_DMA_ENGINE)]
        let all = DmaDrivers::find_all(|name| !is_own(name));
        #[cfg(not(CONFIG_DMA_ENGINE))]
        let all = DmaDrivers::default();
        #[cfg(CONFIG_PCI)]
        let all = self.with_sdxi(all);
        all
    }

    /// Adds SDXI, if a function is bound.
    #[cfg(CONFIG_PCI)]
    fn with_sdxi(&self, mut all: DmaDrivers) -> DmaDrivers {
        let any = (self.sdxi.as_ref()).is_some_and(|functions| functions.any());
        if let (true, Some(name)) = (any, Name::new(sdxi::migrator::NAME.as_bytes())) {
            all.add(name);
        }
        all
    }

    /// Creates the migrator of an engine. No name stands for two engines: [`is_own()`] keeps
    /// dmaengine drivers with names of other selections out.
    ///
    /// # Errors
    ///
    /// `EINVAL` if no engine with this name is available, or the error of creating the migrator.
    fn engine(&self, name: &Name) -> Result<Made> {
        if !self.providers().iter().any(|n| n == name) {
            return Err(EINVAL);
        }
        #[cfg(CONFIG_PCI)]
        if name.as_str() == sdxi::migrator::NAME {
            let functions = self.sdxi.as_ref().ok_or(EINVAL)?;
            return sdxi::migrator::make(functions, &self.shared);
        }
        #[cfg(CONFIG_DMA_ENGINE)]
        return dmaengine::make(name, &self.shared);
        #[cfg(not(CONFIG_DMA_ENGINE))]
        Err(EINVAL)
    }
}
