// SPDX-License-Identifier: GPL-2.0

//! Registers of BAR 0, all of 64 bits (SDXI 1.0, chapter 9).

/// A register that software may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Register {
    /// Function control.
    Ctl0 = 0x00000,
    /// The limits that software will use.
    Ctl2 = 0x00010,
    /// Function status.
    Sts0 = 0x00100,
    /// Capabilities.
    Cap0 = 0x00200,
    /// Capabilities.
    Cap1 = 0x00208,
    /// Version of the standard.
    Version = 0x00210,
    /// Where the level 2 context table is.
    CxtL2 = 0x10000,
    /// Interrupt of the error log.
    ErrCtl = 0x20000,
    /// What has happened to the error log, write one to clear.
    ErrSts = 0x20008,
    /// Where the error log is.
    ErrCfg = 0x20010,
    /// Entries that the device has written.
    ErrWrt = 0x20020,
    /// Entries that software has read.
    ErrRd = 0x20028,
}

/// A register that software may write with any value: none of these leads the device to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum WritableRegister {
    /// The limits that software will use.
    Ctl2 = Register::Ctl2 as u32,
    /// Interrupt of the error log.
    ErrCtl = Register::ErrCtl as u32,
    /// What has happened to the error log, write one to clear.
    ErrSts = Register::ErrSts as u32,
    /// Entries that the device has written.
    ErrWrt = Register::ErrWrt as u32,
    /// Entries that software has read.
    ErrRd = Register::ErrRd as u32,
}

/// Bytes of BAR 0 up to the last register.
pub const REGISTERS: usize = 0x20030;

/// What a register of a function reads as that is not there any more.
pub const GONE: u64 = u64::MAX;

/// ERR_STS: the device tried to log.
pub const ERR_STS_STS: u64 = 1;
/// ERR_STS: the log was full.
pub const ERR_STS_OVF: u64 = 1 << 1;
/// ERR_STS: the log could not be written.
pub const ERR_STS_ERR: u64 = 1 << 3;
/// All of ERR_STS.
pub const ERR_STS_ALL: u64 = ERR_STS_STS | ERR_STS_OVF | ERR_STS_ERR;

/// What software asks of a function, in CTL0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlRequest {
    /// Leave the error state, or give up whatever is going on.
    Reset = 0,
    /// Stop when what is being executed is done.
    StopSoft = 1,
    /// Stop.
    StopHard = 2,
    /// Initialise and start.
    Active = 3,
}

impl ControlRequest {
    /// CTL0 with this request, of a CTL0 that was read: the function group stays, PASIDs are not
    /// used, and a function in error raises vector 0.
    pub const fn ctl0(self, read: u64) -> u64 {
        const FN_ERR_INTR_EN: u64 = 1 << 4;
        const FN_GRP_ID: u64 = 0xffff_ffff << 32;
        let enable = match self {
            Self::Active => FN_ERR_INTR_EN,
            _ => 0,
        };
        read & FN_GRP_ID | enable | self as u64
    }
}

/// What a function is doing, in STS0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionState {
    /// Nothing; no memory is accessed.
    Stop,
    /// On its way to run.
    Init,
    /// Running.
    Active,
    /// On its way to stop, after a soft stop.
    StoppingSoft,
    /// On its way to stop, after a hard stop.
    StoppingHard,
    /// Failed.
    Error,
    /// A value without a meaning.
    Undefined,
    /// All bits are set: there is nobody who could answer.
    Gone,
}

impl FunctionState {
    /// The state that STS0 has.
    pub const fn of(sts0: u64) -> Self {
        if sts0 == GONE {
            return Self::Gone;
        }
        match sts0 & 7 {
            0 => Self::Stop,
            1 => Self::Init,
            2 => Self::Active,
            3 => Self::StoppingSoft,
            4 => Self::StoppingHard,
            5 => Self::Error,
            _ => Self::Undefined,
        }
    }

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stopped",
            Self::Init => "initialising",
            Self::Active => "active",
            Self::StoppingSoft => "stopping (soft)",
            Self::StoppingHard => "stopping (hard)",
            Self::Error => "error",
            Self::Undefined => "undefined",
            Self::Gone => "gone",
        }
    }
}

const fn bits(word: u64, high: u32, low: u32) -> u64 {
    (word >> low) & (u64::MAX >> (63 - (high - low)))
}

/// Bit of the interrupt group among the optional groups.
pub const GROUP_INTERRUPT: u32 = 1 << 4;

/// What a function can do: CAP0, CAP1 and VERSION.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Function handle.
    pub sfunc: u16,
    /// A virtual function.
    pub virtual_function: bool,
    /// From one doorbell to the next, in bytes.
    pub stride: u32,
    /// Descriptors in the largest ring.
    pub ring: u64,
    /// Largest buffer, as encoded.
    pub max_buffer: u8,
    /// Largest AKey table, as encoded.
    pub max_akeys: u8,
    /// The highest context number.
    pub max_context: u16,
    /// Optional operation groups.
    pub groups: u32,
    /// Version of the standard, major.
    pub major: u8,
    /// Version of the standard, minor.
    pub minor: u8,
}

/// Why a function cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// Its registers read as ones.
    Gone,
    /// Another version of the standard than 1.
    Version(u8),
    /// Only the administrative context.
    Contexts,
}

impl Capabilities {
    /// What the registers say.
    pub const fn read(cap0: u64, cap1: u64, version: u64) -> Result<Self, Unfit> {
        if cap0 == GONE || cap1 == GONE || version == GONE {
            return Err(Unfit::Gone);
        }
        let major = bits(version, 23, 16) as u8;
        if major != 1 {
            return Err(Unfit::Version(major));
        }
        let max_context = bits(cap1, 31, 16) as u16;
        if max_context == 0 {
            return Err(Unfit::Contexts);
        }
        Ok(Self {
            sfunc: bits(cap0, 15, 0) as u16,
            virtual_function: bits(cap0, 16, 16) != 0,
            stride: 4096 << bits(cap0, 22, 20),
            ring: 1024 << bits(cap0, 28, 24),
            max_buffer: bits(cap1, 3, 0) as u8,
            max_akeys: bits(cap1, 15, 12) as u8,
            max_context,
            groups: bits(cap1, 63, 32) as u32,
            major,
            minor: bits(version, 7, 0) as u8,
        })
    }

    /// Does it raise interrupts on demand?
    pub const fn interrupts(&self) -> bool {
        self.groups & GROUP_INTERRUPT != 0
    }

    /// What is used of it.
    pub const fn limits(&self, max_context: u16) -> FunctionLimits {
        FunctionLimits {
            // What is encoded above 11 is more than a descriptor can say.
            max_buffer: if self.max_buffer < 11 {
                self.max_buffer
            } else {
                11
            },
            max_context: if max_context < self.max_context {
                max_context
            } else {
                self.max_context
            },
            groups: self.groups & GROUP_INTERRUPT,
        }
    }
}

/// What software uses of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionLimits {
    /// Largest buffer, as encoded.
    pub max_buffer: u8,
    /// The highest context number.
    pub max_context: u16,
    /// Optional operation groups.
    pub groups: u32,
}

impl FunctionLimits {
    /// CTL2. AKey tables have the smallest size, which is encoded as 0.
    pub const fn ctl2(&self) -> u64 {
        self.max_buffer as u64 | (self.max_context as u64) << 16 | (self.groups as u64) << 32
    }

    /// Bytes of the largest copy.
    pub const fn bytes(&self) -> u64 {
        1 << (21 + self.max_buffer)
    }
}

/// ERR_CFG for a log of 64 entries at `log`, which is a multiple of 4096.
pub const fn err_cfg(log: u64) -> Option<u64> {
    if log & 0xfff != 0 {
        return None;
    }
    Some(log | 0x3)
}

#[cfg_attr(
    CONFIG_KUNIT = "y",
    kernel::macros::kunit_tests(ferry_core_sdxi_registers)
)]
#[cfg_attr(not(CONFIG_KUNIT = "y"), cfg(test))]
mod tests {
    use super::*;

    #[test]
    fn capabilities() {
        // The configuration that the datasheet recommends for a model, section 11.
        let read = Capabilities::read(0x0600_0001, 0x10_003f_800b, 0x1_0000);
        let Ok(caps) = read else {
            panic!("unfit");
        };
        assert_eq!(caps.sfunc, 1);
        assert!(!caps.virtual_function);
        assert_eq!(caps.stride, 4096);
        assert_eq!(caps.ring, 65536);
        assert_eq!(caps.max_buffer, 11);
        assert_eq!(caps.max_akeys, 8);
        assert_eq!(caps.max_context, 63);
        assert!(caps.interrupts());
        let limits = caps.limits(7);
        assert_eq!(limits.ctl2(), 0x10_0007_000b);
        assert_eq!(limits.bytes(), 1 << 32);
        // Not more than it has.
        assert_eq!(caps.limits(1000).max_context, 63);
    }

    #[test]
    fn what_cannot_be_used() {
        let read = Capabilities::read;
        assert_eq!(read(GONE, 0x3f_0000, 0x1_0000), Err(Unfit::Gone));
        assert_eq!(read(0, 0x3f_0000, GONE), Err(Unfit::Gone));
        assert_eq!(read(0, 0x3f_0000, 0x2_0000), Err(Unfit::Version(2)));
        assert_eq!(read(0, 0, 0x1_0000), Err(Unfit::Contexts));
    }

    #[test]
    fn extremes() {
        let Ok(caps) = Capabilities::read(GONE - 1, GONE - 1, 0x01_00ff) else {
            panic!("unfit");
        };
        assert_eq!(caps.stride, 4096 << 7);
        assert_eq!(caps.ring, 1024 << 31);
        assert_eq!(caps.limits(u16::MAX).bytes(), 1 << 32);
        assert_eq!(caps.limits(u16::MAX).groups, GROUP_INTERRUPT);
    }

    #[test]
    fn states() {
        assert_eq!(FunctionState::of(0), FunctionState::Stop);
        assert_eq!(FunctionState::of(2), FunctionState::Active);
        assert_eq!(FunctionState::of(0xffff_fff5), FunctionState::Error);
        assert_eq!(FunctionState::of(7), FunctionState::Undefined);
        assert_eq!(FunctionState::of(GONE), FunctionState::Gone);
    }

    #[test]
    fn control() {
        let group = 0xabcd_ef01_0000_0000;
        assert_eq!(
            ControlRequest::Active.ctl0(group | 0xfff_ff07),
            group | 0x13
        );
        assert_eq!(ControlRequest::StopHard.ctl0(group), group | 2);
        assert_eq!(ControlRequest::Reset.ctl0(u64::MAX), 0xffff_ffff_0000_0000);
        assert_eq!(err_cfg(0x1_2345_6000), Some(0x1_2345_6003));
        assert_eq!(err_cfg(0x1_2345_6040), None);
    }
}
