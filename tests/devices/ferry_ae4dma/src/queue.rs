// SPDX-License-Identifier: GPL-2.0

//! A queue: its registers, its ring, its descriptors. Pure.

use ferry_vfio::bytes::{u32_at, u64_at};
use ferry_vfio::lane::{Halt, Io, Queue};
use ferry_vfio::memory::Dma;

/// Bytes of a descriptor.
pub const DESCRIPTOR: u64 = 32;
/// Most descriptors in a ring.
pub const MOST: u32 = 1 << 16;

const ENABLE: u32 = 1;
/// The field of the status register that says what the queue is like.
const STATUS_SHIFT: u32 = 1;
/// The values of it.
const EMPTY: u32 = 0;
const FULL: u32 = 1;
const STOPPED: u32 = 2;
const NOT_EMPTY: u32 = 3;

/// `AE4_DESC_COMPLETED`
pub const COMPLETED: u8 = 3;
/// Anything else that is not zero is an error to the driver.
pub const FAILED: u8 = 4;

/// Error codes.
pub mod code {
    /// `INVALID HEADER DW0`
    pub const HEADER: u8 = 1;
    /// `INVALID STATUS`
    pub const STATUS: u8 = 2;
    /// `INVALID LENGTH`
    pub const LENGTH: u8 = 3;
    /// `INVALID SRC ADDR`
    pub const SOURCE: u8 = 4;
    /// `INVALID DST ADDR`
    pub const DESTINATION: u8 = 5;
    /// `INVALID DESCRIPTOR`
    pub const DESCRIPTOR: u8 = 7;
    /// The first of the page table errors: reading.
    pub const READ: u8 = 64;
    /// Writing.
    pub const WRITE: u8 = 65;
}

/// `CMD_AE4_DESC_DW0_VAL`: interrupt on completion; stop on completion comes before it.
const STOP: u8 = 1 << 0;
const INTERRUPT: u8 = 1 << 1;

ferry_vfio::registers! {
    /// A queue's registers, by offset.
    pub enum Register {
        Control = 0x00,
        Status = 0x04,
        MaxIndex = 0x08,
        ReadIndex = 0x0c,
        WriteIndex = 0x10,
        InterruptStatus = 0x14,
        BaseLow = 0x18,
        BaseHigh = 0x1c,
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Ring {
    vector: u16,
    /// By the device's first register.
    enabled: bool,
    control: u32,
    stopped: bool,
    max: u32,
    read: u32,
    write: u32,
    interrupt_status: u32,
    base: u64,
    message: bool,
}

/// A descriptor, and where it was.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    at: Option<u64>,
    index: u32,
    flags: u8,
    command: Result<Command, u8>,
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

/// Reads a descriptor, or says what is wrong with it.
pub fn decode(bytes: &[u8; DESCRIPTOR as usize]) -> Result<Command, u8> {
    // The driver calls the first half of an address "hi", and puts the low half there.
    let (len, source, destination) = (u32_at(bytes, 8), u64_at(bytes, 16), u64_at(bytes, 24));
    if bytes[0] & !(STOP | INTERRUPT) != 0 || bytes[1] != 0 {
        return Err(code::HEADER);
    }
    if bytes[4] != 0 || bytes[5] != 0 {
        return Err(code::STATUS);
    }
    if u32_at(bytes, 12) != 0 {
        return Err(code::DESCRIPTOR);
    }
    if len == 0 || len % 4 != 0 {
        return Err(code::LENGTH);
    }
    if source % 4 != 0 {
        return Err(code::SOURCE);
    }
    if destination % 4 != 0 {
        return Err(code::DESTINATION);
    }
    Ok(Command {
        source,
        destination,
        len,
    })
}

impl Ring {
    /// Creates the queue with the given number in its state after power-on.
    pub fn new(vector: u16) -> Ring {
        Ring {
            vector,
            enabled: false,
            control: 0,
            stopped: false,
            max: 0,
            read: 0,
            write: 0,
            interrupt_status: 0,
            base: 0,
            message: false,
        }
    }

    /// Returns `true` if the queue is among those that the driver enabled.
    pub fn enable(&mut self, on: bool) {
        self.enabled = on;
        self.control = u32::from(on);
        self.stopped = false;
    }

    /// Returns the value of a register.
    pub fn read(&self, register: Register) -> u32 {
        match register {
            Register::Control => self.control,
            Register::Status => {
                let state = if self.stopped || self.control & ENABLE == 0 {
                    STOPPED
                } else if self.read == self.write {
                    EMPTY
                } else if self.after(self.write) == self.read {
                    FULL
                } else {
                    NOT_EMPTY
                };
                state << STATUS_SHIFT
            }
            Register::MaxIndex => self.max,
            Register::ReadIndex => self.read,
            Register::WriteIndex => self.write,
            Register::InterruptStatus => self.interrupt_status,
            Register::BaseLow => self.base as u32,
            Register::BaseHigh => (self.base >> 32) as u32,
        }
    }

    /// Writes a register. Returns `false` if the value is invalid.
    pub fn write(&mut self, register: Register, value: u32) -> bool {
        match register {
            Register::Control => {
                self.control = value & ENABLE;
                self.stopped = false;
            }
            Register::MaxIndex => {
                self.max = value.min(MOST);
                return value <= MOST;
            }
            Register::WriteIndex => {
                if value >= self.max {
                    self.halt();
                    return false;
                }
                self.write = value;
                self.stopped = false;
                self.control |= ENABLE;
            }
            Register::InterruptStatus => self.interrupt_status = value,
            Register::BaseLow => self.base = self.base & !0xffff_ffff | u64::from(value),
            Register::BaseHigh => self.base = self.base & 0xffff_ffff | u64::from(value) << 32,
            // The device's own.
            Register::Status | Register::ReadIndex => {}
        }
        true
    }

    fn after(&self, index: u32) -> u32 {
        match index.saturating_add(1) {
            next if next >= self.max => 0,
            next => next,
        }
    }

    /// Halts the queue after an error of the queue itself, not of a descriptor.
    fn halt(&mut self) {
        self.stopped = true;
        self.send();
    }

    fn send(&mut self) {
        self.interrupt_status |= 1;
        self.message = true;
    }
}

impl Queue for Ring {
    type Job = Job;
    type Error = u8;
    const STALLS: bool = true;

    fn next(&mut self, dma: &dyn Dma) -> Option<Job> {
        let runs = self.enabled && !self.stopped && self.control & ENABLE != 0;
        if !runs || self.read == self.write {
            return None;
        }
        // The maximum may have been lowered below either.
        if self.read >= self.max || self.write >= self.max {
            self.halt();
            return None;
        }
        let mut bytes = [0; DESCRIPTOR as usize];
        let at = self.base.checked_add(u64::from(self.read) * DESCRIPTOR);
        let at = at.filter(|at| dma.read(*at, &mut bytes).is_ok());
        Some(Job {
            at,
            index: self.read,
            flags: bytes[0],
            command: match at {
                Some(_) => decode(&bytes),
                None => Err(code::READ),
            },
        })
    }

    fn execute(job: &mut Job, io: &mut Io<'_>) -> Result<(), Halt<u8>> {
        let command = job.command.map_err(Halt::Failed)?;
        let bytes = (command.source, command.destination, command.len.into());
        io.copy_or(bytes, code::READ, code::WRITE)
    }

    fn forced(code: Option<u8>) -> u8 {
        code.unwrap_or(code::WRITE)
    }

    fn complete(&mut self, job: Job, result: Result<(), u8>, dma: &dyn Dma) {
        let result = result.and(job.command.map(|_| ()));
        let status = match result {
            Ok(()) => [COMPLETED, 0],
            Err(code) => [FAILED, code],
        };
        let written = job
            .at
            .and_then(|at| at.checked_add(4))
            .is_some_and(|at| dma.write(at, &status).is_ok());
        if !written {
            // The driver could not learn of it.
            self.halt();
            return;
        }
        if self.read == job.index {
            self.read = self.after(self.read);
        }
        if job.flags & STOP != 0 {
            self.stopped = true;
        }
        if job.flags & INTERRUPT != 0 {
            self.send();
        }
    }

    fn interrupt(&mut self) -> Option<u16> {
        std::mem::take(&mut self.message).then_some(self.vector)
    }

    fn reset(&mut self) {
        *self = Ring::new(self.vector);
    }
}
