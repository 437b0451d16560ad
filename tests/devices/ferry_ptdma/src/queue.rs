// SPDX-License-Identifier: GPL-2.0

//! The queue: its registers, its ring, its descriptors. Pure.

use ferry_vfio::bytes::u32_at;
use ferry_vfio::lane::{Halt, Io, Queue};
use ferry_vfio::memory::Dma;

/// Bytes of a descriptor.
pub const DESCRIPTOR: u64 = 32;

const RUN: u32 = 1 << 0;
const HALT: u32 = 1 << 1;
/// `CMD_Q_SIZE`: log2 of the descriptors, less one.
const SIZE_SHIFT: u32 = 3;
const SIZE_MASK: u32 = 0x1f;
/// Largest ring: as the 5 bits could say more than an address has.
const SIZE_MOST: u32 = 15;

/// `INT_COMPLETION`
pub const COMPLETION: u32 = 1 << 0;
/// `INT_ERROR`
pub const ERROR: u32 = 1 << 1;
/// `INT_QUEUE_STOPPED`
pub const STOPPED: u32 = 1 << 2;
/// `INT_EMPTY_QUEUE`
pub const EMPTY: u32 = 1 << 3;
const INTERRUPTS: u32 = COMPLETION | ERROR | STOPPED | EMPTY;

/// Error codes, by the numbers of the driver's texts.
pub mod code {
    /// `ILLEGAL_ENGINE`
    pub const ENGINE: u8 = 1;
    /// `ILLEGAL_FUNCTION_TYPE`
    pub const FUNCTION_TYPE: u8 = 3;
    /// `ILLEGAL_FUNCTION_MODE`
    pub const FUNCTION_MODE: u8 = 4;
    /// `ILLEGAL_FUNCTION_RSVD`
    pub const FUNCTION_RESERVED: u8 = 8;
    /// `ILLEGAL_BUFFER_LENGTH`
    pub const BUFFER_LENGTH: u8 = 9;
    /// `ILLEGAL_MEM_ADDR`
    pub const MEM_ADDR: u8 = 11;
    /// `ILLEGAL_MEM_SEL`
    pub const MEM_SEL: u8 = 12;
    /// `IDMA0_AXI_DECERR`
    pub const READ: u8 = 20;
    /// `ODMA0_AXI_DECERR`
    pub const WRITE: u8 = 39;
}

/// `PT_ENGINE_PASSTHRU`
const PASSTHRU: u32 = 5;
const DW0_SOC: u32 = 1 << 0;
const DW0_IOC: u32 = 1 << 1;
/// Initialize and end of message, which mean nothing to pass-through.
const DW0_INIT_EOM: u32 = 3 << 3;
const DW0_FUNCTION: u32 = 0x7fff << 5;
const DW0_ENGINE_SHIFT: u32 = 20;
const DW0_PROTECTED: u32 = 1 << 24;

ferry_vfio::registers! {
    /// The queue's registers, by offset from [`crate::QUEUE`].
    pub enum Register {
        Control = 0x00,
        Tail = 0x04,
        Head = 0x08,
        InterruptEnable = 0x0c,
        InterruptStatus = 0x10,
        Status = 0x100,
        QueueInterruptStatus = 0x104,
        DmaStatus = 0x108,
        DmaReadStatus = 0x10c,
        DmaWriteStatus = 0x110,
        Abort = 0x114,
        AxCache = 0x118,
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    control: u32,
    tail: u32,
    head: u32,
    enable: u32,
    latched: u32,
    error: u8,
    /// After an error, until the head is written.
    blocked: bool,
    cache: u32,
    /// `latched & enable` was not zero when last looked at.
    asserted: bool,
}

/// A descriptor, and where it was.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    head: u32,
    next: u32,
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
    /// Interrupt on completion.
    pub interrupt: bool,
    /// Stop on completion.
    pub stop: bool,
}

/// Reads a descriptor, or says what is wrong with it.
pub fn decode(bytes: &[u8; DESCRIPTOR as usize]) -> Result<Command, u8> {
    let word = |i: usize| u32_at(bytes, 4 * i);
    let (dw0, len) = (word(0), word(1));
    // Upper address bits, memory, LSB context, reserved, fixed.
    let side = |low: u32, word: u32, context: u32| {
        let reserved = word & 0x7ffc_0000 & !context;
        match (word >> 16 & 3, word >> 31, reserved) {
            (0, 0, 0) => Ok(u64::from(low) | u64::from(word & 0xffff) << 32),
            (1.., _, _) => Err(code::MEM_SEL),
            (_, 1.., _) => Err(code::FUNCTION_MODE),
            _ => Err(code::FUNCTION_RESERVED),
        }
    };
    let known = DW0_SOC | DW0_IOC | DW0_INIT_EOM | DW0_FUNCTION | 0xf << DW0_ENGINE_SHIFT;
    if dw0 >> DW0_ENGINE_SHIFT & 0xf != PASSTHRU {
        return Err(code::ENGINE);
    }
    if dw0 & DW0_FUNCTION != 0 {
        return Err(code::FUNCTION_TYPE);
    }
    if dw0 & !(known | DW0_PROTECTED) != 0 || word(6) != 0 || word(7) != 0 {
        return Err(code::FUNCTION_RESERVED);
    }
    if dw0 & DW0_PROTECTED != 0 {
        return Err(code::FUNCTION_MODE);
    }
    let source = side(word(2), word(3), 0xff << 18)?;
    let destination = side(word(4), word(5), 0)?;
    if len == 0 {
        return Err(code::BUFFER_LENGTH);
    }
    Ok(Command {
        source,
        destination,
        len,
        interrupt: dw0 & DW0_IOC != 0,
        stop: dw0 & DW0_SOC != 0,
    })
}

impl Ring {
    /// Returns the value of a register.
    pub fn read(&self, register: Register) -> u32 {
        match register {
            Register::Control => self.control,
            Register::Tail => self.tail,
            Register::Head => self.head,
            Register::InterruptEnable => self.enable,
            Register::InterruptStatus | Register::QueueInterruptStatus => self.latched,
            Register::Status => self.error.into(),
            Register::AxCache => self.cache,
            // These registers are of parts of the bus interface that the model does not have.
            Register::DmaStatus
            | Register::DmaReadStatus
            | Register::DmaWriteStatus
            | Register::Abort => 0,
        }
    }

    /// Writes a register.
    pub fn write(&mut self, register: Register, value: u32) {
        match register {
            Register::Control => self.control = value,
            Register::Tail => self.tail = value,
            Register::Head => {
                self.head = value;
                self.blocked = false;
            }
            Register::InterruptEnable => self.enable = value & INTERRUPTS,
            Register::InterruptStatus => self.latched &= !value,
            Register::AxCache => self.cache = value,
            Register::Abort if value & 1 != 0 => self.stop(),
            _ => {}
        }
    }

    /// Bytes of the ring.
    fn size(&self) -> u32 {
        let log = (self.control >> SIZE_SHIFT & SIZE_MASK).min(SIZE_MOST) + 1;
        (DESCRIPTOR as u32) << log
    }

    fn stop(&mut self) {
        self.control &= !RUN;
        self.latched |= STOPPED & self.enable;
    }

    fn fail(&mut self, code: u8) {
        self.error = code & 0x3f;
        self.blocked = true;
        self.latched |= ERROR;
        self.stop();
    }
}

impl Queue for Ring {
    type Job = Job;
    type Error = u8;
    const STALLS: bool = true;

    fn next(&mut self, dma: &dyn Dma) -> Option<Job> {
        if self.control & (RUN | HALT) != RUN || self.blocked || self.head == self.tail {
            return None;
        }
        let mask = self.size() - 1;
        let step = DESCRIPTOR as u32;
        let next = self.head & !mask | self.head.wrapping_add(step) & mask;
        // A tail that the head cannot come to would make the queue run round for ever.
        let sound =
            (self.head ^ self.tail) & !mask == 0 && self.head % step == 0 && self.tail % step == 0;
        let mut bytes = [0; DESCRIPTOR as usize];
        let at = u64::from(self.control >> 16) << 32 | u64::from(self.head);
        let command = if !sound {
            Err(code::MEM_ADDR)
        } else if dma.read(at, &mut bytes).is_err() {
            Err(code::READ)
        } else {
            decode(&bytes)
        };
        Some(Job {
            head: self.head,
            next,
            command,
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

    fn complete(&mut self, job: Job, result: Result<(), u8>, _dma: &dyn Dma) {
        match (result, job.command) {
            (Ok(()), Ok(command)) => {
                self.error = 0;
                // Unless the driver moved it meanwhile.
                if self.head == job.head {
                    self.head = job.next;
                }
                if command.interrupt {
                    self.latched |= COMPLETION;
                }
                if command.stop {
                    self.stop();
                } else if self.head == self.tail {
                    self.latched |= EMPTY & self.enable;
                }
            }
            (Err(code), _) | (_, Err(code)) => self.fail(code),
        }
    }

    fn interrupt(&mut self) -> Option<u16> {
        let asserted = self.latched & self.enable != 0;
        let rises = asserted && !self.asserted;
        self.asserted = asserted;
        rises.then_some(0)
    }

    fn reset(&mut self) {
        *self = Ring::default();
    }
}
