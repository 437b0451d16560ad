// SPDX-License-Identifier: GPL-2.0

//! The migrator `ferry_sdxi`: contexts of all functions that are bound, as channels of an
//! [`engine`].
//!
//! Contexts are taken from the functions in turn, so that a few contexts are spread over many
//! functions, and each is tested by a copy. A function that is bound adds its contexts. A function
//! that is unbound has stopped before its contexts are given back. A function that is reset keeps
//! its contexts: their outstanding copies fail, and they run again when the function does.
//!
//! Locks: that of [`Functions`], then that of [`manager`](crate::engine::manager), then
//! [`FunctionList::list`].

use crate::{
    engine::{
        self,
        channel::Queue,
        manager::{
            ChannelManager,
            ChannelSource, //
        },
    },
    kapi::log,
    migrator::{
        Keep,
        Made, //
    },
    names::Name,
    sdxi::{
        function::Function,
        hw::{
            context::{
                Context,
                ContextLease, //
            },
            queue::ContextQueue, //
        },
        selftest::{
            self,
            Outcome, //
        },
        Functions,
        Subscriber, //
    },
    shared::Shared, //
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
};

/// The name of the migrator, which is that of the driver, as with migrators of dmaengine. It is not
/// `sdxi`, as a dmaengine driver of the same functions may have that name.
pub(crate) const NAME: &str = super::DRIVER;

/// Length of the copy that tests a context, in bytes: one page, which every function can copy.
const TEST_BYTES: usize = 4096;

/// The list of functions whose contexts the migrator may use.
#[pin_data]
struct FunctionList {
    #[pin]
    list: Mutex<KVec<Arc<Function>>>,
}

impl FunctionList {
    /// Returns up to `most` contexts that are not leased and pass a test copy.
    ///
    /// # Errors
    ///
    /// The error of `queue_of()` if DMA mappings of a function would bounce, else that of an
    /// allocation or a test that could not be made.
    ///
    /// # Context
    ///
    /// May sleep, for seconds if a context does not answer.
    fn find(&self, most: usize) -> Result<KVec<KBox<dyn Queue>>> {
        let mut functions = KVec::new();
        for function in self.list.lock().iter() {
            functions.push(function.clone(), GFP_KERNEL)?;
        }
        let mut queues = KVec::new();
        let highest = functions.iter().map(|f| f.contexts().len()).max();
        for n in 0..highest.unwrap_or(0) {
            let mut i = 0;
            while let Some(function) = functions.get(i) {
                if queues.len() >= most {
                    return Ok(queues);
                }
                match function.contexts().get(n).map(|c| queue_of(function, c)) {
                    Some(Ok(Some(queue))) => queues.push(queue, GFP_KERNEL)?,
                    Some(Ok(None)) | None => {}
                    Some(Err(e)) if e == EIO => {
                        // The test has timed out once; the function's other contexts would
                        // only time out one after the other.
                        let _ = functions.remove(i);
                        continue;
                    }
                    Some(Err(e)) => return Err(e),
                }
                i += 1;
            }
        }
        Ok(queues)
    }
}

/// Returns the queue of a context, or `None` if the context is leased.
///
/// # Errors
///
/// `EIO` if the test copy fails.
fn queue_of(function: &Arc<Function>, context: &Arc<Context>) -> Result<Option<KBox<dyn Queue>>> {
    let dev = function.dev();
    if ContextQueue::bounces(dev) {
        return Err(engine::refuse_bounces(dev.name().to_str()?));
    }
    let Some(lease) = ContextLease::new(context) else {
        return Ok(None);
    };
    let tested = selftest::run(function, &lease, 1, TEST_BYTES);
    if !tested.as_ref().is_ok_and(Outcome::is_good) {
        function.release(&lease);
    }
    if !tested?.is_good() {
        if log::allowed() {
            pr_warn!(
                "{}: context {} failed its test copy: it and later contexts are not used\n",
                dev.name().to_str()?,
                context.number()
            );
        }
        return Err(EIO);
    }
    let queue = ContextQueue::new(dev, lease, function.clone(), function.limits.bytes());
    Ok(Some(KBox::new(queue, GFP_KERNEL)?))
}

/// The source of channels for the manager: contexts of the functions in the list.
struct Contexts(Arc<FunctionList>);

impl ChannelSource for Contexts {
    fn find(&self, most: usize) -> Result<KVec<KBox<dyn Queue>>> {
        self.0.find(most)
    }
}

/// The subscriber that passes functions on to the manager.
struct Notifier {
    manager: Arc<ChannelManager>,
    functions: Arc<FunctionList>,
}

impl Subscriber for Notifier {
    fn arrived(&self, function: &Arc<Function>) {
        let pushed = (self.functions.list.lock()).push(function.clone(), GFP_KERNEL);
        if pushed.is_ok() {
            self.manager.rescan_later();
        }
    }

    fn leaving(&self, function: &Arc<Function>) {
        self.functions
            .list
            .lock()
            .retain(|f| !Arc::ptr_eq(f, function));
        let id = function.dev().id();
        self.manager.device_removing(id);
        self.manager.rescan_later();
    }
}

/// The subscription of the manager to functions, which ends when it is dropped.
struct Subscription(Arc<Functions>);

impl Subscription {
    fn new(functions: &Arc<Functions>, notifier: Arc<Notifier>) -> Result<KBox<Self>> {
        let subscription = KBox::new(Self(functions.clone()), GFP_KERNEL)?;
        functions.subscribe(notifier);
        Ok(subscription)
    }
}

impl Keep for Subscription {}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.0.unsubscribe();
    }
}

/// Creates the migrator of the bound functions.
///
/// # Errors
///
/// `ENODEV` if no context is free and passes the test.
pub(crate) fn make(functions: &Arc<Functions>, shared: &Arc<Shared>) -> Result<Made> {
    let most = usize::try_from(shared.knobs.dma_channels()).unwrap_or(usize::MAX);
    let function_list = Arc::pin_init(
        pin_init!(FunctionList {
            list <- new_mutex!(KVec::new(), "sdxi::FunctionList::list"),
        }),
        GFP_KERNEL,
    )?;
    let source = KBox::new(Contexts(function_list.clone()), GFP_KERNEL)?;
    let name = Name::new(NAME.as_bytes()).ok_or(EINVAL)?;
    let manager = ChannelManager::new(name, most, source)?;
    let notifier = Notifier {
        manager: manager.clone(),
        functions: function_list.clone(),
    };
    let subscription = Subscription::new(functions, Arc::new(notifier, GFP_KERNEL)?)?;
    let queues = function_list.find(most)?;
    if queues.is_empty() {
        return Err(ENODEV);
    }
    for queue in queues {
        manager.add(queue);
    }
    engine::make(manager, subscription, shared)
}
