// SPDX-License-Identifier: GPL-2.0

//! A context as the function sees it: its ring of descriptors, and all of its memory.
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

/// Descriptors of a ring: what every function accepts.
pub(crate) const SLOTS: usize = 1024;

/// The AKey that every context has: the function's own memory, and the context's interrupt.
const AKEY: u16 = 0;

/// Words in the page of a context: what the device writes is in a cache line of its own.
#[doc(alias = "CXT_CTL")]
pub(super) const CONTROL: usize = 0;
#[doc(alias = "CXT_STS")]
const STATUS: usize = 16;
#[doc(alias = "Write_Index")]
const WRITE_INDEX: usize = 32;

/// What a context consists of.
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
    #[doc(alias = "CXT_UPD")]
    Update(u16),
    /// Waits until that is done.
    #[doc(alias = "SYNC")]
    SyncUpdate(u16),
    /// Stops a context, when what it is executing is done.
    #[doc(alias = "CXT_STOP")]
    StopSoft(u16),
    /// Stops a context, whatever it is doing.
    #[doc(alias = "CXT_STOP")]
    StopHard(u16),
    /// Waits until it has stopped.
    #[doc(alias = "SYNC")]
    SyncStop(u16),
}

/// The tag of a command whose end proves nothing.
const NO_PROOF: u32 = u32::MAX;
/// In the tag of a stop, which is its context otherwise. That of [`Command::SyncStop`] is its
/// context.
const STOP: u32 = 1 << 16;

/// A context: its ring, and all of its memory.
pub(crate) struct ContextRing {
    ring: Ring<KVec<RingSlot>>,
    pub(super) memory: Memory,
    pub(super) number: u16,
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

    /// An interrupt when all that was pushed before is done, if the context has one and there is
    /// room.
    #[inline]
    pub(super) fn push_interrupt(&mut self) -> Result<(), Refused> {
        if self.interrupt.is_none() {
            return Err(Refused::Invalid);
        }
        let interrupt = Descriptor::interrupt(AKEY).fenced();
        Ok(self.ring.push(&self.memory, &interrupt, Report::None)?)
    }

    /// Something that only the administrative context can do.
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

    /// Has the administrative context start one that was prepared. Refused as long as there are
    /// commands that the device has not carried out: they could be taken for proof later.
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

    /// Of the administrative context: reports which commands have been carried out, in their order.
    /// A context is taken for stopped when a stop of it was, and then the wait for that.
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
    pub(super) fn reap(&mut self, report: impl FnMut(u32, bool)) -> usize {
        self.ring.reap(&self.memory, report)
    }

    /// Is there proof that the device does not work for it: that the function has stopped since it
    /// was prepared, or the context has?
    pub(super) fn prove_quiet(&mut self) -> bool {
        let bars = &self.memory.page.bars;
        self.quiet |= bars.quiet.load(Acquire) || bars.stop_of(self.number) == STOPPED;
        self.quiet
    }

    /// Reports everything, and begins anew, if there is proof that the device does not work for it
    /// any more.
    pub(super) fn abandon(&mut self, report: impl FnMut(u32, bool)) -> Option<usize> {
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
    pub(super) fn free(&self) -> usize {
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
