// SPDX-License-Identifier: GPL-2.0

//! The driver of SDXI functions (PCI class 0x120100), and their [`migrator`]. Code outside
//! [`migrator`] does not depend on migration.
//!
//! There are other drivers of the class. This one binds the functions that an administrator gives
//! it: a function with its name in `driver_override`, or with `sdxi_bind=1` every function that has
//! no driver.
//!
//! A function has contexts, each with a ring of descriptors. A client subscribes to [`Functions`]
//! to learn of bound functions, leases a context, opens it and submits copies to it.
//! [`context`](crate::sdxi::hw::context) describes how, and [`function`] how functions are started,
//! stopped and recovered meanwhile. `Documentation/sdxi.rst` maps the driver to the standard.
//!
//! [`Functions`] owns the bound functions. A subscriber drops its references to a function in
//! [`Subscriber::leaving()`]; the BARs of the function stay requested until then.
//!
//! Locks: that of the list of functions, then those of a function.

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

/// PCI class code of an SDXI function: processing accelerator, SDXI. Vendor and
/// device IDs do not identify these functions.
const CLASS: u32 = 0x12_01_00;

/// The table that matches the whole class. `pci_device_table!` would create a module alias from it:
/// udev would load the module for the alias, and the driver would race with others of the class.
static TABLE: IdArray<pci::DeviceId, (), 1> =
    IdArray::new_without_index([pci::DeviceId::from_class(CLASS, 0xff_ff_ff)]);

/// The name of the driver.
const DRIVER: &str = "ferry_sdxi";

/// The name of the driver, as the PCI core takes it.
const DRIVER_C: &CStr = c"ferry_sdxi";

/// Policy for binding functions without a `driver_override`, set by the parameter `sdxi_bind`.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(crate) enum Bind {
    /// Binds only functions whose `driver_override` names this driver.
    Override,
    /// Binds all functions of the class that have no driver.
    Class,
}

/// A listener for functions that are bound and unbound.
///
/// # Context
///
/// Methods are called in process context, with the list of functions locked.
pub(crate) trait Subscriber: Send + Sync {
    /// Adds a function that has been bound, or was bound before the subscription.
    fn arrived(&self, function: &Arc<Function>);

    /// Removes a function, since it is unbound or the subscription ends. In the first case the
    /// function has stopped; in the second the subscriber quiesces the contexts that it uses. The
    /// subscriber has no reference to the function when this returns.
    fn leaving(&self, function: &Arc<Function>);
}

/// A bound function, with its files in debugfs.
struct Bound {
    // Dropped first: dropping waits for readers of the files, and for self-tests.
    _files: Option<Pin<KBox<Scope<debugfs::View>>>>,
    function: Arc<Function>,
}

/// State that the lock of the list protects.
struct List {
    bound: KVec<Bound>,
    subscriber: Option<Arc<dyn Subscriber>>,
}

/// The list of bound functions.
#[pin_data]
pub(crate) struct Functions {
    dir: Dir<crate::LocalModule>,
    #[pin]
    list: Mutex<List>,
}

impl Functions {
    /// Returns `true` if a function is bound.
    pub(crate) fn any(&self) -> bool {
        !self.list.lock().bound.is_empty()
    }

    /// Sets the subscriber, and reports the functions that are bound already to it.
    pub(crate) fn subscribe(&self, subscriber: Arc<dyn Subscriber>) {
        let mut list = self.list.lock();
        for bound in &list.bound {
            subscriber.arrived(&bound.function);
        }
        list.subscriber = Some(subscriber);
    }

    /// Removes the subscriber, after reporting every bound function to it as leaving.
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
            // With `driver_override` or `new_id` the PCI core does not compare the class.
            dev_err!(
                dev.device(),
                "class {:06x} is not that of an SDXI function ({CLASS:06x}): not bound\n",
                dev.class()
            );
            return Err(ENODEV);
        }
        let function = Function::probe(dev)?;
        // The function is usable without its files, so their failure does not fail the probe.
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
            // After this all copies of the function have been reported, so `leaving()` does not
            // wait.
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

/// The registration of the driver, which lasts until it is dropped.
pub(crate) struct Sdxi {
    // Dropped first: unbinds every function.
    _registration: Registration<Functions>,
    functions: Arc<Functions>,
}

impl Sdxi {
    /// Registers the driver, with its files in debugfs below `dir`.
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

    /// Returns the list of bound functions.
    pub(crate) fn functions(&self) -> &Arc<Functions> {
        &self.functions
    }
}
