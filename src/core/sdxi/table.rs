// SPDX-License-Identifier: GPL-2.0

//! Structures in memory that lead the device to a context (SDXI 1.0, chapter 3).
//!
//! Of each, word 0 has the valid bit and is written last; all words are cleared before an entry is
//! used again.

use super::registers::FunctionLimits;

/// Words of a level 1 entry.
pub const L1_WORDS: usize = 4;
/// Contexts of a level 1 table.
pub const L1_ENTRIES: usize = 128;
/// Words of a context control block.
pub const CONTROL_WORDS: usize = 8;
/// Words of the context status.
pub const STATUS_WORDS: usize = 2;
/// Words of an AKey.
pub const AKEY_WORDS: usize = 2;
/// Entries of the smallest AKey table.
pub const AKEYS: usize = 256;
/// Words of a completion status block.
pub const CSB_WORDS: usize = 4;
/// Bytes of a page, in which tables come.
pub const PAGE: usize = 4096;

// A level 1 and an AKey table are a page.
const _: () = assert!(L1_WORDS * L1_ENTRIES * 8 == PAGE);
const _: () = assert!(AKEY_WORDS * AKEYS * 8 == PAGE);

/// The state of a context, in CXT_STS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextState {
    /// Stopped by software, or never started.
    Stopped,
    /// Runs.
    Run,
    /// Software has asked it to stop.
    Stopping,
    /// Stopped with the function.
    StoppedByFunction,
    /// Stops with the function.
    StoppingByFunction,
    /// Stopped after an error.
    Error,
    /// A value without a meaning.
    Undefined,
}

impl ContextState {
    /// The state in word 0 of CXT_STS.
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

    /// For people.
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

/// A level 2 entry, for a level 1 table at `l1`.
pub const fn l2(l1: u64) -> Option<u64> {
    if l1 & 0xfff != 0 {
        return None;
    }
    Some(l1 | 1)
}

/// A level 1 entry, with an AKey table of the smallest size. No PASID.
pub const fn l1(control: u64, akeys: u64, limits: &FunctionLimits) -> Option<[u64; L1_WORDS]> {
    if control & 0x3f != 0 || akeys & 0xfff != 0 {
        return None;
    }
    let word2 = (limits.max_buffer as u64) << 20 | (limits.groups as u64) << 32;
    Some([control | 0x3, akeys, word2, 0])
}

/// A context control block: `slots` descriptors at `ring`.
pub const fn control(
    ring: u64,
    slots: u32,
    status: u64,
    write_index: u64,
) -> Option<[u64; CONTROL_WORDS]> {
    if ring & 0x3f != 0 || slots == 0 || status & 0xf != 0 || write_index & 0x7 != 0 {
        return None;
    }
    // The completion mode in which a signal is counted down.
    Some([ring | 0x21, slots as u64, status, write_index, 0, 0, 0, 0])
}

/// An AKey for the function's own memory, and an interrupt; 0 is that of the error log.
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
