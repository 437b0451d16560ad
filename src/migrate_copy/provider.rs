// SPDX-License-Identifier: GPL-2.0

//! The shim in the kernel: registration with it, and its callbacks.
//!
//! C: `include/linux/migrate_copy.h`, `mm/migrate_copy.c` (from `src/shim/`).
//!
//! Takes no locks. Registration takes the CPU hotplug lock and waits for SRCU.

use crate::migrate_copy::batch::{
    borrow,
    folio::FolioPair,
    lend,
    take_back,
    Call,
    CopyOutcome,
    MigrateCopyBatch,
    Settled, //
};
use crate::migrate_copy::spread::SpreadCall;
use core::{
    marker::PhantomData,
    pin::Pin,
    ptr,
    ptr::NonNull, //
};
use ferry_bindings as fb;
use ferry_core::class::Route;
use kernel::{
    bindings,
    error::to_result,
    ffi,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        ArcBorrow,
        UniqueArc, //
    },
    types::Opaque, //
};

/// The callbacks of the shim.
pub(crate) trait Provider: Send + Sync + Sized + 'static {
    /// The batch object that the shim holds.
    type Batch: AsRef<MigrateCopyBatch> + Unpin + Send + Sync + 'static;

    /// Takes an object from the pool for a batch that is about to be filled, with this folio first;
    /// or declines.
    fn begin(&self, first: &FolioPair, call: Call) -> Option<Pin<UniqueArc<Self::Batch>>>;

    /// Makes a filled batch known to those that copy and returns it, or keeps it: then it is
    /// declined, and the shim has nothing to do with it any more.
    fn submit(&self, batch: Pin<UniqueArc<Self::Batch>>) -> Option<Arc<Self::Batch>>;

    /// Takes back a batch that will not be offered to [`Provider::submit()`].
    fn abandon(&self, batch: Pin<UniqueArc<Self::Batch>>);

    /// Settles entry `i`, whose turn to move has come.
    fn settle(&self, batch: ArcBorrow<'_, Self::Batch>, i: u32, help: bool) -> Settled;

    /// Ends a batch whose entries have all been settled.
    fn finish(&self, batch: Arc<Self::Batch>);

    /// Copies one folio in place, for this call of `migrate_pages()`.
    fn copy_now(&self, folio: &FolioPair, call: Call) -> CopyOutcome;

    /// Offers a call with more than one batch to workers, whose first folio is on node `from`, and
    /// whose destinations are on node `to`. Returns `false` if there is no worker for it.
    fn spread(&self, spread: &SpreadCall, route: Route, call: Call) -> bool;
}

/// Returns the provider that was registered.
///
/// # Safety
///
/// `ctx` is what [`Registration::new()`] registered for a `P`, and the caller is one of its
/// callbacks.
unsafe fn provider<'a, P: Provider>(ctx: *mut ffi::c_void) -> &'a P {
    // SAFETY: `Registration` keeps the `P` alive until it has unregistered, which waits for all
    // callbacks.
    unsafe { &*ctx.cast::<P>() }
}

/// Calls [`Provider::begin()`].
///
/// # Safety
///
/// `ctx` is the `P` that was registered; the folios are locked and referenced by the caller until
/// this returns.
unsafe extern "C" fn begin<P: Provider>(
    ctx: *mut ffi::c_void,
    dst: *mut bindings::folio,
    src: *mut bindings::folio,
    mode: ffi::c_uint,
    reason: ffi::c_uint,
) -> *mut fb::migrate_copy_batch {
    // SAFETY: By the requirement of this function.
    match unsafe { provider::<P>(ctx) }.begin(&FolioPair { dst, src }, Call { mode, reason }) {
        Some(batch) => lend::<P::Batch>(batch.into()),
        None => ptr::null_mut(),
    }
}

/// Calls [`Provider::submit()`].
///
/// # Safety
///
/// `ctx` is the `P` that was registered; `batch` is from [`begin()`], has been filled, and was not
/// submitted before.
unsafe extern "C" fn submit<P: Provider>(
    ctx: *mut ffi::c_void,
    batch: *mut fb::migrate_copy_batch,
) -> ffi::c_int {
    // SAFETY: The shim passes what `begin::<P>()` gave it.
    let Some(arc) = (unsafe { take_back::<P::Batch>(batch) }) else {
        return EINVAL.to_errno();
    };
    // It was unique when it was lent, and the shim does not share it.
    let Some(unique) = Arc::into_unique_or_drop(arc) else {
        return EINVAL.to_errno();
    };
    // SAFETY: By the requirement of this function.
    match unsafe { provider::<P>(ctx) }.submit(unique) {
        Some(shared) => {
            lend::<P::Batch>(shared);
            0
        }
        None => EAGAIN.to_errno(),
    }
}

/// Calls [`Provider::abandon()`].
///
/// # Safety
///
/// `ctx` is the `P` that was registered; `batch` is from [`begin()`], was not submitted, and is not
/// used afterwards.
unsafe extern "C" fn abandon<P: Provider>(
    ctx: *mut ffi::c_void,
    batch: *mut fb::migrate_copy_batch,
) {
    // SAFETY: The shim passes what `begin::<P>()` gave it.
    if let Some(unique) = unsafe { take_back::<P::Batch>(batch) }.and_then(Arc::into_unique_or_drop)
    {
        // SAFETY: By the requirement of this function.
        unsafe { provider::<P>(ctx) }.abandon(unique);
    }
}

/// Calls [`Provider::settle()`].
///
/// # Safety
///
/// `ctx` is the `P` that was registered; `batch` has been submitted and not finished.
unsafe extern "C" fn settle<P: Provider>(
    ctx: *mut ffi::c_void,
    batch: *mut fb::migrate_copy_batch,
    i: ffi::c_uint,
    help: bool,
) -> ffi::c_int {
    // SAFETY: By the requirements of this function, for either.
    let (provider, batch) = unsafe { (provider::<P>(ctx), borrow::<P::Batch>(batch)) };
    provider.settle(batch, i, help).code
}

/// Calls [`Provider::finish()`].
///
/// # Safety
///
/// `ctx` is the `P` that was registered; `batch` has been submitted, and is not used afterwards.
unsafe extern "C" fn finish<P: Provider>(
    ctx: *mut ffi::c_void,
    batch: *mut fb::migrate_copy_batch,
) {
    // SAFETY: The shim passes a batch that has been submitted, and does not use it afterwards.
    if let Some(arc) = unsafe { take_back::<P::Batch>(batch) } {
        // SAFETY: By the requirement of this function.
        unsafe { provider::<P>(ctx) }.finish(arc);
    }
}

/// Calls [`Provider::copy_now()`].
///
/// # Safety
///
/// `ctx` is the `P` that was registered; the folios are locked and referenced by the caller until
/// this returns.
unsafe extern "C" fn copy_now<P: Provider>(
    ctx: *mut ffi::c_void,
    dst: *mut bindings::folio,
    src: *mut bindings::folio,
    mode: ffi::c_uint,
    reason: ffi::c_uint,
) -> ffi::c_int {
    // SAFETY: By the requirement of this function.
    let provider = unsafe { provider::<P>(ctx) };
    provider
        .copy_now(&FolioPair { dst, src }, Call { mode, reason })
        .0
}

/// Calls [`Provider::spread()`].
///
/// # Safety
///
/// `ctx` is the `P` that was registered; the caller has references to `spread` and `src` until this
/// returns.
unsafe extern "C" fn spread<P: Provider>(
    ctx: *mut ffi::c_void,
    spread: *mut fb::migrate_copy_spread,
    src: *mut bindings::folio,
    nid: ffi::c_int,
    mode: ffi::c_uint,
    reason: ffi::c_uint,
) -> bool {
    let Some(spread) = NonNull::new(spread) else {
        return false;
    };
    // SAFETY: By the requirements of this function.
    let (provider, spread, from) = unsafe {
        (
            provider::<P>(ctx),
            SpreadCall::new(spread),
            fb::ferry_folio_nid(src),
        )
    };
    let to = if nid < 0 { from } else { nid };
    provider.spread(&spread, Route { from, to }, Call { mode, reason })
}

/// A provider that is registered with the shim, until dropped.
pub(crate) struct Registration<P: Provider> {
    ops: KBox<Opaque<fb::migrate_copy_ops>>,
    _provider: Arc<P>,
    _calls: PhantomData<P>,
}

// SAFETY: Any thread may unregister; the provider is `Send` and `Sync`.
unsafe impl<P: Provider> Send for Registration<P> {}
// SAFETY: There is no method that takes `&self`.
unsafe impl<P: Provider> Sync for Registration<P> {}

impl<P: Provider> Registration<P> {
    /// Registers the provider.
    ///
    /// # Errors
    ///
    /// `EBUSY` if one of another module is registered.
    ///
    /// # Context
    ///
    /// May sleep.
    pub(crate) fn new(provider: Arc<P>) -> Result<Self> {
        let ops = KBox::new(
            Opaque::new(fb::migrate_copy_ops {
                begin: Some(begin::<P>),
                submit: Some(submit::<P>),
                abandon: Some(abandon::<P>),
                settle: Some(settle::<P>),
                finish: Some(finish::<P>),
                copy_now: Some(copy_now::<P>),
                spread: Some(spread::<P>),
            }),
            GFP_KERNEL,
        )?;
        let ctx = Arc::as_ptr(&provider).cast_mut().cast();
        // SAFETY: `ops` and `ctx` live until `drop()` has unregistered them, and the functions are
        // the ones for a `ctx` of type `P`.
        to_result(unsafe { fb::migrate_copy_register(ops.get(), ctx) })?;
        Ok(Self {
            ops,
            _provider: provider,
            _calls: PhantomData,
        })
    }
}

impl<P: Provider> Drop for Registration<P> {
    fn drop(&mut self) {
        // SAFETY: Registered by `new()`. Waits for all calls that use `ops` or the provider.
        unsafe { fb::migrate_copy_unregister(self.ops.get()) };
    }
}

/// The size of a batch of `migrate_pages()`: most folios, and most base pages.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(crate) struct BatchLimits {
    /// Most folios; 0 for the stock value.
    pub(crate) folios: u32,
    /// Most base pages; 0 for the stock value.
    pub(crate) pages: u32,
}

impl BatchLimits {
    /// The limits of the stock kernel.
    pub(crate) const STOCK: Self = Self {
        folios: 0,
        pages: 0,
    };
}

/// The arguments of the last [`set_limits()`], which the shim has. Written and read with the lock
/// of the registry held, but for the end of the module; they pair with nothing.
static FOLIOS: Atomic<u32> = Atomic::new(BatchLimits::STOCK.folios);
static PAGES: Atomic<u32> = Atomic::new(BatchLimits::STOCK.pages);

/// Sets the size of a batch of `migrate_pages()`.
pub(crate) fn set_limits(limits: BatchLimits) {
    FOLIOS.store(limits.folios, Relaxed);
    PAGES.store(limits.pages, Relaxed);
    // SAFETY: Takes any values.
    unsafe { fb::migrate_copy_set_limits(limits.folios, limits.pages) };
}

/// Returns the size of a batch of `migrate_pages()` that was set last.
pub(crate) fn limits() -> BatchLimits {
    BatchLimits {
        folios: FOLIOS.load(Relaxed),
        pages: PAGES.load(Relaxed),
    }
}

/// Returns the payer for the work of workers for the caller: a number for its cgroup, 0 for the
/// root.
pub(crate) fn payer() -> u64 {
    // SAFETY: Always allowed.
    unsafe { fb::ferry_payer() }
}

/// Charges the cgroup of the caller for `ns` nanoseconds that workers spent for it.
pub(crate) fn charge(ns: u64) {
    if ns != 0 {
        // SAFETY: In process context, as the mover is.
        unsafe { fb::ferry_charge(ns) };
    }
}
