// SPDX-License-Identifier: GPL-2.0

//! The ring of descriptors of a context, and all other memory of it that the function accesses.
//!
//! Takes no locks: [`context`](super::context) has those of a ring.

use super::{
    memory::{
        CoherentWords,
        DeviceAddress,
        PAGE_WORDS, //
    },
    mmio::{
        Bars,
        NOT_STOPPED,
        STOPPED,
        STOP_TAKEN, //
    },
};
use ferry_core::sdxi::{
    descriptor::{
        ContextRange,
        Descriptor,
        SyncFilter, //
    },
    registers::FunctionLimits,
    ring::{
        self,
        Full,
        Report,
        Ring,
        RingSlot, //
    },
    table::{
        self,
        ContextState,
        AKEYS,
        AKEY_WORDS,
        CONTROL_WORDS,
        CSB_WORDS, //
    },
};
use kernel::{
    prelude::*,
    sync::{
        atomic::Acquire,
        barrier::{
            dma_mb,
            Read,
            Write, //
        },
        Arc, //
    },
};

/// Descriptors of a ring: the smallest size, which every function accepts.
pub(crate) const SLOTS: usize = 1024;

/// The index of the only valid AKey of a context, which names the function's own address space and
/// the interrupt of the context.
const AKEY: u16 = 0;

/// Index of the context control block in the page of a context, in words. Blocks that the device
/// writes are in cache lines of their own.
#[doc(alias = "CXT_CTL")]
pub(super) const CONTROL: usize = 0;
/// Index of the context status block in the page, in words.
#[doc(alias = "CXT_STS")]
const STATUS: usize = 16;
/// Index of the write index in the page, in words.
#[doc(alias = "Write_Index")]
const WRITE_INDEX: usize = 32;

/// All memory of a context.
pub(super) struct Memory {
    ring: CoherentWords,
    #[doc(alias = "CST_BLK")]
    blocks: CoherentWords,
    pub(super) akeys: CoherentWords,
    pub(super) page: CoherentWords,
    number: u16,
}

impl ring::Memory for Memory {
    #[inline]
    fn write(&self, slot: usize, descriptor: &Descriptor) {
        let block = slot * CSB_WORDS;
        // Blocks are aligned, as `ContextRing::new()` has checked.
        let with_block = descriptor.with_status(self.blocks.address(block));
        for (i, word) in with_block.unwrap_or(*descriptor).words().iter().enumerate() {
            self.ring.store(slot * 8 + i, *word);
        }
        self.blocks.store(block + 1, 0);
        self.blocks.store(block, 1);
    }

    #[inline]
    fn validate(&self, slot: usize, word0: u64) {
        // Orders the descriptor and its block before the valid bit.
        dma_mb(Write);
        self.ring.store(slot * 8, word0);
    }

    #[inline]
    fn set_write_index(&self, index: u64) {
        // Orders the valid bits of all descriptors below the index before the index.
        dma_mb(Write);
        self.page.store(WRITE_INDEX, index);
    }

    #[inline]
    fn ring(&self, index: u64) {
        // writeq() orders the doorbell after the write index.
        self.page.bars.ring(self.number, index);
    }

    #[inline]
    fn signal(&self, slot: usize) -> u64 {
        let signal = self.blocks.load(slot * CSB_WORDS);
        // Orders the signal before reads of memory that the device wrote before the signal.
        dma_mb(Read);
        signal
    }

    #[inline]
    fn failed(&self, slot: usize) -> bool {
        self.blocks.load(slot * CSB_WORDS + 1) & 1 << 31 != 0
    }
}

/// The reason why a descriptor was not pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The ring has no room.
    Full,
    /// The descriptor is not valid, for example a copy of no bytes, too many, or overlapping ones.
    Invalid,
}

impl From<Full> for Refused {
    fn from(_: Full) -> Self {
        Self::Full
    }
}

/// A command of the administrative context for another context.
#[derive(Clone, Copy)]
pub(crate) enum Command {
    /// Reads the entry of a context again.
    #[doc(alias = "CXT_UPD")]
    Update(u16),
    /// Waits until updates are complete.
    #[doc(alias = "SYNC")]
    SyncUpdate(u16),
    /// Stops a context after the descriptors that it is executing.
    #[doc(alias = "CXT_STOP")]
    StopSoft(u16),
    /// Stops a context at once.
    #[doc(alias = "CXT_STOP")]
    StopHard(u16),
    /// Waits until the context has stopped.
    #[doc(alias = "SYNC")]
    SyncStop(u16),
}

/// The tag of a command whose completion is no proof of a stop.
const NO_PROOF: u32 = u32::MAX;
/// Bit of the tag of a stop; the other bits are the number of the context. The tag of
/// [`Command::SyncStop`] is the number alone.
const STOP: u32 = 1 << 16;

/// The ring of a context, with all other memory of the context.
pub(crate) struct ContextRing {
    ring: Ring<KVec<RingSlot>>,
    pub(super) memory: Memory,
    pub(super) number: u16,
    interrupt: Option<u16>,
    longest: u64,
    /// Set if the context is proven not to be running, and was not prepared to run since.
    quiet: bool,
}

impl ContextRing {
    /// Allocates the memory of context `number`, with the number of its interrupt if it has one.
    ///
    /// # Context
    ///
    /// May sleep.
    pub(crate) fn new(
        bars: &Arc<Bars>,
        number: u16,
        interrupt: Option<u16>,
        limits: &FunctionLimits,
    ) -> Result<Self> {
        let mut slots = KVec::with_capacity(SLOTS, GFP_KERNEL)?;
        for _ in 0..SLOTS {
            slots.push(RingSlot::EMPTY, GFP_KERNEL)?;
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

    /// Initializes the memory for a start of the context.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the context may be running, or descriptors are outstanding.
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
        // Orders the other words of the block before its valid bit.
        dma_mb(Write);
        page.store(CONTROL, control[0]);
        Ok(())
    }

    /// Sets the status of the administrative context to running. The standard has software do this
    /// while the function is stopped.
    pub(crate) fn set_running(&self) {
        self.memory.page.store(STATUS, ContextState::RUN);
        dma_mb(Write);
    }

    /// Rings the doorbell for the first time, so that the function reads the ring.
    pub(crate) fn jump_start(&self) {
        ring::Memory::ring(&self.memory, 0);
    }

    /// Pushes a copy of `len` bytes.
    #[doc(alias = "COPY")]
    #[inline]
    pub(super) fn push_copy(
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

    /// Pushes an interrupt that is raised when all descriptors before it are done.
    ///
    /// # Errors
    ///
    /// `Refused::Invalid` if the context has no interrupt, `Refused::Full` without room.
    #[doc(alias = "INTR")]
    #[inline]
    pub(super) fn push_interrupt(&mut self) -> Result<(), Refused> {
        if self.interrupt.is_none() {
            return Err(Refused::Invalid);
        }
        let interrupt = Descriptor::interrupt(AKEY).fenced();
        Ok(self.ring.push(&self.memory, &interrupt, Report::None)?)
    }

    /// Pushes a command to the administrative context.
    pub(crate) fn push_command(&mut self, command: Command) -> Result<(), Refused> {
        let (descriptor, tag) = match command {
            Command::Update(n) => (Descriptor::update(ContextRange::one(n)), NO_PROOF),
            Command::SyncUpdate(n) => {
                let sync = Descriptor::sync(SyncFilter::Contexts, ContextRange::one(n));
                (sync, NO_PROOF)
            }
            Command::StopSoft(n) => (
                Descriptor::stop(ContextRange::one(n), false),
                STOP | u32::from(n),
            ),
            Command::StopHard(n) => (
                Descriptor::stop(ContextRange::one(n), true),
                STOP | u32::from(n),
            ),
            Command::SyncStop(n) => {
                let sync = Descriptor::sync(SyncFilter::Stop, ContextRange::one(n));
                (sync, n.into())
            }
        };
        Ok((self.ring).push(&self.memory, &descriptor, Report::Tag(tag))?)
    }

    /// Pushes the start of a prepared context to the administrative context. Refused while commands
    /// are outstanding on the device, as their completions could be taken for proof of a stop
    /// later.
    #[doc(alias = "CXT_START_NM")]
    pub(crate) fn push_start(&mut self, ring: &Self) -> Result<(), Refused> {
        if ring.quiet || self.ring.outstanding() != self.ring.unpublished() {
            return Err(Refused::Invalid);
        }
        let bars = &self.memory.page.bars;
        bars.set_stop(ring.number, NOT_STOPPED);
        let start = Descriptor::start(ContextRange::one(ring.number));
        Ok((self.ring).push(&self.memory, &start, Report::Tag(NO_PROOF))?)
    }

    /// Reports completed commands of the administrative context, in order. A context counts as
    /// stopped when a stop of it has completed and then a wait for the stop, both without an error.
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

    /// Publishes pushed descriptors to the device with one doorbell. Returns `false` if there are
    /// none.
    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        self.ring.publish(&self.memory)
    }

    /// Reports completed descriptors, and returns their number.
    #[inline]
    pub(super) fn reap(&mut self, report: impl FnMut(u32, bool)) -> usize {
        self.ring.reap(&self.memory, report)
    }

    /// Returns `true` if the device is proven not to execute descriptors of the context: the
    /// function has stopped since the context was prepared, or the context has.
    pub(super) fn prove_quiet(&mut self) -> bool {
        let bars = &self.memory.page.bars;
        self.quiet |= bars.quiet.load(Acquire) || bars.stop_of(self.number) == STOPPED;
        self.quiet
    }

    /// Reports all outstanding descriptors and resets the ring. Returns their number, or `None`
    /// without proof that the context does not run.
    pub(super) fn abandon(&mut self, report: impl FnMut(u32, bool)) -> Option<usize> {
        if !self.prove_quiet() {
            return None;
        }
        Some(self.ring.abandon(&self.memory, report))
    }

    /// Drops the outstanding commands of the administrative context, as [`Self::abandon()`] does.
    pub(crate) fn abandon_commands(&mut self) {
        self.abandon(|_, _| {});
    }

    /// Returns the number of free slots.
    #[inline]
    pub(super) fn free(&self) -> usize {
        self.ring.free()
    }

    /// Returns the number of descriptors that have not been reported.
    pub(crate) fn outstanding(&self) -> usize {
        self.ring.outstanding()
    }

    /// Returns the number of descriptors that have not been published.
    pub(crate) fn unpublished(&self) -> usize {
        self.ring.unpublished()
    }

    /// Returns the indices for debugfs: done, published, and the device's read index.
    #[doc(alias = "read_index")]
    pub(crate) fn indices(&self) -> (u64, u64, u64) {
        let (done, published) = self.ring.indices();
        (done, published, self.memory.page.load(STATUS + 1))
    }

    /// Returns the state of the context in its status block, which the device writes.
    #[inline]
    pub(crate) fn state(&self) -> ContextState {
        ContextState::of(self.memory.page.load(STATUS))
    }
}
