// SPDX-License-Identifier: GPL-2.0

//! The channel: its registers, its ring, its descriptors. Pure.

use ferry_vfio::bytes::{u16_at, u32_at};
use ferry_vfio::lane::{Halt, Io, Queue};
use ferry_vfio::memory::Dma;

/// Bytes of a descriptor.
pub const DESCRIPTOR: u64 = 16;
/// Most descriptors in a ring.
pub const MOST: u32 = 1 << 16;

/// Bits of the control register, the lower half of [`Register::Control`].
pub mod control {
    /// `GRACEFUL_PAUSE`
    pub const PAUSE: u32 = 1 << 0;
    /// `ABORT`
    pub const ABORT: u32 = 1 << 1;
    /// `WRITE_BACK_EN`
    pub const WRITE_BACK: u32 = 1 << 2;
    /// `START`
    pub const START: u32 = 1 << 3;
    /// `RING_STOP_MODE`: the ring is run through once.
    pub const RING_STOP: u32 = 1 << 4;
    /// `DESC_MODE`
    pub const MODE: u32 = 3 << 5;
    /// `DESC_MODE_OFF_CHIP`
    pub const OFF_CHIP: u32 = 2 << 5;
    /// `DESC_INVALID`
    pub const INVALID: u32 = 1 << 8;
    /// `GRACEFUL_PAUSE_DONE`
    pub const PAUSE_DONE: u32 = 1 << 9;
    /// `ABORT_DONE`
    pub const ABORT_DONE: u32 = 1 << 10;
    /// `IN_PROGRESS`, in the upper half.
    pub const IN_PROGRESS: u32 = 1 << 30;

    /// The bits that keep the values that are written. The upper half is the second control
    /// register.
    pub(super) const KEPT: u32 = PAUSE | WRITE_BACK | RING_STOP | MODE | 0x7 << 16;
    /// The bits that are cleared by writing ones.
    pub(super) const CLEARED: u32 = INVALID | PAUSE_DONE | ABORT_DONE;
}

/// Bits of the interrupt status, the upper half of [`Register::Interrupt`], and of its enables, the
/// lower half, at the same places.
pub mod interrupt {
    /// `INTR_STATUS_ERROR`
    pub const ERROR: u32 = 1 << 0;
    /// `INTR_STATUS_INV_DESC`
    pub const INVALID: u32 = 1 << 1;
    /// `INTR_STATUS_DESC_DONE`: enabled by each descriptor for itself.
    pub const DONE: u32 = 1 << 2;
    /// `INTR_CRTL_ABORT_DONE`
    pub const ABORT_DONE: u32 = 1 << 3;
    /// `INTR_CRTL_PAUSE_DONE_EN`, which has a status bit here, too.
    pub const PAUSE_DONE: u32 = 1 << 4;

    pub(super) const ALL: u32 = ERROR | INVALID | DONE | ABORT_DONE | PAUSE_DONE;
    /// `INTR_CRTL_IMM_PAUSE_DONE_EN` is kept, and enables nothing.
    pub(super) const ENABLES: u32 = ERROR | INVALID | ABORT_DONE | PAUSE_DONE | 1 << 5;
}

/// Bits of a descriptor's first word.
pub mod flag {
    /// `SIZE_MASK`
    pub const SIZE: u32 = 0x7ff_ffff;
    /// `VALID`
    pub const VALID: u32 = 1 << 31;
    /// `INT_WHEN_DONE`
    pub const INTERRUPT: u32 = 1 << 30;
    /// `WB_SUCCESS`, at the same place.
    pub const SUCCESS: u32 = 1 << 30;
    /// `WB_RD_FAIL`
    pub const READ_FAILED: u32 = 1 << 29;
    /// `WB_WR_FAIL`
    pub const WRITE_FAILED: u32 = 1 << 28;
}

ferry_vfio::registers! {
    /// The registers, by offset. Of the last two each is a pair of 16 bits.
    pub enum Register {
        RingAddress = 0x214,
        RingAddressHigh = 0x218,
        NextAddress = 0x21c,
        Count = 0x220,
        LastAddress = 0x224,
        LastSize = 0x228,
        PrefetchLimit = 0x234,
        Control = 0x238,
        Interrupt = 0x23c,
    }
}

/// Side effect of a write to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doorbell {
    /// Nothing.
    None,
    /// The ring may run.
    Start,
    /// The descriptor in work is abandoned.
    Abort,
}

impl Doorbell {
    /// Returns the doorbell that a write of these bits as ones is.
    pub fn of(register: Register, ones: u32) -> Doorbell {
        match register {
            Register::Control if ones & control::ABORT != 0 => Doorbell::Abort,
            Register::Control if ones & control::START != 0 => Doorbell::Start,
            _ => Doorbell::None,
        }
    }
}

/// Reason for which a descriptor fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Reading the source.
    Read,
    /// Writing the destination.
    Write,
    /// The descriptor is malformed.
    Invalid,
    /// There is no ring, or it cannot be read.
    Ring,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    base: u64,
    next: u32,
    count: u32,
    last: (u32, u32),
    prefetch: u32,
    control: u32,
    running: bool,
    /// A descriptor has been taken and is not done.
    busy: bool,
    /// A descriptor has been read since last asked.
    fetched: bool,
    /// `DONE` bits that come when nothing is in work.
    stopping: u32,
    enable: u32,
    latched: u32,
    /// Something enabled was latched when last looked at.
    asserted: bool,
}

/// A descriptor, and where it was.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    at: Option<u64>,
    next: u32,
    /// The last one of the ring.
    last: bool,
    interrupt: bool,
    write_back: bool,
    copied: u32,
    command: Result<Command, Failure>,
}

/// The operation of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// Source address.
    pub source: u64,
    /// Destination address.
    pub destination: u64,
    /// Bytes.
    pub len: u32,
}

/// Reads a valid descriptor, or says what is wrong with it.
pub fn decode(bytes: &[u8; DESCRIPTOR as usize]) -> Result<Command, Failure> {
    let flags = u32_at(bytes, 0);
    let known = flag::SIZE | flag::VALID | flag::INTERRUPT;
    let len = flags & flag::SIZE;
    if flags & !known != 0 || len == 0 {
        return Err(Failure::Invalid);
    }
    let address = |low: usize, high: usize| {
        u64::from(u32_at(bytes, low)) | u64::from(u16_at(bytes, high)) << 32
    };
    Ok(Command {
        source: address(12, 6),
        destination: address(8, 4),
        len,
    })
}

impl Ring {
    /// Returns the value of a register.
    pub fn read(&self, register: Register) -> u32 {
        match register {
            Register::RingAddress => self.base as u32,
            Register::RingAddressHigh => (self.base >> 32) as u32,
            Register::NextAddress => self.next,
            Register::Count => self.count,
            Register::LastAddress => self.last.0,
            Register::LastSize => self.last.1,
            Register::PrefetchLimit => self.prefetch,
            Register::Control if self.running || self.busy => self.control | control::IN_PROGRESS,
            Register::Control => self.control,
            Register::Interrupt => self.enable | self.latched << 16,
        }
    }

    /// Writes the bits of `mask` of a register. Returns `false` if they cannot have these values.
    pub fn write(&mut self, register: Register, value: u32, mask: u32) -> bool {
        let ones = value & mask;
        let merged = |old: u32| old & !mask | ones;
        match register {
            Register::RingAddress => {
                self.base = self.base & !0xffff_ffff | u64::from(merged(self.base as u32));
            }
            Register::RingAddressHigh => {
                let high = merged((self.base >> 32) as u32);
                self.base = self.base & 0xffff_ffff | u64::from(high) << 32;
            }
            Register::NextAddress => self.next = merged(self.next),
            Register::Count => {
                let count = merged(self.count);
                self.count = count.min(MOST);
                return count <= MOST;
            }
            Register::PrefetchLimit => self.prefetch = merged(self.prefetch),
            Register::Control => return self.control(merged(self.control), ones),
            Register::Interrupt => {
                self.enable = merged(self.enable) & interrupt::ENABLES;
                self.latched &= !(ones >> 16);
            }
            // The device's own.
            Register::LastAddress | Register::LastSize => {}
        }
        true
    }

    fn control(&mut self, merged: u32, ones: u32) -> bool {
        let pauses = !self.control & ones & control::PAUSE != 0;
        let old = self.control & control::CLEARED & !ones;
        self.control = merged & control::KEPT | old;
        if pauses {
            self.stop(control::PAUSE_DONE);
        }
        if ones & control::ABORT != 0 {
            // The lane abandons it.
            self.busy = false;
            self.stop(control::ABORT_DONE);
        }
        let starts = ones & control::START != 0 && ones & control::ABORT == 0;
        if !starts || self.control & control::PAUSE != 0 {
            return true;
        }
        self.running = self.control & control::MODE == control::OFF_CHIP;
        self.running
    }

    fn stop(&mut self, done: u32) {
        self.running = false;
        self.stopping |= done;
    }

    fn invalid(&mut self) {
        self.latched |= interrupt::INVALID;
    }

    fn error(&mut self) {
        self.running = false;
        self.latched |= interrupt::ERROR;
    }

    /// Bytes from the ring's beginning to the next descriptor, if it is one of the ring's.
    fn offset(&self) -> Option<u64> {
        let offset = u64::from(self.next.wrapping_sub(self.base as u32));
        let sound = self.base % DESCRIPTOR == 0 && offset % DESCRIPTOR == 0;
        (sound && offset / DESCRIPTOR < self.count.into()).then_some(offset)
    }

    /// Returns the first word that says what became of a descriptor.
    fn written_back(job: &Job, result: Result<Command, Failure>) -> u32 {
        match result {
            Ok(command) => flag::SUCCESS | command.len,
            Err(Failure::Read) => flag::READ_FAILED | job.copied,
            Err(Failure::Write) => flag::WRITE_FAILED | job.copied,
            Err(Failure::Invalid | Failure::Ring) => job.copied,
        }
    }
}

impl Queue for Ring {
    type Job = Job;
    type Error = Failure;

    fn next(&mut self, dma: &dyn Dma) -> Option<Job> {
        if !self.running || self.busy {
            return None;
        }
        let mut bytes = [0; DESCRIPTOR as usize];
        let offset = self.offset();
        let at = offset
            .and_then(|offset| self.base.checked_add(offset))
            .filter(|at| dma.read(*at, &mut bytes).is_ok());
        self.fetched = at.is_some();
        let flags = u32_at(&bytes, 0);
        if at.is_some() && flags & flag::VALID == 0 {
            self.running = false;
            self.control |= control::INVALID;
            self.invalid();
            return None;
        }
        let end = u64::from(self.count) * DESCRIPTOR;
        let last = offset.is_none_or(|offset| offset + DESCRIPTOR >= end);
        self.busy = true;
        Some(Job {
            at,
            next: match last {
                true => self.base as u32,
                false => self.next.wrapping_add(DESCRIPTOR as u32),
            },
            last,
            interrupt: flags & flag::INTERRUPT != 0,
            // The driver takes the enable away as it pauses.
            write_back: self.control & control::WRITE_BACK != 0,
            copied: 0,
            command: match at {
                Some(_) => decode(&bytes),
                None => Err(Failure::Ring),
            },
        })
    }

    fn fetches(&mut self, _taken: bool) -> u64 {
        std::mem::take(&mut self.fetched).into()
    }

    fn execute(job: &mut Job, io: &mut Io<'_>) -> Result<(), Halt<Failure>> {
        let command = job.command.map_err(Halt::Failed)?;
        let bytes = (command.source, command.destination, command.len.into());
        let result = io.copy_or(bytes, Failure::Read, Failure::Write);
        job.copied = u32::try_from(io.copied()).unwrap_or(command.len);
        result
    }

    /// Returns the failure with this code: the place of the bit that the driver looks for.
    fn forced(code: Option<u8>) -> Failure {
        match code {
            None | Some(28) => Failure::Write,
            Some(29) => Failure::Read,
            Some(_) => Failure::Invalid,
        }
    }

    fn complete(&mut self, job: Job, result: Result<(), Failure>, dma: &dyn Dma) {
        self.busy = false;
        let result = result.and(job.command);
        let Some(at) = job.at else {
            self.error();
            return;
        };
        let word = Ring::written_back(&job, result);
        if job.write_back && dma.write(at, &word.to_le_bytes()).is_err() {
            // The driver could not learn of it.
            self.error();
            return;
        }
        self.last = (at as u32, word & flag::SIZE);
        // Unless the driver moved it meanwhile.
        if self.base.wrapping_add(self.offset().unwrap_or(u64::MAX)) == at {
            self.next = job.next;
        }
        match result {
            Ok(_) => {}
            Err(Failure::Invalid) => self.invalid(),
            Err(_) => self.latched |= interrupt::ERROR,
        }
        if job.interrupt {
            self.latched |= interrupt::DONE;
        }
        if job.last && self.control & control::RING_STOP != 0 {
            self.running = false;
        }
    }

    fn quiet(&mut self, _dma: &dyn Dma) {
        let done = std::mem::take(&mut self.stopping);
        self.control |= done;
        for (bit, event) in [
            (control::PAUSE_DONE, interrupt::PAUSE_DONE),
            (control::ABORT_DONE, interrupt::ABORT_DONE),
        ] {
            if done & bit != 0 {
                self.latched |= event;
            }
        }
    }

    fn interrupt(&mut self) -> Option<u16> {
        let enabled = (self.enable | interrupt::DONE) & interrupt::ALL;
        let asserted = self.latched & enabled != 0;
        let rises = asserted && !self.asserted;
        self.asserted = asserted;
        rises.then_some(0)
    }

    fn reset(&mut self) {
        *self = Ring::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_vfio::lane::step;
    use ferry_vfio::memory::Block;

    const BASE: u64 = 0x1_ffff_ff00;
    const START: u32 = control::START | control::OFF_CHIP | control::WRITE_BACK;
    const COPY: u32 = flag::VALID | flag::INTERRUPT | 64;

    fn memory() -> Block {
        Block::new(BASE, (0..0x2000).map(|i| (i / 7) as u8).collect())
    }

    fn put(memory: &Block, index: u64, flags: u32, source: u64, destination: u64) {
        let mut bytes = Vec::new();
        bytes.extend(flags.to_le_bytes());
        bytes.extend(((destination >> 32) as u16).to_le_bytes());
        bytes.extend(((source >> 32) as u16).to_le_bytes());
        bytes.extend((destination as u32).to_le_bytes());
        bytes.extend((source as u32).to_le_bytes());
        memory.write(BASE + index * DESCRIPTOR, &bytes).unwrap();
    }

    fn flags(memory: &Block, index: u64) -> u32 {
        let mut word = [0; 4];
        memory.read(BASE + index * DESCRIPTOR, &mut word).unwrap();
        u32::from_le_bytes(word)
    }

    /// Returns a ring of `count` at the memory's beginning, across 4 GiB, as the driver sets it up.
    fn ring(memory: &Block, count: u32) -> Ring {
        let mut ring = Ring::default();
        for i in 0..count {
            put(memory, i.into(), 0, 0, 0);
        }
        ring.set(Register::RingAddress, BASE as u32);
        ring.set(Register::RingAddressHigh, (BASE >> 32) as u32);
        ring.set(Register::NextAddress, BASE as u32);
        ring.set(Register::Count, count);
        ring
    }

    impl Ring {
        fn set(&mut self, register: Register, value: u32) {
            assert!(self.write(register, value, u32::MAX));
        }

        fn start(&mut self) {
            assert!(self.write(Register::Control, START, 0xffff));
        }

        /// Carries out descriptors until there are none left. Returns how many there were.
        fn run(&mut self, memory: &Block) -> u32 {
            let mut count = 0;
            while step(self, memory) {
                count += 1;
                assert!(count < 1000, "it never ends");
            }
            self.quiet(memory);
            count
        }

        fn status(&self) -> u32 {
            self.read(Register::Interrupt) >> 16
        }
    }

    #[test]
    fn a_ring_wraps_and_crosses_four_gigabytes() {
        let memory = memory();
        let mut ring = ring(&memory, 32);
        for i in 0..80u64 {
            put(&memory, i % 32, COPY, BASE + 0x1000 + i, BASE + 0x1800);
            ring.start();
            assert_eq!(ring.run(&memory), 1);
            assert_eq!(flags(&memory, i % 32), flag::SUCCESS | 64);
            let (mut from, mut to) = ([0; 64], [0; 64]);
            memory.read(BASE + 0x1000 + i, &mut from).unwrap();
            memory.read(BASE + 0x1800, &mut to).unwrap();
            assert_eq!(from, to);
        }
        let next = (BASE as u32).wrapping_add(80 % 32 * 16);
        assert_eq!(ring.read(Register::NextAddress), next);
        assert_eq!(ring.read(Register::LastSize), 64);
    }

    #[test]
    fn it_runs_to_the_first_that_is_not_valid() {
        let memory = memory();
        let mut ring = ring(&memory, 8);
        for i in [0, 1, 3] {
            put(&memory, i, COPY, BASE + 0x1000, BASE + 0x1800);
        }
        ring.start();
        assert_ne!(ring.read(Register::Control) & control::IN_PROGRESS, 0);
        assert_eq!(ring.run(&memory), 2);
        let control = ring.read(Register::Control);
        assert_eq!(control & control::IN_PROGRESS, 0);
        assert_ne!(control & control::INVALID, 0);
        put(&memory, 2, COPY, BASE + 0x1000, BASE + 0x1800);
        assert_eq!(ring.run(&memory), 0, "not before it is started");
        ring.start();
        assert_eq!(ring.run(&memory), 2);
        // The driver clears it so.
        ring.set(Register::Control, control::INVALID);
        assert_eq!(ring.read(Register::Control), 0);
    }

    #[test]
    fn failures_are_written_back_and_do_not_stop_the_ring() {
        let memory = memory();
        let mut ring = ring(&memory, 8);
        let (source, destination) = (BASE + 0x1000, BASE + 0x1800);
        put(&memory, 0, COPY, 0, destination);
        put(&memory, 1, COPY, source, BASE + 0x2000);
        put(&memory, 2, COPY & !flag::SIZE, source, destination);
        put(&memory, 3, COPY | 1 << 27, source, destination);
        put(&memory, 4, COPY | flag::WRITE_FAILED, source, destination);
        put(&memory, 5, COPY, source, destination);
        ring.start();
        assert_eq!(ring.run(&memory), 6);
        assert_eq!(flags(&memory, 0), flag::READ_FAILED);
        assert_eq!(flags(&memory, 1), flag::WRITE_FAILED);
        for i in 2..5 {
            assert_eq!(flags(&memory, i), 0, "descriptor {i}");
        }
        assert_eq!(flags(&memory, 5), flag::SUCCESS | 64);
        let all = interrupt::ERROR | interrupt::INVALID | interrupt::DONE;
        assert_eq!(ring.status(), all);
    }

    #[test]
    fn interrupts_as_they_are_asked_for() {
        let memory = memory();
        let mut ring = ring(&memory, 8);
        let quiet = COPY & !flag::INTERRUPT;
        put(&memory, 0, quiet, BASE + 0x1000, BASE + 0x1800);
        ring.start();
        assert_eq!(ring.run(&memory), 1);
        assert_eq!(
            ring.status(),
            interrupt::INVALID,
            "the end of what is valid"
        );
        assert_eq!(ring.interrupt(), None, "which is not enabled");
        ring.set(Register::Interrupt, interrupt::INVALID << 16);
        for i in 1..3 {
            put(&memory, i, COPY, BASE + 0x1000, BASE + 0x1800);
        }
        ring.start();
        assert!(step(&mut ring, &memory));
        assert_eq!(ring.interrupt(), Some(0));
        assert!(step(&mut ring, &memory));
        assert_eq!(ring.interrupt(), None, "it is latched still");
        // The handler writes 16 bits, in the upper half.
        ring.write(Register::Interrupt, interrupt::DONE << 16, 0xffff << 16);
        assert_eq!(ring.interrupt(), None);
        ring.write(Register::Interrupt, interrupt::INVALID, 0xffff);
        assert_eq!(ring.run(&memory), 0);
        assert_eq!(ring.interrupt(), Some(0));
    }

    #[test]
    fn pause_and_abort() {
        let memory = memory();
        let mut ring = ring(&memory, 8);
        put(&memory, 0, COPY, BASE + 0x1000, BASE + 0x1800);
        put(&memory, 1, COPY, BASE + 0x1000, BASE + 0x1800);
        ring.start();
        let job = ring.next(&memory).unwrap();
        let pause = control::PAUSE | control::CLEARED;
        ring.set(Register::Control, pause);
        assert_eq!(ring.read(Register::Control) & control::PAUSE_DONE, 0);
        ring.complete(job, Ok(()), &memory);
        assert_eq!(flags(&memory, 0), flag::SUCCESS | 64);
        assert_eq!(ring.run(&memory), 0);
        assert_ne!(ring.read(Register::Control) & control::PAUSE_DONE, 0);
        // The driver leaves the bit set, and takes the register to be clear else.
        ring.set(Register::Control, pause);
        ring.quiet(&memory);
        assert_eq!(ring.read(Register::Control), control::PAUSE);
        ring.set(Register::Control, 0);
        ring.start();
        ring.next(&memory).unwrap();
        ring.set(Register::Control, control::ABORT | control::START);
        ring.quiet(&memory);
        let control = ring.read(Register::Control);
        assert_eq!(control & control::IN_PROGRESS, 0);
        assert_ne!(control & control::ABORT_DONE, 0);
        assert_eq!(flags(&memory, 1), COPY, "abandoned");
        ring.start();
        assert_eq!(ring.run(&memory), 1);
        assert_eq!(flags(&memory, 1), flag::SUCCESS | 64);
    }

    #[test]
    fn what_is_no_ring_is_an_error() {
        let change: [fn(&mut Ring); 6] = [
            |r| r.set(Register::Count, 0),
            |r| r.set(Register::NextAddress, BASE as u32 + 8 * 16),
            |r| r.set(Register::NextAddress, BASE as u32 - 16),
            |r| r.set(Register::NextAddress, BASE as u32 + 8),
            |r| r.set(Register::RingAddressHigh, 0),
            |r| r.set(Register::RingAddressHigh, u32::MAX),
        ];
        for (i, change) in change.into_iter().enumerate() {
            let memory = memory();
            let mut ring = ring(&memory, 8);
            put(&memory, 0, COPY, BASE + 0x1000, BASE + 0x1800);
            let before = memory.bytes();
            change(&mut ring);
            ring.start();
            assert_eq!(ring.run(&memory), 1, "case {i}");
            assert_eq!(ring.status(), interrupt::ERROR, "case {i}");
            assert_eq!(ring.read(Register::Control) & control::IN_PROGRESS, 0);
            assert!(memory.bytes() == before, "case {i}");
        }
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let memory = memory();
        let mut ring = ring(&memory, 8);
        put(&memory, 0, COPY, BASE + 0x1000, BASE + 0x1800);
        for mode in [0, 1 << 5, 3 << 5] {
            assert!(!ring.write(Register::Control, control::START | mode, 0xffff));
            assert_eq!(ring.run(&memory), 0);
        }
        assert!(!ring.write(Register::Count, MOST + 1, u32::MAX));
        assert_eq!(ring.read(Register::Count), MOST);
        ring.set(Register::LastAddress, 1);
        assert_eq!(ring.read(Register::LastAddress), 0);
    }

    #[test]
    fn without_write_back_once_round() {
        let memory = memory();
        let mut ring = ring(&memory, 4);
        for i in 0..4 {
            put(&memory, i, COPY, BASE + 0x1000, BASE + 0x1800);
        }
        let once = control::START | control::OFF_CHIP | control::RING_STOP;
        assert!(ring.write(Register::Control, once, 0xffff));
        assert_eq!(ring.run(&memory), 4);
        assert_eq!(flags(&memory, 0), COPY);
        assert_eq!(ring.read(Register::NextAddress), BASE as u32);
    }
}
