// SPDX-License-Identifier: GPL-2.0

//! Registers of BAR 0, all of 64 bits (SDXI 1.0, chapter 9).

/// A register that software may read, with its offset in BAR 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Register {
    /// Function control.
    #[doc(alias("CTL0", "MMIO_CTL0"))]
    Ctl0 = 0x00000,
    /// The limits that software will use.
    #[doc(alias("CTL2", "MMIO_CTL2"))]
    Ctl2 = 0x00010,
    /// Function status.
    #[doc(alias("STS0", "MMIO_STS0"))]
    Sts0 = 0x00100,
    /// Capabilities: function handle, doorbells and rings.
    #[doc(alias("CAP0", "MMIO_CAP0"))]
    Cap0 = 0x00200,
    /// Capabilities: buffers, AKeys, contexts and operation groups.
    #[doc(alias("CAP1", "MMIO_CAP1"))]
    Cap1 = 0x00208,
    /// Version of the standard.
    #[doc(alias("VERSION", "MMIO_VERSION"))]
    Version = 0x00210,
    /// The address of the level 2 context table.
    #[doc(alias("CXT_L2", "MMIO_CXT_L2"))]
    CxtL2 = 0x10000,
    /// Interrupt enable of the error log.
    #[doc(alias("ERR_CTL", "MMIO_ERR_CTL"))]
    ErrCtl = 0x20000,
    /// Status of the error log; a one clears a bit.
    #[doc(alias("ERR_STS", "MMIO_ERR_STS"))]
    ErrSts = 0x20008,
    /// The address and size of the error log.
    #[doc(alias("ERR_CFG", "MMIO_ERR_CFG"))]
    ErrCfg = 0x20010,
    /// The number of entries that the device has written.
    #[doc(alias("ERR_WRT", "MMIO_ERR_WRT"))]
    ErrWrt = 0x20020,
    /// The number of entries that software has read.
    #[doc(alias("ERR_RD", "MMIO_ERR_RD"))]
    ErrRd = 0x20028,
}

/// A register that software may write with any value, because it gives the device no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum WritableRegister {
    /// The limits that software will use.
    #[doc(alias("CTL2", "MMIO_CTL2"))]
    Ctl2 = Register::Ctl2 as u32,
    /// Interrupt enable of the error log.
    #[doc(alias("ERR_CTL", "MMIO_ERR_CTL"))]
    ErrCtl = Register::ErrCtl as u32,
    /// Status of the error log; a one clears a bit.
    #[doc(alias("ERR_STS", "MMIO_ERR_STS"))]
    ErrSts = Register::ErrSts as u32,
    /// The number of entries that the device has written.
    #[doc(alias("ERR_WRT", "MMIO_ERR_WRT"))]
    ErrWrt = Register::ErrWrt as u32,
    /// The number of entries that software has read.
    #[doc(alias("ERR_RD", "MMIO_ERR_RD"))]
    ErrRd = Register::ErrRd as u32,
}

/// The size of BAR 0 up to the end of the last register, in bytes.
pub const REGISTERS: usize = 0x20030;

/// The value that is read from each register of a function that has left the bus.
pub const GONE: u64 = u64::MAX;

/// The bit of ERR_STS that says that the device tried to log an error.
#[doc(alias = "sts")]
pub const ERR_STS_STS: u64 = 1;
/// The bit of ERR_STS that says that the log was full.
#[doc(alias = "ovf")]
pub const ERR_STS_OVF: u64 = 1 << 1;
/// The bit of ERR_STS that says that the device could not write the log.
#[doc(alias = "err")]
pub const ERR_STS_ERR: u64 = 1 << 3;
/// All bits of ERR_STS that have a meaning.
#[doc(alias = "ERR_STS")]
pub const ERR_STS_ALL: u64 = ERR_STS_STS | ERR_STS_OVF | ERR_STS_ERR;

/// A request of software to a function, in CTL0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "fn_gsr")]
pub enum ControlRequest {
    /// Leave the error state, or abandon all work and stop.
    Reset = 0,
    /// Stop when the descriptors that are being executed are done.
    #[doc(alias = "STOP_SF")]
    StopSoft = 1,
    /// Stop, and abandon the descriptors that are being executed.
    #[doc(alias = "STOP_HD")]
    StopHard = 2,
    /// Initialise and start.
    Active = 3,
}

impl ControlRequest {
    /// Returns the CTL0 for this request, given the CTL0 that was read: the function group stays,
    /// PASIDs are not used, and an active function that goes to the error state raises vector 0.
    #[doc(alias("CTL0", "fn_grp_id", "fn_err_intr_en"))]
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

/// The state of a function, in STS0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias("fn_gsv", "STS0"))]
pub enum FunctionState {
    /// The function is stopped and does not access memory.
    Stop,
    /// The function is starting.
    Init,
    /// The function runs.
    Active,
    /// The function is stopping, after a soft stop.
    #[doc(alias = "STOPG_SF")]
    StoppingSoft,
    /// The function is stopping, after a hard stop.
    #[doc(alias = "STOPG_HD")]
    StoppingHard,
    /// The function has failed.
    Error,
    /// The value has no meaning.
    Undefined,
    /// All bits are set: the function has left the bus.
    Gone,
}

impl FunctionState {
    /// Decodes the state in STS0.
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

    /// Returns the name for debugfs and the kernel log.
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

/// Returns the bits `high` to `low` of a word.
const fn bits(word: u64, high: u32, low: u32) -> u64 {
    (word >> low) & (u64::MAX >> (63 - (high - low)))
}

/// The bit of the interrupt group among the optional groups.
pub const GROUP_INTERRUPT: u32 = 1 << 4;

/// The capabilities of a function, from CAP0, CAP1 and VERSION.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias("CAP0", "CAP1"))]
pub struct Capabilities {
    /// The function handle.
    pub sfunc: u16,
    /// `true` for a virtual function.
    #[doc(alias = "vf")]
    pub virtual_function: bool,
    /// The distance from one doorbell to the next, in bytes.
    #[doc(alias = "db_stride")]
    pub stride: u32,
    /// The number of descriptors in the largest ring.
    #[doc(alias = "max_ds_ring_sz")]
    pub ring: u64,
    /// The size of the largest buffer: 2^(21 + n) bytes.
    pub max_buffer: u8,
    /// The size of the largest AKey table: 2^(8 + n) entries.
    #[doc(alias = "max_akey_sz")]
    pub max_akeys: u8,
    /// The highest context number.
    #[doc(alias = "max_cxt")]
    pub max_context: u16,
    /// The optional operation groups, one bit each.
    #[doc(alias = "opb_000_cap")]
    pub groups: u32,
    /// The major version of the standard.
    pub major: u8,
    /// The minor version of the standard.
    pub minor: u8,
}

/// The reason why a function cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// All bits of its registers are set.
    Gone,
    /// Its major version of the standard is not 1.
    Version(u8),
    /// It has the administrative context only.
    Contexts,
}

impl Capabilities {
    /// Decodes the registers.
    ///
    /// # Errors
    ///
    /// Returns the reason if the function cannot be used.
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

    /// Returns `true` if the function raises interrupts by descriptors.
    pub const fn interrupts(&self) -> bool {
        self.groups & GROUP_INTERRUPT != 0
    }

    /// Returns the limits that software uses, with contexts up to `max_context`.
    pub const fn limits(&self, max_context: u16) -> FunctionLimits {
        FunctionLimits {
            // 11 is 4 GiB, the largest copy that a descriptor can encode.
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

/// The limits that software uses of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "CTL2")]
pub struct FunctionLimits {
    /// The size of the largest buffer: 2^(21 + n) bytes.
    pub max_buffer: u8,
    /// The highest context number.
    #[doc(alias = "max_cxt")]
    pub max_context: u16,
    /// The optional operation groups, one bit each.
    #[doc(alias("opb_000_avl", "opb_000_enb"))]
    pub groups: u32,
}

impl FunctionLimits {
    /// Returns the CTL2 for these limits. AKey tables have the smallest size, which is encoded as
    /// 0.
    pub const fn ctl2(&self) -> u64 {
        self.max_buffer as u64 | (self.max_context as u64) << 16 | (self.groups as u64) << 32
    }

    /// Returns the size of the largest copy in bytes.
    pub const fn bytes(&self) -> u64 {
        1 << (21 + self.max_buffer)
    }
}

/// Encodes ERR_CFG for a log of 64 entries at `log`. Returns `None` unless that is a multiple of
/// 4096.
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
        // The limit is not higher than the capability.
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
