// SPDX-License-Identifier: GPL-2.0

//! The registers and the doorbells of a function, and the proof that it is quiet.
//!
//! [`Bars`] owns the mapped BARs and keeps the function enabled. Takes no locks.

use crate::kapi::pci::Device;
use core::ptr::NonNull;
use ferry_core::sdxi::{
    registers::{
        ControlRequest,
        FunctionState,
        Register,
        WritableRegister,
        REGISTERS, //
    },
    table::{
        L1_ENTRIES,
        PAGE, //
    },
};
use kernel::{
    bindings,
    error::to_result,
    ffi,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        Arc, //
    },
};

const REGISTER_BAR: ffi::c_int = 0;
const DOORBELL_BAR: ffi::c_int = 2;

/// A BAR that is requested and mapped.
pub(super) struct Bar {
    dev: Device,
    number: ffi::c_int,
    at: NonNull<ffi::c_void>,
    len: usize,
}

impl Bar {
    fn map(dev: &Device, number: ffi::c_int, least: usize) -> Result<Self> {
        let pdev = dev.as_raw();
        // SAFETY: The device is valid, and so is the number of the BAR.
        let len = unsafe { bindings::pci_resource_len(pdev, number) };
        let len = usize::try_from(len)?;
        // SAFETY: As above; there are more resources than BARs.
        let flags = unsafe { (*pdev).resource[number as usize].flags };
        if len < least || flags & bindings::IORESOURCE_MEM as ffi::c_ulong == 0 {
            return Err(ENODEV);
        }
        // SAFETY: As above; the name is static.
        to_result(unsafe {
            bindings::pci_request_region(pdev, number, c"ferry_sdxi".as_char_ptr())
        })?;
        // SAFETY: As above.
        let at = NonNull::new(unsafe { bindings::pci_iomap(pdev, number, 0) });
        let Some(at) = at else {
            // SAFETY: Requested above.
            unsafe { bindings::pci_release_region(pdev, number) };
            return Err(ENOMEM);
        };
        Ok(Self {
            dev: dev.clone(),
            number,
            at,
            len,
        })
    }

    /// Returns the address of the 64 bits at `offset`, or `None` outside of the BAR or if
    /// unaligned.
    fn word(&self, offset: usize) -> Option<*mut ffi::c_void> {
        let inside = offset.checked_add(8).is_some_and(|end| end <= self.len);
        (inside && offset % 8 == 0).then(|| self.at.as_ptr().wrapping_byte_add(offset))
    }

    fn read(&self, offset: usize) -> u64 {
        match self.word(offset) {
            // SAFETY: Inside of what is mapped.
            Some(at) => unsafe { bindings::readq(at) },
            None => u64::MAX,
        }
    }

    pub(super) fn write(&self, offset: usize, value: u64) {
        if let Some(at) = self.word(offset) {
            // SAFETY: Inside of what is mapped.
            unsafe { bindings::writeq(value, at) };
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        // SAFETY: Mapped and requested by `map()`.
        unsafe {
            bindings::pci_iounmap(self.dev.as_raw(), self.at.as_ptr());
            bindings::pci_release_region(self.dev.as_raw(), self.number);
        }
    }
}

/// The registers and doorbells of an enabled function, which is disabled when they are dropped.
pub(crate) struct Bars {
    pub(super) registers: Bar,
    doorbells: Bar,
    enabled: Enabled,
    /// Distance between two doorbells in bytes. It is `usize::MAX` until it is known, so that no
    /// doorbell can be written.
    stride: Atomic<usize>,
    /// Set when the function is proven not to access memory, cleared before it is told to run.
    pub(super) quiet: Atomic<bool>,
    /// Progress of the administrative context in stopping each context since its start: one of
    /// [`NOT_STOPPED`], [`STOP_TAKEN`] and [`STOPPED`].
    stops: [Atomic<u32>; L1_ENTRIES],
}

/// No stop of the context has been carried out.
pub(super) const NOT_STOPPED: u32 = 0;
/// A stop has completed, but the context may still be executing descriptors.
pub(super) const STOP_TAKEN: u32 = 1;
/// A wait for the stop has completed after the stop, so the context has stopped.
pub(super) const STOPPED: u32 = 2;

/// An enabled PCI device, which is disabled when this is dropped.
struct Enabled(Device);

impl Drop for Enabled {
    fn drop(&mut self) {
        self.0.disable();
    }
}

// SAFETY: Mappings of registers, which any thread may use.
unsafe impl Send for Bars {}
// SAFETY: As for `Send`, and several at the same time: registers are accessed by single reads and
// writes.
unsafe impl Sync for Bars {}

impl Bars {
    /// Enables the function without access to memory, and maps its BARs.
    pub(crate) fn new(dev: &Device) -> Result<Arc<Self>> {
        dev.enable()?;
        let enabled = Enabled(dev.clone());
        let bars = Self {
            registers: Bar::map(dev, REGISTER_BAR, REGISTERS)?,
            doorbells: Bar::map(dev, DOORBELL_BAR, PAGE)?,
            enabled,
            stride: Atomic::new(usize::MAX),
            quiet: Atomic::new(false),
            stops: [const { Atomic::new(NOT_STOPPED) }; L1_ENTRIES],
        };
        Ok(Arc::new(bars, GFP_KERNEL)?)
    }

    pub(super) fn dev(&self) -> &Device {
        &self.enabled.0
    }

    /// Lets the function access memory and send interrupts.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the function is not proven to have stopped: it could run with tables of a
    /// previous driver.
    pub(crate) fn enable_dma(&self) -> Result {
        if !self.prove_quiet() {
            return Err(EBUSY);
        }
        // SAFETY: It has stopped. It is told to run with tables, rings and logs of this module
        // only, which are freed after it has been proven quiet again.
        unsafe { self.dev().set_master() };
        Ok(())
    }

    /// Sets the distance between doorbells in bytes, and returns the number of doorbells.
    pub(crate) fn set_stride(&self, stride: u32) -> usize {
        let stride = (stride as usize).max(8);
        self.stride.store(stride, Relaxed);
        self.doorbells.len / stride
    }

    /// Reads a register.
    pub(crate) fn read(&self, register: Register) -> u64 {
        self.registers.read(register as usize)
    }

    /// Writes a register that holds no address.
    pub(crate) fn write(&self, register: WritableRegister, value: u64) {
        self.registers.write(register as usize, value);
    }

    /// Returns the state of the function.
    #[doc(alias = "MMIO_STS0")]
    pub(crate) fn state(&self) -> FunctionState {
        FunctionState::of(self.read(Register::Sts0))
    }

    /// Writes a request to the control register of the function.
    #[doc(alias = "MMIO_CTL0")]
    pub(crate) fn request(&self, request: ControlRequest) {
        if request == ControlRequest::Active {
            self.quiet.store(false, Release);
        }
        let read = self.read(Register::Ctl0);
        self.registers
            .write(Register::Ctl0 as usize, request.ctl0(read));
    }

    /// Returns `true` if the function is proven not to access memory, as it has stopped or has
    /// left, and records it.
    pub(crate) fn prove_quiet(&self) -> bool {
        let quiet = self.state() == FunctionState::Stop || self.dev().has_left();
        self.quiet.store(quiet, Release);
        quiet
    }

    pub(super) fn set_stop(&self, context: u16, stop: u32) {
        if let Some(word) = self.stops.get(usize::from(context)) {
            // Pairs with the load in `stop_of()`.
            word.store(stop, Release);
        }
    }

    pub(super) fn stop_of(&self, context: u16) -> u32 {
        let word = self.stops.get(usize::from(context));
        // Pairs with the store in `set_stop()`.
        word.map_or(NOT_STOPPED, |word| word.load(Acquire))
    }

    pub(super) fn ring(&self, context: u16, index: u64) {
        let offset = usize::from(context).checked_mul(self.stride.load(Relaxed));
        if let Some(offset) = offset {
            self.doorbells.write(offset, index);
        }
    }
}
