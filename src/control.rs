// SPDX-License-Identifier: GPL-2.0

//! The files for administrators: `/proc/sys/vm/ferry` and debugfs `ferry/`.
//!
//! Documentation/ABI has the list.
//!
//! Lock order: as in the registry. [`Debug::kinds`] is taken with none of its locks held, and the
//! registry's lock is not taken below it.

use crate::{
    kapi::{
        log,
        sysctl::{
            self,
            Directory, //
        },
    },
    knobs::KNOBS,
    migrate_copy::{
        batch,
        provider, //
    },
    registry::{
        Registry,
        MAX_KINDS,
        OFF, //
    },
    shared::Shared,
    stats::{
        Hist,
        Stats, //
    },
    LocalModule, //
};
use ferry_core::reasons::ReasonMask;
use kernel::{
    debugfs::{
        Dir,
        File,
        Scope, //
    },
    fmt,
    new_mutex,
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc,
        Mutex, //
    },
    uaccess::UserSliceReader, //
};

/// A file of `/proc/sys/vm/ferry`.
#[derive(Copy, Clone)]
enum SysctlFile {
    /// The list of the migrators that can be selected.
    AvailableMigrators,
    /// The selected migrator.
    Migrator,
    /// The reasons of migrations whose batches are taken.
    Reasons,
    /// The knob with this index in [`KNOBS`].
    Knob(usize),
}

/// The files that are no knobs, with their names and modes. The files of [`KNOBS`] follow them, and
/// the position of a file is its id.
const FILES_BEFORE_KNOBS: [(SysctlFile, &CStr, u16); 3] = [
    (
        SysctlFile::AvailableMigrators,
        c"available_migrators",
        0o444,
    ),
    (SysctlFile::Migrator, c"migrator", 0o644),
    (SysctlFile::Reasons, c"reasons", 0o644),
];

impl SysctlFile {
    /// Returns the file with this id. There may be no knob with the index of a [`Self::Knob`].
    fn with_id(id: usize) -> Self {
        match FILES_BEFORE_KNOBS.get(id) {
            Some((file, ..)) => *file,
            None => Self::Knob(id.saturating_sub(FILES_BEFORE_KNOBS.len())),
        }
    }
}

/// Logs the reason for which a value was refused.
fn refuse(why: fmt::Arguments<'_>) {
    if log::allowed() {
        pr_err!("vm.ferry.{}\n", why);
    }
}

/// The formatter and receiver of the values of the sysctls.
pub(crate) struct Sysctls {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    debug: Arc<Debug>,
}

impl Sysctls {
    /// Registers the files.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if memory is short.
    ///
    /// # Context
    ///
    /// May sleep. Takes no locks of this module.
    pub(crate) fn register(
        shared: Arc<Shared>,
        registry: Arc<Registry>,
        debug: Arc<Debug>,
    ) -> Result<Directory<Sysctls>> {
        let mut files: KVec<(&'static CStr, u16)> =
            KVec::with_capacity(FILES_BEFORE_KNOBS.len() + KNOBS.len(), GFP_KERNEL)?;
        for (_, name, mode) in FILES_BEFORE_KNOBS {
            files.push((name, mode), GFP_KERNEL)?;
        }
        for (name, _) in KNOBS {
            files.push((name, 0o644), GFP_KERNEL)?;
        }
        let handler = Arc::new(
            Self {
                shared,
                registry,
                debug,
            },
            GFP_KERNEL,
        )?;
        Directory::new(c"vm/ferry", &files, handler)
    }
}

impl sysctl::Handler for Sysctls {
    fn show(&self, id: usize, f: &mut dyn fmt::Write) -> fmt::Result {
        match SysctlFile::with_id(id) {
            SysctlFile::AvailableMigrators => self.registry.show_available(f),
            SysctlFile::Migrator => show_selected(&self.registry, f),
            SysctlFile::Reasons => write!(f, "{}", self.shared.knobs.reasons()),
            SysctlFile::Knob(index) => match self.shared.knobs.knob(index) {
                Some((knob, value)) => write!(f, "{}", knob.shown(value.load(Relaxed))),
                None => Err(fmt::Error),
            },
        }
    }

    fn store(&self, id: usize, text: &str) -> Result {
        match SysctlFile::with_id(id) {
            // Its mode allows no writes.
            SysctlFile::AvailableMigrators => return Err(EINVAL),
            SysctlFile::Migrator => {
                let selected = self.registry.select(text).inspect_err(|e| {
                    if *e == EINVAL {
                        refuse(fmt!(
                            "migrator: \"{}\" is not available (vm.ferry.available_migrators lists the names that are)",
                            text
                        ));
                    } else {
                        refuse(fmt!("migrator: \"{}\" failed: {:?}", text, *e));
                    }
                });
                self.debug.show_kinds(&self.registry);
                return selected;
            }
            SysctlFile::Reasons => match ReasonMask::parse(text) {
                Ok(reasons) => self.shared.knobs.set_reasons(reasons),
                Err(e) => {
                    refuse(format_args!("reasons: {e}"));
                    return Err(EINVAL);
                }
            },
            SysctlFile::Knob(index) => {
                let (knob, value) = self.shared.knobs.knob(index).ok_or(EINVAL)?;
                match knob.parse(text) {
                    Ok(new) => value.store(new, Relaxed),
                    Err(e) => {
                        refuse(format_args!("{e}"));
                        return Err(EINVAL);
                    }
                }
            }
        }
        self.registry.apply_limits();
        Ok(())
    }
}

impl Drop for Sysctls {
    fn drop(&mut self) {
        provider::set_limits(provider::BatchLimits::STOCK);
    }
}

fn show_selected(registry: &Registry, f: &mut dyn fmt::Write) -> fmt::Result {
    match registry.selected() {
        Some(name) => f.write_str(name.as_str()),
        None => f.write_str(OFF),
    }
}

/// The scope of a file of debugfs: one migrator, or all together.
#[derive(Clone)]
pub(crate) struct View {
    registry: Arc<Registry>,
    kind: Option<usize>,
}

impl View {
    fn stats(&self) -> impl Iterator<Item = &Stats> + Clone {
        let kind = self.kind;
        self.registry
            .stats()
            .filter_map(move |(k, stats)| kind.is_none_or(|kind| kind == k).then_some(stats))
    }
}

fn show_state(view: &View, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (free, total) = view.registry.batches();
    view.registry.show_selection(f)?;
    writeln!(f, "pool {free}/{total}")?;
    writeln!(f, "parked {}", batch::parked())?;
    view.registry.show(f)
}

fn show_parked(_: &View, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(f, "{}", batch::parked())
}

fn show_stats(view: &View, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    Stats::show(view.stats(), f)
}

fn show_wait(view: &View, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    Hist::show(view.stats().map(|s| &s.wait), f)
}

fn show_wait_async(view: &View, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    Hist::show(view.stats().map(|s| &s.wait_async), f)
}

fn show_first(view: &View, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    Hist::show(view.stats().map(|s| &s.first_folio), f)
}

/// Resets the counters when anything is written.
fn reset_stats(view: &View, _: &mut UserSliceReader) -> Result {
    view.stats().for_each(Stats::reset);
    Ok(())
}

/// Releases quarantined channels when anything is written, to be tried again.
fn rearm(view: &View, _: &mut UserSliceReader) -> Result {
    view.registry.rearm()
}

/// The files of one migrator.
type Files = Pin<KBox<Scope<View>>>;

/// The files of debugfs. They are dropped before the objects that they show.
#[pin_data]
pub(crate) struct Debug {
    /// The files of migrators that have been selected; the indices are those of
    /// [`Registry::kinds()`].
    #[pin]
    kinds: Mutex<[Option<Files>; MAX_KINDS]>,
    _inject: Pin<KBox<Scope<Arc<Shared>>>>,
    _files: [Pin<KBox<File<View>>>; 7],
    dir: Dir<LocalModule>,
}

impl Debug {
    /// Returns the directory.
    #[cfg(CONFIG_PCI)]
    pub(crate) fn dir(&self) -> &Dir<LocalModule> {
        &self.dir
    }

    /// Creates the files of all migrators together.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if memory is short. A file that debugfs cannot create is left out without an error.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        registry: &Arc<Registry>,
    ) -> Result<impl PinInit<Self>> {
        let dir = Dir::new(c"ferry");
        let view = |kind| View {
            registry: registry.clone(),
            kind,
        };
        let all = || view(None);
        let files = [
            KBox::pin_init(
                dir.read_callback_file(c"state", all(), &show_state),
                GFP_KERNEL,
            )?,
            KBox::pin_init(
                dir.read_callback_file(c"parked", all(), &show_parked),
                GFP_KERNEL,
            )?,
            KBox::pin_init(
                dir.read_write_callback_file(c"stats", all(), &show_stats, &reset_stats),
                GFP_KERNEL,
            )?,
            KBox::pin_init(dir.write_callback_file(c"rearm", all(), &rearm), GFP_KERNEL)?,
            KBox::pin_init(
                dir.read_callback_file(c"hist_wait_ns", all(), &show_wait),
                GFP_KERNEL,
            )?,
            KBox::pin_init(
                dir.read_callback_file(c"hist_wait_async_ns", all(), &show_wait_async),
                GFP_KERNEL,
            )?,
            KBox::pin_init(
                dir.read_callback_file(c"hist_first_folio_ns", all(), &show_first),
                GFP_KERNEL,
            )?,
        ];
        let inject = KBox::pin_init(
            dir.scope(shared.clone(), c"inject", |shared, dir| {
                (shared.inject).for_each(|name, value| dir.read_write_file(name, value));
            }),
            GFP_KERNEL,
        )?;
        Ok(pin_init!(Self {
            kinds <- new_mutex!([const { None }; MAX_KINDS], "ferry::debug"),
            _inject: inject,
            _files: files,
            dir,
        }))
    }

    /// Creates the files of migrators that have none yet. If memory is short, they are created when
    /// the next migrator is selected.
    ///
    /// # Context
    ///
    /// May sleep. Takes [`Debug::kinds`].
    pub(crate) fn show_kinds(&self, registry: &Arc<Registry>) {
        let mut kinds = self.kinds.lock();
        for (kind, name) in registry.kinds() {
            let Some(room) = kinds.get_mut(kind).filter(|room| room.is_none()) else {
                continue;
            };
            let view = View {
                registry: registry.clone(),
                kind: Some(kind),
            };
            let scope = self.dir.scope(view, name.as_c_str(), |view, dir| {
                dir.read_write_callback_file(c"stats", view, &show_stats, &reset_stats);
                dir.read_callback_file(c"hist_wait_ns", view, &show_wait);
                dir.read_callback_file(c"hist_wait_async_ns", view, &show_wait_async);
                dir.read_callback_file(c"hist_first_folio_ns", view, &show_first);
            });
            *room = KBox::pin_init(scope, GFP_KERNEL).ok();
        }
    }
}
