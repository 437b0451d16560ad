// SPDX-License-Identifier: GPL-2.0

//! PCI drivers, with what the `kernel` crate does not have: resets, errors, sleep, shutdown,
//! threaded interrupts that can be woken.
//!
//! C: `include/linux/pci.h`, `include/linux/interrupt.h`.
//!
//! The PCI core calls all of [`Driver`] with the lock of the device held, one at a time.

use super::bus::DeviceId;
use core::{
    marker::PhantomData,
    ptr, //
};
use kernel::{
    bindings,
    device,
    error::{
        from_result,
        to_result, //
    },
    ffi,
    pci,
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    },
    types::Opaque, //
};

/// A PCI function, with a reference to it.
#[derive(Clone)]
pub(crate) struct Device(ARef<pci::Device>);

impl Device {
    /// # Safety
    ///
    /// `pdev` is a valid device.
    unsafe fn from_raw(pdev: *mut bindings::pci_dev) -> Self {
        // SAFETY: `pci::Device` is transparent over `pci_dev`, and the caller has a valid one.
        Self(unsafe { &*pdev.cast::<pci::Device>() }.into())
    }

    pub(crate) fn as_raw(&self) -> *mut bindings::pci_dev {
        ptr::from_ref::<pci::Device>(&self.0).cast_mut().cast()
    }

    /// Returns the kernel's device, for mapping and for messages.
    pub(crate) fn as_raw_device(&self) -> *mut bindings::device {
        // SAFETY: The device is valid, and this only makes a pointer to a field.
        unsafe { &raw mut (*self.as_raw()).dev }
    }

    /// Returns its identity, to be compared.
    pub(crate) fn id(&self) -> DeviceId {
        DeviceId::new(self.as_raw_device())
    }

    /// Returns the device of the `kernel` crate, for messages.
    pub(crate) fn device(&self) -> &device::Device {
        (*self.0).as_ref()
    }

    /// Returns its name, as below `/sys/bus/pci/devices`.
    pub(crate) fn name(&self) -> &CStr {
        self.device().name()
    }

    /// Returns its class, subclass and programming interface, as 24 bits.
    pub(crate) fn class(&self) -> u32 {
        // SAFETY: The device is valid; the word is set before drivers are bound.
        unsafe { (*self.as_raw()).class }
    }

    /// Returns its node, if firmware has set one.
    pub(crate) fn node(&self) -> Option<u32> {
        // SAFETY: The device is valid; the number is set before drivers are bound.
        u32::try_from(unsafe { (*self.as_raw_device()).numa_node }).ok()
    }

    /// Allows accesses to its registers, and DMA with all 64 bits as soon as it may access memory,
    /// which is what [`Self::set_master()`] allows.
    pub(crate) fn enable(&self) -> Result {
        // SAFETY: The device is valid.
        to_result(unsafe { bindings::pci_enable_device_mem(self.as_raw()) })?;
        // SAFETY: The device is valid and enabled; nothing has been mapped for it yet.
        let rc = unsafe { bindings::dma_set_mask_and_coherent(self.as_raw_device(), u64::MAX) };
        to_result(rc).inspect_err(|_| self.disable())
    }

    /// Allows the device to access memory and to send messages.
    ///
    /// # Safety
    ///
    /// All memory that the device accesses from here on stays valid until it has stopped, or has
    /// left.
    pub(crate) unsafe fn set_master(&self) {
        // SAFETY: The device is valid, and enabled.
        unsafe { bindings::pci_set_master(self.as_raw()) };
    }

    /// Reverts [`Self::enable()`] and [`Self::set_master()`]. A device that obeys does no DMA
    /// afterwards.
    pub(crate) fn disable(&self) {
        // SAFETY: The device is valid, and was enabled.
        unsafe {
            bindings::pci_clear_master(self.as_raw());
            bindings::pci_disable_device(self.as_raw());
        }
    }

    /// Returns `true` if its configuration space answers.
    pub(crate) fn is_present(&self) -> bool {
        // SAFETY: The device is valid.
        unsafe { bindings::pci_device_is_present(self.as_raw()) }
    }

    /// Returns `true` if the PCI core has seen it leave.
    pub(crate) fn has_left(&self) -> bool {
        // SAFETY: The device is valid; the word is written once, when it leaves.
        let state = unsafe { ptr::read_volatile(&raw const (*self.as_raw()).error_state) };
        state == bindings::pci_channel_io_perm_failure
    }

    /// Resets the function, unless another task holds the lock of the device. The driver is told
    /// before and afterwards.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if the lock is held, or the error of the reset.
    ///
    /// # Context
    ///
    /// May sleep. The caller holds no lock that the driver needs then.
    pub(crate) fn try_reset(&self) -> Result {
        // SAFETY: The device is valid.
        to_result(unsafe { bindings::pci_try_reset_function(self.as_raw()) })
    }

    /// Resets the function, from within [`Driver::probe()`] or [`Driver::remove()`]. Its
    /// configuration is afterwards what it was before, but that it may not access memory: a reset
    /// that has had no effect must be seen before. The driver is not told: the device has no
    /// [`Driver::Function`] then.
    pub(crate) fn reset_locked(&self) -> Result {
        // SAFETY: The device is valid, and the PCI core holds its lock.
        to_result(unsafe {
            bindings::pci_clear_master(self.as_raw());
            bindings::pci_reset_function_locked(self.as_raw())
        })
    }
}

/// The configuration of a device, to be given back to it after it has lost it.
pub(crate) struct Configuration {
    dev: Device,
    saved: *mut bindings::pci_saved_state,
}

// SAFETY: It owns the memory that it points to.
unsafe impl Send for Configuration {}

impl Configuration {
    /// Stores the present configuration.
    pub(crate) fn save(dev: &Device) -> Result<Self> {
        // SAFETY: The device is valid.
        let saved = unsafe {
            to_result(bindings::pci_save_state(dev.as_raw()))?;
            bindings::pci_store_saved_state(dev.as_raw())
        };
        if saved.is_null() {
            return Err(ENOMEM);
        }
        Ok(Self {
            dev: dev.clone(),
            saved,
        })
    }

    /// Gives it back to the device, if that has lost what it had: it does not answer to accesses to
    /// memory, or must make none itself. Else the configuration is what the PCI core has restored,
    /// which is newer.
    pub(crate) fn restore_if_lost(&self) {
        let needed = (bindings::PCI_COMMAND_MEMORY | bindings::PCI_COMMAND_MASTER) as u16;
        let mut command = 0;
        // SAFETY: The device is valid, and the word is ours.
        let rc = unsafe {
            bindings::pci_read_config_word(
                self.dev.as_raw(),
                bindings::PCI_COMMAND as ffi::c_int,
                &mut command,
            )
        };
        if rc == 0 && command & needed == needed {
            return;
        }
        // SAFETY: The state is that of this device, and loading it does not consume it.
        unsafe {
            if bindings::pci_load_saved_state(self.dev.as_raw(), self.saved) == 0 {
                bindings::pci_restore_state(self.dev.as_raw());
                // The next restore, by any caller, needs one, too.
                bindings::pci_save_state(self.dev.as_raw());
            }
        }
    }
}

impl Drop for Configuration {
    fn drop(&mut self) {
        // SAFETY: From `pci_store_saved_state()`, which allocates it so.
        unsafe { bindings::kfree(self.saved.cast()) };
    }
}

/// The callbacks of the PCI core.
pub(crate) trait Driver: Send + Sync + 'static {
    /// The state of a function that is bound.
    type Function: Send + Sync + 'static;

    /// Binds a function.
    fn probe(&self, dev: &Device) -> Result<Arc<Self::Function>>;

    /// Unbinds a function.
    fn remove(&self, function: Arc<Self::Function>);

    /// Prepares for the loss of the function's state or power, or handles that it has become
    /// unreachable.
    fn suspend(function: &Self::Function);

    /// Continues after the function has been reset, or has power again, or is reachable.
    fn resume(function: &Self::Function) -> Result;
}

/// A driver that is registered, until dropped.
pub(crate) struct Registration<D: Driver> {
    raw: Pin<KBox<Raw<D>>>,
}

#[repr(C)]
struct Raw<D> {
    /// The PCI core leads from a device to this, which is why it comes first.
    raw: Opaque<bindings::pci_driver>,
    driver: Arc<D>,
}

// SAFETY: Any thread may unregister; the driver is `Send` and `Sync`.
unsafe impl<D: Driver> Send for Registration<D> {}
// SAFETY: There is no method that takes `&self`.
unsafe impl<D: Driver> Sync for Registration<D> {}

struct Calls<D>(PhantomData<D>);

impl<D: Driver> Calls<D> {
    const ERRORS: bindings::pci_error_handlers = bindings::pci_error_handlers {
        error_detected: Some(Self::error_detected),
        mmio_enabled: None,
        slot_reset: Some(Self::slot_reset),
        reset_prepare: Some(Self::reset_prepare),
        reset_done: Some(Self::reset_done),
        resume: None,
        cor_error_detected: None,
    };

    /// Calls [`Driver::probe()`].
    ///
    /// # Safety
    ///
    /// The PCI core calls it, for a driver that was registered here.
    unsafe extern "C" fn probe(
        pdev: *mut bindings::pci_dev,
        _id: *const bindings::pci_device_id,
    ) -> ffi::c_int {
        // SAFETY: The core has said which driver it is, which is the first field of a `Raw<D>` that
        // lives as long as it is registered.
        let raw = unsafe { &*(*pdev).driver.cast::<Raw<D>>() };
        // SAFETY: The core passes a valid device.
        let dev = unsafe { Device::from_raw(pdev) };
        from_result(|| {
            let function = raw.driver.probe(&dev)?;
            // SAFETY: The core holds the device's lock, and this word is the driver's.
            unsafe { (*pdev).dev.driver_data = Arc::into_raw(function).cast_mut().cast() };
            Ok(0)
        })
    }

    /// Calls [`Driver::remove()`].
    ///
    /// # Safety
    ///
    /// The PCI core calls it, once after [`Self::probe()`] has said that the device is bound.
    unsafe extern "C" fn remove(pdev: *mut bindings::pci_dev) {
        // SAFETY: As in `probe()`.
        let raw = unsafe { &*(*pdev).driver.cast::<Raw<D>>() };
        // SAFETY: The core holds the device's lock.
        let data = unsafe { ptr::replace(&raw mut (*pdev).dev.driver_data, ptr::null_mut()) };
        // SAFETY: It is what `probe()` has stored, and no later callback finds it there.
        raw.driver
            .remove(unsafe { Arc::from_raw(data.cast::<D::Function>()) });
    }

    /// Returns the state of the function that is bound to the device, if one is.
    ///
    /// # Safety
    ///
    /// The PCI core holds the device's lock for as long as `'a`, and the driver is `D`.
    unsafe fn function<'a>(pdev: *mut bindings::pci_dev) -> Option<&'a D::Function> {
        // SAFETY: What is there was stored by `probe()` and is taken by `remove()`, both under the
        // device's lock.
        unsafe { (*pdev).dev.driver_data.cast::<D::Function>().as_ref() }
    }

    /// Calls [`Driver::suspend()`].
    ///
    /// # Safety
    ///
    /// The PCI core calls it, with the device's lock held.
    unsafe extern "C" fn reset_prepare(pdev: *mut bindings::pci_dev) {
        // SAFETY: As the caller promises.
        if let Some(function) = unsafe { Self::function(pdev) } {
            D::suspend(function);
        }
    }

    /// Calls [`Driver::resume()`].
    ///
    /// # Safety
    ///
    /// The PCI core calls it, with the device's lock held.
    unsafe extern "C" fn reset_done(pdev: *mut bindings::pci_dev) {
        // SAFETY: As the caller promises.
        if let Some(function) = unsafe { Self::function(pdev) } {
            // The driver has said so.
            let _ = D::resume(function);
        }
    }

    /// Calls [`Driver::suspend()`].
    ///
    /// # Safety
    ///
    /// The PCI core calls it, with the device's lock held.
    unsafe extern "C" fn error_detected(
        pdev: *mut bindings::pci_dev,
        state: bindings::pci_channel_state_t,
    ) -> bindings::pci_ers_result_t {
        // SAFETY: As the caller promises.
        unsafe { Self::reset_prepare(pdev) };
        if state == bindings::pci_channel_io_perm_failure {
            bindings::pci_ers_result_PCI_ERS_RESULT_DISCONNECT
        } else {
            bindings::pci_ers_result_PCI_ERS_RESULT_NEED_RESET
        }
    }

    /// Calls [`Driver::resume()`].
    ///
    /// # Safety
    ///
    /// The PCI core calls it, with the device's lock held.
    unsafe extern "C" fn slot_reset(pdev: *mut bindings::pci_dev) -> bindings::pci_ers_result_t {
        // SAFETY: As the caller promises.
        match unsafe { Self::function(pdev) }.map(D::resume) {
            Some(Ok(())) | None => bindings::pci_ers_result_PCI_ERS_RESULT_RECOVERED,
            Some(Err(_)) => bindings::pci_ers_result_PCI_ERS_RESULT_DISCONNECT,
        }
    }

    /// Calls [`Driver::suspend()`].
    ///
    /// # Safety
    ///
    /// The PCI core calls it, with the device's lock held.
    unsafe extern "C" fn suspend(
        pdev: *mut bindings::pci_dev,
        _state: bindings::pm_message_t,
    ) -> ffi::c_int {
        // SAFETY: As the caller promises.
        unsafe { Self::reset_prepare(pdev) };
        0
    }

    /// Calls [`Driver::resume()`].
    ///
    /// # Safety
    ///
    /// The PCI core calls it, with the device's lock held.
    unsafe extern "C" fn resume(pdev: *mut bindings::pci_dev) -> ffi::c_int {
        // SAFETY: As the caller promises.
        unsafe { Self::reset_done(pdev) };
        0
    }
}

impl<D: Driver> Registration<D> {
    /// Registers a driver, and binds it to what there is. Without a table of devices that is what
    /// an administrator says: `driver_override`, or `new_id`.
    pub(crate) fn new(
        module: &'static ThisModule,
        name: &'static CStr,
        ids: Option<pci::IdTable<()>>,
        driver: Arc<D>,
    ) -> Result<Self> {
        let raw = KBox::pin(
            Raw {
                raw: Opaque::new(bindings::pci_driver {
                    name: name.as_char_ptr(),
                    id_table: ids.map_or(ptr::null(), |ids| ids.as_ptr()),
                    probe: Some(Calls::<D>::probe),
                    remove: Some(Calls::<D>::remove),
                    suspend: Some(Calls::<D>::suspend),
                    resume: Some(Calls::<D>::resume),
                    shutdown: Some(Calls::<D>::reset_prepare),
                    err_handler: &Calls::<D>::ERRORS,
                    ..bindings::pci_driver::default()
                }),
                driver,
            },
            GFP_KERNEL,
        )?;
        // SAFETY: The structure stays where it is until `drop()` has unregistered it, all in it is
        // static or lives as long, and the functions are the ones for a `Raw<D>`.
        to_result(unsafe {
            bindings::__pci_register_driver(raw.raw.get(), module.as_ptr(), name.as_char_ptr())
        })?;
        Ok(Self { raw })
    }
}

impl<D: Driver> Drop for Registration<D> {
    fn drop(&mut self) {
        // SAFETY: Registered by `new()`. Returns when every device has been removed.
        unsafe { bindings::pci_unregister_driver(self.raw.raw.get()) };
    }
}

/// The way in which a device gets its vectors.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Supply {
    /// The first is taken at once, each other one when its interrupt is requested (MSI-X).
    Each,
    /// All are taken at once, as the platform, or MSI, has no other way.
    All,
}

/// MSI-X or MSI vectors of a device, until dropped.
pub(crate) struct Vectors {
    dev: Device,
    len: u32,
    supply: Supply,
}

impl Vectors {
    /// Finds as many as the device has, up to `max`, and takes only the first from the platform if
    /// that can be.
    pub(crate) fn new(dev: &Device, max: u32) -> Result<Arc<Self>> {
        // SAFETY: The device is valid.
        let supply = match unsafe { bindings::pci_msix_can_alloc_dyn(dev.as_raw()) } {
            true => Supply::Each,
            false => Supply::All,
        };
        let (types, now) = match supply {
            Supply::Each => (bindings::PCI_IRQ_MSIX, 1),
            Supply::All => (bindings::PCI_IRQ_MSIX | bindings::PCI_IRQ_MSI, max),
        };
        // SAFETY: The device is valid; it checks its other arguments.
        let got = unsafe { bindings::pci_alloc_irq_vectors(dev.as_raw(), 1, now, types) };
        to_result(got)?;
        // From here on they are given back.
        let mut vectors = Self {
            dev: dev.clone(),
            len: u32::try_from(got)?,
            supply,
        };
        if supply == Supply::Each {
            // SAFETY: The device is valid.
            let all = unsafe { bindings::pci_msix_vec_count(dev.as_raw()) };
            to_result(all)?;
            vectors.len = u32::try_from(all)?.min(max);
        }
        Ok(Arc::new(vectors, GFP_KERNEL)?)
    }

    /// Returns the number of vectors.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }
}

impl Drop for Vectors {
    fn drop(&mut self) {
        // SAFETY: Allocated by `new()`, and every `Vector` of them has been dropped before: it
        // holds a reference.
        unsafe { bindings::pci_free_irq_vectors(self.dev.as_raw()) };
    }
}

/// A vector that has been taken from the platform, until dropped.
struct Vector {
    vectors: Arc<Vectors>,
    index: u32,
    number: u32,
}

impl Vector {
    /// Takes the vector of this index in the device's table, which has not been taken.
    fn new(vectors: &Arc<Vectors>, index: u32) -> Result<Self> {
        if index >= vectors.len {
            return Err(EINVAL);
        }
        let dev = vectors.dev.as_raw();
        let number = match vectors.supply {
            Supply::Each if index > 0 => {
                // SAFETY: The device is valid, and has MSI-X enabled, as `Vectors::new()` has done
                // it; no affinity is wanted.
                let map = unsafe { bindings::pci_msix_alloc_irq_at(dev, index, ptr::null()) };
                to_result(map.index)?;
                map.virq
            }
            // SAFETY: The device is valid.
            _ => unsafe { bindings::pci_irq_vector(dev, index) },
        };
        Ok(Self {
            vectors: vectors.clone(),
            index,
            number: u32::try_from(number).map_err(|_| EINVAL)?,
        })
    }
}

impl Drop for Vector {
    fn drop(&mut self) {
        if self.vectors.supply == Supply::All || self.index == 0 {
            return;
        }
        let map = bindings::msi_map {
            index: self.index as ffi::c_int,
            virq: self.number as ffi::c_int,
        };
        // SAFETY: Allocated by `new()`, and no handler is registered for it any more: `Irq` owns
        // it.
        unsafe { bindings::pci_msix_free_irq(self.vectors.dev.as_raw(), map) };
    }
}

/// The handler of an interrupt.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Handles the interrupt. Returns `true` if its thread is to run.
    ///
    /// # Context
    ///
    /// Interrupt context.
    fn interrupt(&self) -> bool;

    /// Does the work of the thread.
    ///
    /// # Context
    ///
    /// May sleep.
    fn thread(&self);
}

/// An interrupt with its handler, until dropped; waits then for the handler to return.
pub(crate) struct Irq<H: Handler> {
    // Dropped when `drop()` has freed the interrupt.
    vector: Vector,
    handler: Arc<H>,
}

/// Calls [`Handler::interrupt()`].
///
/// # Safety
///
/// `cookie` is an `H` that lives until the interrupt has been freed.
unsafe extern "C" fn interrupt<H: Handler>(
    _irq: ffi::c_int,
    cookie: *mut ffi::c_void,
) -> bindings::irqreturn_t {
    // SAFETY: `Irq` holds a reference until it has freed the interrupt.
    if unsafe { &*cookie.cast::<H>() }.interrupt() {
        bindings::irqreturn::IRQ_WAKE_THREAD
    } else {
        bindings::irqreturn::IRQ_HANDLED
    }
}

/// Calls [`Handler::thread()`].
///
/// # Safety
///
/// As for [`interrupt()`].
unsafe extern "C" fn thread<H: Handler>(
    _irq: ffi::c_int,
    cookie: *mut ffi::c_void,
) -> bindings::irqreturn_t {
    // SAFETY: As in `interrupt()`.
    unsafe { &*cookie.cast::<H>() }.thread();
    bindings::irqreturn::IRQ_HANDLED
}

impl<H: Handler> Irq<H> {
    /// Takes the n-th vector, and has its interrupts handled. May sleep.
    pub(crate) fn new(
        vectors: &Arc<Vectors>,
        n: u32,
        name: &'static CStr,
        handler: Arc<H>,
    ) -> Result<Self> {
        let vector = Vector::new(vectors, n)?;
        // SAFETY: The functions are the ones for an `H`, which lives until `drop()` has freed the
        // interrupt, as the name does.
        to_result(unsafe {
            bindings::request_threaded_irq(
                vector.number,
                Some(interrupt::<H>),
                Some(thread::<H>),
                0,
                name.as_char_ptr(),
                Arc::as_ptr(&handler).cast_mut().cast(),
            )
        })?;
        Ok(Self { vector, handler })
    }

    /// Returns a waker of the thread.
    pub(crate) fn waker(&self) -> Waker {
        Waker {
            number: self.vector.number,
            cookie: Arc::as_ptr(&self.handler) as usize,
        }
    }
}

impl<H: Handler> Drop for Irq<H> {
    fn drop(&mut self) {
        // SAFETY: Requested by `new()` with this cookie.
        unsafe {
            bindings::free_irq(
                self.vector.number,
                Arc::as_ptr(&self.handler).cast_mut().cast(),
            );
        }
    }
}

/// Wakes the thread of an interrupt, in any context. It is to be dropped before the [`Irq`]; the
/// kernel does nothing for an interrupt that has been freed.
#[derive(Clone, Copy)]
pub(crate) struct Waker {
    number: u32,
    cookie: usize,
}

impl Waker {
    /// Wakes the thread.
    pub(crate) fn wake(self) {
        // SAFETY: The cookie is only compared with that of the handlers that there are.
        unsafe { bindings::irq_wake_thread(self.number, self.cookie as *mut ffi::c_void) };
    }
}
