// SPDX-License-Identifier: GPL-2.0

//! What an SDXI function is led to: its registers, its doorbells, and memory that it accesses.
//!
//! A function reads and writes whatever memory its descriptors and tables name. Who guarantees what:
//!
//! * Code outside this module cannot name memory. Descriptors of copies take [`DeviceAddress`]es, which
//!   only this module makes; the addresses of rings, tables and logs stay in here; the registers that
//!   lead to memory are written in here.
//! * What was outstanding when a context was stopped is reported only with proof that it has
//!   stopped, by [`ContextRing::abandon()`], which looks for it itself.
//! * Rings, tables and logs are never freed while the function could access them: they are when
//!   [`Bars::prove_quiet()`] has seen it stopped, or gone for good, and it has not been told to run
//!   since. Without proof they are kept for ever, and counted ([`leaked()`]).
//! * A [`DeviceAddress`] says where, not for how long. Who pushes a copy keeps its source and
//!   destination mapped, and does not use them otherwise, until the copy is reported, whatever the
//!   report says: that is true of the memory of batches, which `engine::channel` gives back only then, and of
//!   [`Buffer`].
//!
//! Memory of the device is read and written in words of 64 bits, each at once, and every index is
//! checked. Takes no locks, but for [`context`].

pub(crate) mod context;
pub(crate) mod queue;

use crate::kapi::pci::Device;
use core::ptr::{
    self,
    NonNull, //
};
use ferry_core::sdxi::{
    descriptor::{
        Descriptor,
        Range,
        SyncFilter, //
    },
    log,
    registers::{
        err_cfg,
        ControlRequest,
        Limits,
        Register,
        State,
        WritableRegister,
        REGISTERS, //
    },
    ring::{
        self,
        Full,
        Report,
        Ring,
        Slot, //
    },
    table::{
        self,
        ContextState,
        AKEYS,
        AKEY_WORDS,
        CONTROL_WORDS,
        CSB_WORDS,
        L1_ENTRIES,
        L1_WORDS,
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
        barrier::{
            dma_mb,
            Read,
            Write, //
        },
        Arc, //
    },
    task::might_sleep, //
};

/// Descriptors of a ring: what every function accepts.
pub(crate) const SLOTS: usize = 1024;

const REGISTER_BAR: ffi::c_int = 0;
const DOORBELL_BAR: ffi::c_int = 2;

/// The AKey that every context has: the function's own memory, and the context's interrupt.
const AKEY: u16 = 0;

/// Words of a page.
const PAGE_WORDS: usize = PAGE / 8;

/// An address that a device may be told to read from or write to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeviceAddress(u64);

impl DeviceAddress {
    /// Something that has been mapped for the device, and stays so as the module says.
    fn new(address: u64) -> Self {
        Self(address)
    }
}

static LEAKED: Atomic<u64> = Atomic::new(0);

/// Bytes that are kept for ever, since their function was never proven quiet.
pub(crate) fn leaked() -> u64 {
    LEAKED.load(Relaxed)
}

/// A BAR.
struct Bar {
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

    /// Where 64 bits at this offset are.
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

    fn write(&self, offset: usize, value: u64) {
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

/// The registers and the doorbells of a function that is enabled; disabled when dropped.
pub(crate) struct Bars {
    registers: Bar,
    doorbells: Bar,
    enabled: Enabled,
    /// From one doorbell to the next; until it is known there is none.
    stride: Atomic<usize>,
    /// The function accesses no memory.
    quiet: Atomic<bool>,
    /// What the administrative context has done to stop each context since it was started: one of
    /// [`NOT_STOPPED`], [`STOP_TAKEN`] and [`STOPPED`].
    stops: [Atomic<u32>; L1_ENTRIES],
}

/// No stop of the context has been carried out.
const NOT_STOPPED: u32 = 0;
/// A stop has been carried out, and the context may still be on its way.
const STOP_TAKEN: u32 = 1;
/// After that, a wait for the stop has been carried out.
const STOPPED: u32 = 2;

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
    /// Enables the function, which may not access memory yet, and maps its BARs.
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

    fn dev(&self) -> &Device {
        &self.enabled.0
    }

    /// Lets the function access memory, and send interrupts, if it is proven to have nothing to do:
    /// what ran before this driver was there has tables that are not its own.
    pub(crate) fn let_onto_bus(&self) -> Result {
        if !self.prove_quiet() {
            return Err(EBUSY);
        }
        // SAFETY: It has stopped. It is told to run with tables, rings and logs of this module only, which
        // are freed after it has been proven quiet again.
        unsafe { self.dev().set_master() };
        Ok(())
    }

    /// How far doorbells are apart; returns how many there are.
    pub(crate) fn set_stride(&self, stride: u32) -> usize {
        let stride = (stride as usize).max(8);
        self.stride.store(stride, Relaxed);
        self.doorbells.len / stride
    }

    /// Reads a register.
    pub(crate) fn read(&self, register: Register) -> u64 {
        self.registers.read(register as usize)
    }

    /// Writes a register that leads to no memory.
    pub(crate) fn write(&self, register: WritableRegister, value: u64) {
        self.registers.write(register as usize, value);
    }

    /// The state of the function.
    pub(crate) fn state(&self) -> State {
        State::of(self.read(Register::Sts0))
    }

    /// Asks the function for something.
    pub(crate) fn ask(&self, request: ControlRequest) {
        if request == ControlRequest::Active {
            self.quiet.store(false, Release);
        }
        let read = self.read(Register::Ctl0);
        self.registers
            .write(Register::Ctl0 as usize, request.ctl0(read));
    }

    /// Looks for proof that the function accesses no memory: that it has stopped, or left.
    pub(crate) fn prove_quiet(&self) -> bool {
        let quiet = self.state() == State::Stop || self.dev().has_left();
        self.quiet.store(quiet, Release);
        quiet
    }

    fn set_stop(&self, context: u16, stop: u32) {
        if let Some(word) = self.stops.get(usize::from(context)) {
            // Pairs with the load in `stop_of()`.
            word.store(stop, Release);
        }
    }

    fn stop_of(&self, context: u16) -> u32 {
        let word = self.stops.get(usize::from(context));
        // Pairs with the store in `set_stop()`.
        word.map_or(NOT_STOPPED, |word| word.load(Acquire))
    }

    fn ring(&self, context: u16, index: u64) {
        let offset = usize::from(context).checked_mul(self.stride.load(Relaxed));
        if let Some(offset) = offset {
            self.doorbells.write(offset, index);
        }
    }
}

/// Memory that the function may access, zeroed.
struct CoherentWords {
    bars: Arc<Bars>,
    at: NonNull<u64>,
    len: usize,
    address: u64,
    /// Proven to be unused, though the function may run.
    unused: bool,
}

// SAFETY: Memory that any thread may use.
unsafe impl Send for CoherentWords {}
// SAFETY: As for `Send`; words are read and written one at a time, as the device does.
unsafe impl Sync for CoherentWords {}

impl CoherentWords {
    /// So many words, in whole pages.
    fn new(bars: &Arc<Bars>, len: usize) -> Result<Self> {
        let mut address = 0;
        let bytes = len.checked_mul(8).ok_or(EINVAL)?;
        // SAFETY: The device is valid and enabled.
        let at = unsafe {
            bindings::dma_alloc_attrs(
                bars.dev().as_raw_device(),
                bytes,
                &mut address,
                bindings::GFP_KERNEL | bindings::__GFP_ZERO | bindings::__GFP_NOWARN,
                0,
            )
        };
        Ok(Self {
            bars: bars.clone(),
            at: NonNull::new(at.cast()).ok_or(ENOMEM)?,
            len,
            address,
            unused: false,
        })
    }

    fn at(&self, i: usize) -> Option<*mut u64> {
        (i < self.len).then(|| self.at.as_ptr().wrapping_add(i))
    }

    #[inline]
    fn load(&self, i: usize) -> u64 {
        // SAFETY: Inside of the allocation; volatile, as the device may write it.
        self.at(i)
            .map_or(0, |at| u64::from_le(unsafe { ptr::read_volatile(at) }))
    }

    #[inline]
    fn store(&self, i: usize, value: u64) {
        if let Some(at) = self.at(i) {
            // SAFETY: Inside of the allocation; volatile, as the device may read it.
            unsafe { ptr::write_volatile(at, value.to_le()) };
        }
    }

    fn clear(&self) {
        for i in 0..self.len {
            self.store(i, 0);
        }
    }

    /// The address of a word.
    fn address(&self, i: usize) -> u64 {
        self.address.wrapping_add(i as u64 * 8)
    }
}

impl Drop for CoherentWords {
    fn drop(&mut self) {
        // Behind an IOMMU freeing does (`__iommu_dma_free()`).
        might_sleep();
        if !self.unused && !self.bars.quiet.load(Acquire) {
            LEAKED.fetch_add(self.len as u64 * 8, Relaxed);
            return;
        }
        // SAFETY: Allocated by `new()` for this device, with this size. Nobody accesses it: the
        // function has been proven quiet, or done with it, and `self` is the only owner.
        unsafe {
            bindings::dma_free_attrs(
                self.bars.dev().as_raw_device(),
                self.len * 8,
                self.at.as_ptr().cast(),
                self.address,
                0,
            );
        }
    }
}

/// The context tables of a function, for the first 128 contexts.
pub(crate) struct Tables {
    l2: CoherentWords,
    l1: CoherentWords,
}

/// The highest context that tables have room for.
pub(crate) const MAX_CONTEXT: u16 = L1_ENTRIES as u16 - 1;

impl Tables {
    /// Without contexts.
    pub(crate) fn new(bars: &Arc<Bars>) -> Result<Self> {
        let tables = Self {
            l2: CoherentWords::new(bars, PAGE_WORDS)?,
            l1: CoherentWords::new(bars, PAGE_WORDS)?,
        };
        let entry = table::l2(tables.l1.address(0)).ok_or(EIO)?;
        tables.l2.store(0, entry);
        Ok(tables)
    }

    /// Without contexts again; tells the function, which is stopped, where they are.
    pub(crate) fn install(&self) {
        self.l1.clear();
        dma_mb(Write);
        let bars = &self.l2.bars;
        bars.registers
            .write(Register::CxtL2 as usize, self.l2.address(0));
    }

    /// The function finds no such context any more.
    pub(crate) fn retire(&self, number: u16) {
        let at = usize::from(number) * L1_WORDS;
        self.l1.store(at, 0);
        dma_mb(Write);
        for i in 1..L1_WORDS {
            self.l1.store(at + i, 0);
        }
    }

    /// The function finds this context.
    pub(crate) fn publish(&self, channel: &ContextRing, limits: &Limits) -> Result {
        let page = &channel.memory.page;
        let entry = table::l1(
            page.address(CONTROL),
            channel.memory.akeys.address(0),
            limits,
        );
        let entry = entry.ok_or(EIO)?;
        let at = usize::from(channel.number) * L1_WORDS;
        for (i, word) in entry.iter().enumerate().skip(1) {
            self.l1.store(at + i, *word);
        }
        // The entry is whole before it is valid.
        dma_mb(Write);
        self.l1.store(at, entry[0]);
        Ok(())
    }
}

/// The error log. A page more than is said, for devices that take the size differently.
pub(crate) struct ErrorLog(CoherentWords);

impl ErrorLog {
    /// Empty.
    pub(crate) fn new(bars: &Arc<Bars>) -> Result<Self> {
        Ok(Self(CoherentWords::new(bars, 2 * PAGE_WORDS)?))
    }

    /// Empties it, and tells the function where it is.
    pub(crate) fn open(&self) -> Result {
        self.close();
        self.0.clear();
        dma_mb(Write);
        let value = err_cfg(self.0.address(0)).ok_or(EIO)?;
        self.0
            .bars
            .registers
            .write(Register::ErrCfg as usize, value);
        Ok(())
    }

    /// The function does not log any more.
    pub(crate) fn close(&self) {
        self.0.bars.registers.write(Register::ErrCfg as usize, 0);
    }

    /// Takes an entry out.
    pub(crate) fn take(&self, index: u64) -> [u64; log::WORDS] {
        let at = log::slot(index) * log::WORDS;
        let mut words = [0; log::WORDS];
        for (i, word) in words.iter_mut().enumerate() {
            *word = self.0.load(at + i);
            self.0.store(at + i, 0);
        }
        words
    }
}

/// Words in the page of a context: what the device writes is in a cache line of its own.
const CONTROL: usize = 0;
const STATUS: usize = 16;
const WRITE_INDEX: usize = 32;

/// What a context consists of.
struct Memory {
    ring: CoherentWords,
    blocks: CoherentWords,
    akeys: CoherentWords,
    page: CoherentWords,
    number: u16,
}

impl ring::Memory for Memory {
    #[inline]
    fn write(&self, slot: usize, descriptor: &Descriptor) {
        let block = slot * CSB_WORDS;
        // Blocks are in line, as `ContextRing::new()` has checked.
        let with_block = descriptor.with_status(self.blocks.address(block));
        for (i, word) in with_block.unwrap_or(*descriptor).words().iter().enumerate() {
            self.ring.store(slot * 8 + i, *word);
        }
        self.blocks.store(block + 1, 0);
        self.blocks.store(block, 1);
    }

    #[inline]
    fn validate(&self, slot: usize, word0: u64) {
        // The descriptor and its block are there before it is valid.
        dma_mb(Write);
        self.ring.store(slot * 8, word0);
    }

    #[inline]
    fn set_write_index(&self, index: u64) {
        // What is below the index is valid before the index says so.
        dma_mb(Write);
        self.page.store(WRITE_INDEX, index);
    }

    #[inline]
    fn ring(&self, index: u64) {
        // Orders after the write index: writeq() does.
        self.page.bars.ring(self.number, index);
    }

    #[inline]
    fn signal(&self, slot: usize) -> u64 {
        let signal = self.blocks.load(slot * CSB_WORDS);
        // Whatever the device wrote before the signal is read after it.
        dma_mb(Read);
        signal
    }

    #[inline]
    fn failed(&self, slot: usize) -> bool {
        self.blocks.load(slot * CSB_WORDS + 1) & 1 << 31 != 0
    }
}

/// Why a copy was not pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No room in the ring.
    Full,
    /// No such copy can be made: nothing to copy, too much, or overlapping.
    Invalid,
}

impl From<Full> for Refused {
    fn from(_: Full) -> Self {
        Self::Full
    }
}

/// What the administrative context does to others.
#[derive(Clone, Copy)]
pub(crate) enum Command {
    /// Reads the entry of a context again.
    Update(u16),
    /// Waits until that is done.
    SyncUpdate(u16),
    /// Stops a context, when what it is executing is done.
    StopSoft(u16),
    /// Stops a context, whatever it is doing.
    StopHard(u16),
    /// Waits until it has stopped.
    SyncStop(u16),
}

/// The tag of a command whose end proves nothing.
const NO_PROOF: u32 = u32::MAX;
/// In the tag of a stop, which is its context otherwise. That of [`Command::SyncStop`] is its context.
const STOP: u32 = 1 << 16;

/// A context: its ring, and all of its memory.
pub(crate) struct ContextRing {
    ring: Ring<KVec<Slot>>,
    memory: Memory,
    number: u16,
    interrupt: Option<u16>,
    longest: u64,
    /// Proven not to be running, and not prepared to run since.
    quiet: bool,
}

impl ContextRing {
    /// Context `number`, with an interrupt if it has one. May sleep.
    pub(crate) fn new(
        bars: &Arc<Bars>,
        number: u16,
        interrupt: Option<u16>,
        limits: &Limits,
    ) -> Result<Self> {
        let mut slots = KVec::with_capacity(SLOTS, GFP_KERNEL)?;
        for _ in 0..SLOTS {
            slots.push(Slot::EMPTY, GFP_KERNEL)?;
        }
        let memory = Memory {
            ring: CoherentWords::new(bars, SLOTS * 8)?,
            blocks: CoherentWords::new(bars, SLOTS * CSB_WORDS)?,
            akeys: CoherentWords::new(bars, AKEYS * AKEY_WORDS)?,
            page: CoherentWords::new(bars, PAGE_WORDS)?,
            number,
        };
        if Descriptor::nop()
            .with_status(memory.blocks.address(0))
            .is_none()
        {
            return Err(EIO);
        }
        Ok(Self {
            ring: Ring::new(slots).ok_or(EINVAL)?,
            memory,
            number,
            interrupt,
            longest: limits.bytes(),
            quiet: true,
        })
    }

    /// As it must be before the context is started. It is not running, and nothing is outstanding.
    pub(crate) fn prepare(&mut self) -> Result {
        if self.ring.outstanding() != 0 || self.ring.indices() != (0, 0) || !self.prove_quiet() {
            return Err(EBUSY);
        }
        self.quiet = false;
        let Memory {
            ring,
            blocks,
            akeys,
            page,
            ..
        } = &self.memory;
        page.store(CONTROL, 0);
        dma_mb(Write);
        for words in [ring, blocks, akeys, page] {
            words.clear();
        }
        let akey = table::akey(self.interrupt).ok_or(EINVAL)?;
        for (i, word) in akey.iter().enumerate() {
            akeys.store(usize::from(AKEY) * AKEY_WORDS + i, *word);
        }
        let control = table::control(
            ring.address(0),
            SLOTS as u32,
            page.address(STATUS),
            page.address(WRITE_INDEX),
        );
        let control = control.ok_or(EIO)?;
        for (i, word) in control.iter().enumerate().take(CONTROL_WORDS).skip(1) {
            page.store(CONTROL + i, *word);
        }
        // The block is whole before it is valid.
        dma_mb(Write);
        page.store(CONTROL, control[0]);
        Ok(())
    }

    /// Software starts the administrative context itself, while the function is stopped.
    pub(crate) fn set_running(&self) {
        self.memory.page.store(STATUS, ContextState::RUN);
        dma_mb(Write);
    }

    /// Makes the function look at the ring, the first time.
    pub(crate) fn jump_start(&self) {
        ring::Memory::ring(&self.memory, 0);
    }

    /// Copies `len` bytes.
    #[inline]
    fn push_copy(
        &mut self,
        dst: DeviceAddress,
        src: DeviceAddress,
        len: u64,
        report: Report,
    ) -> Result<(), Refused> {
        if len > self.longest {
            return Err(Refused::Invalid);
        }
        let copy = Descriptor::copy(AKEY, dst.0, src.0, len).ok_or(Refused::Invalid)?;
        Ok(self.ring.push(&self.memory, &copy, report)?)
    }

    /// An interrupt when all that was pushed before is done, if the context has one and there is
    /// room.
    #[inline]
    fn push_interrupt(&mut self) -> Result<(), Refused> {
        if self.interrupt.is_none() {
            return Err(Refused::Invalid);
        }
        let interrupt = Descriptor::interrupt(AKEY).fenced();
        Ok(self.ring.push(&self.memory, &interrupt, Report::None)?)
    }

    /// Something that only the administrative context can do.
    pub(crate) fn push_command(&mut self, command: Command) -> Result<(), Refused> {
        let (descriptor, tag) = match command {
            Command::Update(n) => (Descriptor::update(Range::one(n)), NO_PROOF),
            Command::SyncUpdate(n) => {
                let sync = Descriptor::sync(SyncFilter::Contexts, Range::one(n));
                (sync, NO_PROOF)
            }
            Command::StopSoft(n) => (Descriptor::stop(Range::one(n), false), STOP | u32::from(n)),
            Command::StopHard(n) => (Descriptor::stop(Range::one(n), true), STOP | u32::from(n)),
            Command::SyncStop(n) => {
                let sync = Descriptor::sync(SyncFilter::Stop, Range::one(n));
                (sync, n.into())
            }
        };
        Ok((self.ring).push(&self.memory, &descriptor, Report::Tag(tag))?)
    }

    /// Has the administrative context start one that was prepared. Refused as long as there are
    /// commands that the device has not carried out: they could be taken for proof later.
    pub(crate) fn push_start(&mut self, channel: &Self) -> Result<(), Refused> {
        if channel.quiet || self.ring.outstanding() != self.ring.unpublished() {
            return Err(Refused::Invalid);
        }
        let bars = &self.memory.page.bars;
        bars.set_stop(channel.number, NOT_STOPPED);
        let start = Descriptor::start(Range::one(channel.number));
        Ok((self.ring).push(&self.memory, &start, Report::Tag(NO_PROOF))?)
    }

    /// Of the administrative context: reports which commands have been carried out, in their order. A
    /// context is taken for stopped when a stop of it was, and then the wait for that.
    pub(crate) fn reap_commands(&mut self, mut report: impl FnMut(bool)) -> usize {
        let bars = &self.memory.page.bars;
        self.ring.reap(&self.memory, |tag, good| {
            let number = (tag & !STOP) as u16;
            match (tag, good) {
                (NO_PROOF, _) => {}
                (tag, true) if tag & STOP != 0 => bars.set_stop(number, STOP_TAKEN),
                (tag, false) if tag & STOP != 0 => bars.set_stop(number, NOT_STOPPED),
                (_, true) if bars.stop_of(number) == STOP_TAKEN => {
                    bars.set_stop(number, STOPPED);
                }
                _ => {}
            }
            report(good);
        })
    }

    /// Hands what was pushed to the device, with one doorbell. False if there was nothing.
    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        self.ring.publish(&self.memory)
    }

    /// Reports what is done.
    #[inline]
    fn reap(&mut self, report: impl FnMut(u32, bool)) -> usize {
        self.ring.reap(&self.memory, report)
    }

    /// Is there proof that the device does not work for it: that the function has stopped since it
    /// was prepared, or the context has?
    fn prove_quiet(&mut self) -> bool {
        let bars = &self.memory.page.bars;
        self.quiet |= bars.quiet.load(Acquire) || bars.stop_of(self.number) == STOPPED;
        self.quiet
    }

    /// Reports everything, and begins anew, if there is proof that the device does not work for it
    /// any more.
    fn abandon(&mut self, report: impl FnMut(u32, bool)) -> Option<usize> {
        if !self.prove_quiet() {
            return None;
        }
        Some(self.ring.abandon(&self.memory, report))
    }

    /// The same for the administrative context, whose commands nobody waits for any more.
    pub(crate) fn abandon_commands(&mut self) {
        self.abandon(|_, _| {});
    }

    /// Free slots.
    #[inline]
    fn free(&self) -> usize {
        self.ring.free()
    }

    /// Descriptors that have not been reported.
    pub(crate) fn outstanding(&self) -> usize {
        self.ring.outstanding()
    }

    /// Descriptors that the device has not been told of.
    pub(crate) fn unpublished(&self) -> usize {
        self.ring.unpublished()
    }

    /// For people: done, published, and what the device says that it has begun.
    pub(crate) fn indices(&self) -> (u64, u64, u64) {
        let (done, published) = self.ring.indices();
        (done, published, self.memory.page.load(STATUS + 1))
    }

    /// The state that the device says the context has.
    #[inline]
    pub(crate) fn state(&self) -> ContextState {
        ContextState::of(self.memory.page.load(STATUS))
    }
}

/// Memory to copy from and to, for tests of a context.
pub(crate) struct Buffer {
    words: CoherentWords,
}

/// What is in a buffer where nothing was written, and must not be.
const SPOILED: u64 = 0xa5a5_a5a5_a5a5_a5a5;

/// What a test writes: differs by seed and place.
fn pattern(seed: u64, i: usize) -> u64 {
    (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ i as u64).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

impl Buffer {
    /// So many bytes. May sleep.
    pub(crate) fn new(bars: &Arc<Bars>, bytes: usize) -> Result<Self> {
        let words = CoherentWords::new(bars, bytes.div_ceil(8))?;
        Ok(Self { words })
    }

    /// Where a word of it is.
    pub(crate) fn address(&self, word: usize) -> DeviceAddress {
        DeviceAddress::new(self.words.address(word))
    }

    /// Fills words with the pattern of a seed; without a seed, spoils them.
    pub(crate) fn fill(&self, first: usize, len: usize, seed: Option<u64>) {
        for i in 0..len {
            self.words
                .store(first + i, seed.map_or(SPOILED, |seed| pattern(seed, i)));
        }
    }

    /// Are there so many bytes of the pattern, and is nothing changed behind them?
    pub(crate) fn holds(&self, first: usize, words: usize, bytes: usize, seed: u64) -> bool {
        (0..words).all(|i| {
            let (got, full) = (self.words.load(first + i), pattern(seed, i));
            match bytes.saturating_sub(i * 8) {
                0 => got == SPOILED,
                n if n >= 8 => got == full,
                n => {
                    let mask = (1 << (8 * n)) - 1;
                    got == full & mask | SPOILED & !mask
                }
            }
        })
    }

    /// Gives it back, if the channel that it was used with has nothing to do any more. Otherwise it
    /// is kept for ever if it is dropped before the function has been proven quiet.
    pub(crate) fn done_with(mut self, channel: &ContextRing) -> Result<Unused, Self> {
        self.words.unused = channel.outstanding() == 0;
        match self.words.unused {
            true => Ok(Unused { _words: self.words }),
            false => Err(self),
        }
    }
}

/// A buffer that nobody uses any more. To be dropped where one may sleep, which freeing does behind an
/// IOMMU (`__iommu_dma_free()`): not with the lock of the channel.
#[must_use]
pub(crate) struct Unused {
    _words: CoherentWords,
}
