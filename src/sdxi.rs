// SPDX-License-Identifier: GPL-2.0

//! The driver of SDXI functions (PCI class 0x120100), and their [`migrator`]. What is not in that
//! knows nothing of migration.
//!
//! There are other drivers of the class. This one binds what an administrator gives it: a function
//! with its name in `driver_override`, or with `sdxi_bind=1` every function that has no driver.
//!
//! A function has contexts, each with a ring of descriptors. Who copies watches [`Functions`] for
//! what is bound, claims and opens contexts, and submits copies to them; see
//! [`context`](crate::sdxi::hw::context) for how, and [`function`] for what happens meanwhile.
//! `Documentation/sdxi.rst` says how this maps to the standard.
//!
//! [`Functions`] owns what is bound. Who else has references to a function gives them back when
//! [`Subscriber::leaving()`] says so, else its BARs stay taken.
//!
//! Locks: the list's, then those of a function.

mod debugfs;
mod function;
#[allow(unsafe_code)]
mod hw;
pub(crate) mod migrator;
mod selftest;

use crate::kapi::pci::{
    Device,
    Driver,
    Registration, //
};
use function::Function;
use kernel::{
    debugfs::{
        Dir,
        Scope, //
    },
    device_id::IdArray,
    new_mutex, pci,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
};

/// Processing accelerator, SDXI, by its class alone: vendors and devices say nothing.
const CLASS: u32 = 0x12_01_00;

/// Matches the whole class. `pci_device_table!` would make an alias of the module of it, for which
/// udev loads the module, and races with other drivers of the class.
static TABLE: IdArray<pci::DeviceId, (), 1> =
    IdArray::new_without_index([pci::DeviceId::from_class(CLASS, 0xff_ff_ff)]);

/// The name of the driver.
const DRIVER: &str = "ferry_sdxi";

/// The same, for the PCI core.
const DRIVER_C: &CStr = c"ferry_sdxi";

/// Which functions are bound without being asked for one by one.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(crate) enum Bind {
    /// None: those whose `driver_override` says so.
    Override,
    /// All of the class that have no driver.
    Class,
}

/// Who wants to know of functions. Called in process context, with the list locked.
pub(crate) trait Subscriber: Send + Sync {
    /// A function has been bound, or was when the subscriber came.
    fn arrived(&self, function: &Arc<Function>);

    /// A function leaves, or the subscriber does. The function has stopped then, or the subscriber
    /// asks for it. When this returns, the subscriber has no reference to it any more.
    fn leaving(&self, function: &Arc<Function>);
}

struct Bound {
    // Dropped first: waits for who reads, or tests.
    _files: Option<Pin<KBox<Scope<debugfs::View>>>>,
    function: Arc<Function>,
}

struct List {
    bound: KVec<Bound>,
    subscriber: Option<Arc<dyn Subscriber>>,
}

/// The functions that are bound.
#[pin_data]
pub(crate) struct Functions {
    dir: Dir<crate::LocalModule>,
    #[pin]
    list: Mutex<List>,
}

impl Functions {
    /// Is any function bound?
    pub(crate) fn any(&self) -> bool {
        !self.list.lock().bound.is_empty()
    }

    /// Who is told of functions that come and go, those that are there already included.
    pub(crate) fn subscribe(&self, subscriber: Arc<dyn Subscriber>) {
        let mut list = self.list.lock();
        for bound in &list.bound {
            subscriber.arrived(&bound.function);
        }
        list.subscriber = Some(subscriber);
    }

    /// Nobody is told any more; functions that are there leave, as far as the subscriber knows.
    pub(crate) fn unsubscribe(&self) {
        let mut list = self.list.lock();
        if let Some(subscriber) = list.subscriber.take() {
            for bound in &list.bound {
                subscriber.leaving(&bound.function);
            }
        }
    }
}

impl Driver for Functions {
    type Function = Function;

    fn probe(&self, dev: &Device) -> Result<Arc<Function>> {
        if dev.class() != CLASS {
            // With `driver_override` or `new_id` the PCI core asks nobody else.
            dev_err!(
                dev.device(),
                "class {:06x} is not that of an SDXI function ({CLASS:06x}): not bound\n",
                dev.class()
            );
            return Err(ENODEV);
        }
        let function = Function::probe(dev)?;
        // Files are not worth a failure.
        let files = debugfs::files(&self.dir, &function).ok();
        let bound = Bound {
            _files: files,
            function: function.clone(),
        };
        let mut list = self.list.lock();
        if let Err(e) = list.bound.push(bound, GFP_KERNEL) {
            drop(list);
            function.remove();
            return Err(e.into());
        }
        if let Some(subscriber) = &list.subscriber {
            subscriber.arrived(&function);
        }
        Ok(function)
    }

    fn remove(&self, function: Arc<Function>) {
        let bound = {
            let mut list = self.list.lock();
            // What it had has been reported, so that there is nothing to wait for.
            function.remove();
            if let Some(subscriber) = &list.subscriber {
                subscriber.leaving(&function);
            }
            let at = (list.bound.iter()).position(|b| Arc::ptr_eq(&b.function, &function));
            at.and_then(|at| list.bound.remove(at).ok())
        };
        drop(bound);
    }

    fn suspend(function: &Function) {
        function.suspend();
    }

    fn resume(function: &Function) -> Result {
        function.resume()
    }
}

/// The driver, until dropped.
pub(crate) struct Sdxi {
    // Dropped first: every function leaves.
    _registration: Registration<Functions>,
    functions: Arc<Functions>,
}

impl Sdxi {
    /// Registers the driver; its files are below `dir`.
    pub(crate) fn new(
        module: &'static ThisModule,
        dir: &Dir<crate::LocalModule>,
        bind: Bind,
    ) -> Result<Self> {
        let functions = Arc::pin_init(
            pin_init!(Functions {
                dir: dir.subdir(c"functions"),
                list <- new_mutex!(List {
                    bound: KVec::new(),
                    subscriber: None,
                }, "sdxi::Functions::list"),
            }),
            GFP_KERNEL,
        )?;
        let ids: Option<pci::IdTable<()>> = match bind {
            Bind::Override => None,
            Bind::Class => Some(&TABLE),
        };
        let registration = Registration::new(module, DRIVER_C, ids, functions.clone())?;
        Ok(Self {
            _registration: registration,
            functions,
        })
    }

    /// What is bound.
    pub(crate) fn functions(&self) -> &Arc<Functions> {
        &self.functions
    }
}
