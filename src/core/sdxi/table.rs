// SPDX-License-Identifier: GPL-2.0

//! Structures in memory through which the device finds a context (SDXI 1.0, chapter 3).
//!
//! Word 0 of each structure has the valid bit and is written last; all words are cleared before an
//! entry is used again.

use super::registers::FunctionLimits;

/// Number of 64-bit words in a level 1 entry.
#[doc(alias = "CXT_L1_ENT")]
pub const L1_WORDS: usize = 4;
/// Number of contexts in a level 1 table.
pub const L1_ENTRIES: usize = 128;
/// Number of 64-bit words in a context control block.
#[doc(alias = "CXT_CTL")]
pub const CONTROL_WORDS: usize = 8;
/// Number of 64-bit words in the context status.
#[doc(alias = "CXT_STS")]
pub const STATUS_WORDS: usize = 2;
/// Number of 64-bit words in an AKey.
#[doc(alias = "AKEY_ENT")]
pub const AKEY_WORDS: usize = 2;
/// Number of entries in the smallest AKey table.
#[doc(alias = "akey_sz")]
pub const AKEYS: usize = 256;
/// Number of 64-bit words in a completion status block.
#[doc(alias = "CST_BLK")]
pub const CSB_WORDS: usize = 4;
/// The size of a page in bytes, which is the unit and the alignment of tables.
pub const PAGE: usize = 4096;

// A level 1 table and an AKey table are one page each.
const _: () = assert!(L1_WORDS * L1_ENTRIES * 8 == PAGE);
const _: () = assert!(AKEY_WORDS * AKEYS * 8 == PAGE);

/// The state of a context, in CXT_STS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "CXT_STS")]
pub enum ContextState {
    /// Software has stopped the context, or never started it.
    #[doc(alias = "STOP_SW")]
    Stopped,
    /// The context runs.
    Run,
    /// The context is stopping, as software has asked it to.
    #[doc(alias = "STOPG_SW")]
    Stopping,
    /// The context has stopped with the function.
    #[doc(alias = "STOP_FN")]
    StoppedByFunction,
    /// The context is stopping with the function.
    #[doc(alias = "STOPG_FN")]
    StoppingByFunction,
    /// The function has stopped the context after an error.
    #[doc(alias = "ERR_FN")]
    Error,
    /// The value has no meaning.
    Undefined,
}

impl ContextState {
    /// Decodes the state in word 0 of CXT_STS.
    pub const fn of(word: u64) -> Self {
        match word & 0xf {
            0x0 => Self::Stopped,
            0x1 => Self::Run,
            0x2 => Self::Stopping,
            0x4 => Self::StoppedByFunction,
            0x6 => Self::StoppingByFunction,
            0xf => Self::Error,
            _ => Self::Undefined,
        }
    }

    /// Word 0 of CXT_STS of a context that runs; software writes it for context 0 only.
    pub const RUN: u64 = 1;

    /// Returns the name for debugfs and the kernel log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Run => "run",
            Self::Stopping => "stopping",
            Self::StoppedByFunction => "stopped by the function",
            Self::StoppingByFunction => "being stopped by the function",
            Self::Error => "error",
            Self::Undefined => "undefined",
        }
    }
}

/// Encodes a level 2 entry, for a level 1 table at `l1`. Returns `None` unless that is a page.
#[doc(alias = "CXT_L2_ENT")]
pub const fn l2(l1: u64) -> Option<u64> {
    if l1 & 0xfff != 0 {
        return None;
    }
    Some(l1 | 1)
}

/// Encodes a level 1 entry without a PASID, for a context control block at `control` and an AKey
/// table of the smallest size at `akeys`. Returns `None` if an address is not aligned.
#[doc(alias = "CXT_L1_ENT")]
pub const fn l1(control: u64, akeys: u64, limits: &FunctionLimits) -> Option<[u64; L1_WORDS]> {
    if control & 0x3f != 0 || akeys & 0xfff != 0 {
        return None;
    }
    let word2 = (limits.max_buffer as u64) << 20 | (limits.groups as u64) << 32;
    Some([control | 0x3, akeys, word2, 0])
}

/// Encodes a context control block: a ring of `slots` descriptors at `ring`, and the addresses of
/// the context status and the write index. Returns `None` if an address is not aligned, or the ring
/// has no slots.
#[doc(alias = "CXT_CTL")]
pub const fn control(
    ring: u64,
    slots: u32,
    status: u64,
    write_index: u64,
) -> Option<[u64; CONTROL_WORDS]> {
    if ring & 0x3f != 0 || slots == 0 || status & 0xf != 0 || write_index & 0x7 != 0 {
        return None;
    }
    // Bit 5 selects the completion mode in which the device counts the signal down.
    Some([ring | 0x21, slots as u64, status, write_index, 0, 0, 0, 0])
}

/// Encodes an AKey for the function's own memory and, if given, an interrupt. Returns `None` unless
/// the interrupt is 1 to 2047; 0 is that of the error log.
#[doc(alias = "AKEY_ENT")]
pub const fn akey(interrupt: Option<u16>) -> Option<[u64; AKEY_WORDS]> {
    match interrupt {
        None => Some([0x1, 0]),
        Some(n) if n > 0 && n < 1 << 11 => Some([0x3 | (n as u64) << 4, 0]),
        Some(_) => None,
    }
}

#[cfg_attr(CONFIG_KUNIT = "y", kernel::macros::kunit_tests(ferry_core_sdxi_table))]
#[cfg_attr(not(CONFIG_KUNIT = "y"), cfg(test))]
mod tests {
    use super::*;

    const LIMITS: FunctionLimits = FunctionLimits {
        max_buffer: 11,
        max_context: 63,
        groups: 0x10,
    };

    #[test]
    fn golden_entries() {
        assert_eq!(l2(0x7000), Some(0x7001));
        assert_eq!(l2(0x7040), None);
        let entry = [0x12_3443, 0x5000, 0x0000_0010_00b0_0000, 0];
        assert_eq!(l1(0x12_3440, 0x5000, &LIMITS), Some(entry));
        assert_eq!(l1(0x12_3460, 0x5000, &LIMITS), None);
        assert_eq!(l1(0x12_3440, 0x5010, &LIMITS), None);
    }

    #[test]
    fn golden_control() {
        let block = [0x8_0021, 1024, 0x9010, 0x9048, 0, 0, 0, 0];
        assert_eq!(control(0x8_0000, 1024, 0x9010, 0x9048), Some(block));
        assert_eq!(control(0x8_0020, 1024, 0x9010, 0x9048), None);
        assert_eq!(control(0x8_0000, 0, 0x9010, 0x9048), None);
        assert_eq!(control(0x8_0000, 1024, 0x9018, 0x9048), None);
        assert_eq!(control(0x8_0000, 1024, 0x9010, 0x9044), None);
    }

    #[test]
    fn golden_akeys() {
        assert_eq!(akey(None), Some([0x0001, 0]));
        assert_eq!(akey(Some(1)), Some([0x0013, 0]));
        assert_eq!(akey(Some(2047)), Some([0x7ff3, 0]));
        assert_eq!(akey(Some(0)), None);
        assert_eq!(akey(Some(2048)), None);
    }

    #[test]
    fn states() {
        assert_eq!(ContextState::of(0), ContextState::Stopped);
        assert_eq!(ContextState::of(ContextState::RUN), ContextState::Run);
        assert_eq!(ContextState::of(0xffff_ff0f), ContextState::Error);
        assert_eq!(ContextState::of(0xff03), ContextState::Undefined);
    }
}
