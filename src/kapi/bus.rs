// SPDX-License-Identifier: GPL-2.0

//! Devices that come and go on a bus, and a machine that sleeps.
//!
//! C: bus notifiers (`include/linux/device/bus.h`), PM and reboot notifiers.
//!
//! Takes no locks. Watchers are called with the lock of the device held.

use ferry_bindings as fb;
use kernel::{
    bindings,
    error::to_result,
    ffi,
    prelude::*,
    sync::Arc,
    types::Opaque, //
};

/// A device, to be compared.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(crate) struct DeviceId(*const bindings::device);

impl DeviceId {
    /// Creates it from the kernel's object.
    pub(crate) fn new(device: *const bindings::device) -> Self {
        Self(device)
    }

    /// Returns a number that no other device has while this one lives; never 0.
    pub(crate) fn id(self) -> usize {
        self.0 as usize
    }

    /// Returns the kernel's object, which may have gone.
    pub(crate) fn as_ptr(self) -> *const bindings::device {
        self.0
    }
}

/// A bus, to be compared.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(crate) struct Bus(*const bindings::bus_type);

// SAFETY: Outside `Watch::new()`, which gets it from a channel, it is only compared.
unsafe impl Send for Bus {}
// SAFETY: As for `Send`.
unsafe impl Sync for Bus {}

impl Bus {
    /// Creates it from the kernel's object.
    ///
    /// # Safety
    ///
    /// The bus lives for as long as it is watched.
    pub(crate) unsafe fn new(bus: *const bindings::bus_type) -> Self {
        Self(bus)
    }
}

/// Something that happens to devices, or to the machine.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The driver of this device is about to be unbound.
    Unbind(DeviceId),
    /// The driver of this device has been unbound.
    Unbound(DeviceId),
    /// A driver has been bound to this device.
    Bound(DeviceId),
    /// The machine is about to sleep, or to shut down.
    Halt,
    /// The machine has woken.
    Resume,
}

/// A receiver of events.
pub(crate) trait Watcher: Send + Sync + 'static {
    /// Handles an event.
    ///
    /// # Context
    ///
    /// May sleep. For devices, the lock of the device is held.
    fn event(&self, event: Event);
}

/// Tells a [`Watcher`] until dropped.
pub(crate) struct Watch<W: Watcher> {
    inner: KBox<Opaque<fb::ferry_watch>>,
    _watcher: Arc<W>,
}

// SAFETY: Any thread may end it.
unsafe impl<W: Watcher> Send for Watch<W> {}

/// # Safety
///
/// `data` is a `W` that lives until this returns.
unsafe extern "C" fn event<W: Watcher>(
    data: *mut ffi::c_void,
    event: fb::ferry_event,
    device: *mut bindings::device,
) {
    // SAFETY: By the requirement of this function.
    let watcher = unsafe { &*data.cast::<W>() };
    watcher.event(match event {
        fb::ferry_event_FERRY_UNBIND => Event::Unbind(DeviceId(device)),
        fb::ferry_event_FERRY_UNBOUND => Event::Unbound(DeviceId(device)),
        fb::ferry_event_FERRY_BOUND => Event::Bound(DeviceId(device)),
        fb::ferry_event_FERRY_HALT => Event::Halt,
        fb::ferry_event_FERRY_RESUME => Event::Resume,
        _ => return,
    });
}

impl<W: Watcher> Watch<W> {
    /// Watches the devices on a bus, and the machine.
    pub(crate) fn new(bus: Bus, watcher: Arc<W>) -> Result<Self> {
        let inner = KBox::new(Opaque::new(fb::ferry_watch::default()), GFP_KERNEL)?;
        let data = Arc::as_ptr(&watcher).cast_mut().cast();
        // SAFETY: `inner` and the watcher live until `drop()` has ended it, and so does the bus, by
        // the requirement of `Bus::new()`.
        to_result(unsafe { fb::ferry_watch(inner.get(), bus.0, Some(event::<W>), data) })?;
        Ok(Self {
            inner,
            _watcher: watcher,
        })
    }
}

impl<W: Watcher> Drop for Watch<W> {
    fn drop(&mut self) {
        // SAFETY: Begun by `new()`. Waits for calls of the watcher.
        unsafe { fb::ferry_unwatch(self.inner.get()) };
    }
}
