// SPDX-License-Identifier: GPL-2.0

//! Structures in memory, and what can be wrong with them. Pure.

use crate::choices::{akey_entries, buffer_bytes};
use ferry_vfio::bytes::{u16_at, u32_at, u64_at};

/// The step at which an operation failed (error log, `step`).
pub mod step {
    /// Internal.
    pub const INTERNAL: u8 = 1;
    /// L2 entry.
    pub const L2: u8 = 2;
    /// L1 entry.
    pub const L1: u8 = 3;
    /// Context control.
    pub const CONTROL: u8 = 4;
    /// Context status.
    pub const STATUS: u8 = 5;
    /// Write index.
    pub const WRITE_INDEX: u8 = 6;
    /// Descriptor.
    pub const DESCRIPTOR: u8 = 7;
    /// Completion status block.
    pub const CSB: u8 = 8;
    /// Data buffer.
    pub const BUFFER: u8 = 10;
    /// AKey.
    pub const AKEY: u8 = 11;
}

/// The kind of failure (error log, `sub_step`).
pub mod sub {
    /// Otherwise.
    pub const OTHER: u8 = 0;
    /// Address translation.
    pub const TRANSLATION: u8 = 1;
    /// Data access.
    pub const ACCESS: u8 = 2;
    /// Data validation.
    pub const VALIDATION: u8 = 3;
}

/// The reaction of the device to a failure (error log, `re`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Nothing.
    Informative = 0,
    /// The context was stopped.
    ContextStopped = 1,
    /// The function was stopped.
    FunctionStopped = 2,
}

/// A failure as the error log describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// See [`step`].
    pub step: u8,
    /// See [`sub`].
    pub sub: u8,
    /// The data buffer, 0 for the source and 1 for the destination.
    pub buffer: Option<u8>,
}

impl Failure {
    /// The device itself.
    pub const INTERNAL: Failure = Failure {
        step: step::INTERNAL,
        sub: sub::OTHER,
        buffer: None,
    };

    /// Returns the failure of a validation.
    pub const fn invalid(step: u8) -> Failure {
        Failure {
            step,
            sub: sub::VALIDATION,
            buffer: None,
        }
    }

    /// Returns the failure of an access.
    pub const fn access(step: u8) -> Failure {
        Failure {
            sub: sub::ACCESS,
            ..Failure::invalid(step)
        }
    }

    /// Returns the failure of a data buffer.
    pub const fn buffer(sub: u8, buffer: u8) -> Failure {
        Failure {
            step: step::BUFFER,
            sub,
            buffer: Some(buffer),
        }
    }

    /// Creates a failure from the code of a fault: the step in bits 0 to 5, the sub-step above.
    /// Without a code, the destination cannot be written.
    pub fn from_code(code: Option<u8>) -> Failure {
        let Some(code) = code else {
            return Failure::buffer(sub::ACCESS, 1);
        };
        Failure {
            step: code & 0x3f,
            sub: code >> 6,
            buffer: (code & 0x3f == step::BUFFER).then_some(1),
        }
    }
}

/// Bytes of an entry of the error log.
pub const LOG_ENTRY: u64 = 64;
const LOG_TYPE: u64 = 0x7f7;

/// Returns the first two words of an error log entry; the others are 0.
pub fn log_entry(
    failure: Failure,
    context: u16,
    index: Option<u64>,
    reaction: Reaction,
) -> [u64; 2] {
    let bit = |set: bool, at: u32| u64::from(set) << at;
    let head = 1
        | u64::from(failure.step & 0x3f) << 8
        | LOG_TYPE << 16
        | 1 << 32
        | bit(index.is_some(), 33)
        | bit(failure.buffer.is_some(), 34)
        | u64::from(failure.buffer.unwrap_or(0) & 7) << 36
        | u64::from(failure.sub & 0xf) << 40
        | (reaction as u64) << 44
        | u64::from(context) << 48;
    [head, index.unwrap_or(0)]
}

/// State of a context, in CXT_STS.
pub mod state {
    /// Stopped by software, or never started.
    pub const STOP_SW: u64 = 0x0;
    /// Runs.
    pub const RUN: u64 = 0x1;
    /// Stopping for software.
    pub const STOPG_SW: u64 = 0x2;
    /// Stopped with the function.
    pub const STOP_FN: u64 = 0x4;
    /// Stopping with the function.
    pub const STOPG_FN: u64 = 0x6;
    /// Stopped for an error.
    pub const ERR_FN: u64 = 0xf;
}

/// Limits that the function sets for its contexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Address of the L2 table.
    pub l2: u64,
    /// Largest buffer, in bytes.
    pub buffer: u64,
    /// Largest AKey table, encoded.
    pub akeys: u64,
    /// Largest ring, in descriptors.
    pub ring: u64,
    /// Highest context.
    pub context: u16,
    /// Optional groups.
    pub groups: u32,
}

/// Returns the address of the L1 table from an entry of the L2 table.
pub fn l2_entry(entry: u64) -> Result<u64, Failure> {
    match entry & 0xfff {
        1 => Ok(entry & !0xfff),
        _ => Err(Failure::invalid(step::L2)),
    }
}

/// An entry of the L1 table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct L1 {
    /// Address of CXT_CTL.
    pub control: u64,
    /// Address of the AKey table.
    pub akeys: u64,
    /// Entries of it.
    pub akey_entries: u64,
    /// Largest buffer, in bytes.
    pub buffer: u64,
    /// Optional groups.
    pub groups: u32,
}

/// Reads an L1 entry.
pub fn l1_entry(bytes: &[u8; 32], limits: &Limits) -> Result<L1, Failure> {
    let (control, akeys) = (u64_at(bytes, 0), u64_at(bytes, 8));
    let (misc, groups) = (u32_at(bytes, 16), u32_at(bytes, 20));
    let valid = control & 1 != 0;
    // pv, and the reserved bits.
    let reserved = control & 0x3c | akeys & 0xff0 | u64::from(misc & 0xff00_0000);
    let size = akeys & 0xf;
    if !valid || reserved != 0 || u64_at(bytes, 24) != 0 || size > limits.akeys {
        return Err(Failure::invalid(step::L1));
    }
    Ok(L1 {
        control: control & !0x3f,
        akeys: akeys & !0xfff,
        akey_entries: akey_entries(size),
        buffer: buffer_bytes(u64::from(misc >> 20)).min(limits.buffer),
        groups: groups & limits.groups,
    })
}

/// CXT_CTL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// Address of the ring.
    pub ring: u64,
    /// Descriptors in it.
    pub entries: u64,
    /// Address of CXT_STS.
    pub status: u64,
    /// Address of Write_Index.
    pub write_index: u64,
}

/// Reads CXT_CTL.
pub fn control(bytes: &[u8; 64], limits: &Limits) -> Result<Control, Failure> {
    let (ring, entries) = (u64_at(bytes, 0), u64::from(u32_at(bytes, 8)));
    let (status, write_index) = (u64_at(bytes, 16), u64_at(bytes, 24));
    let valid = ring & 1 != 0;
    let reserved = ring & 2 != 0
        || u32_at(bytes, 12) != 0
        || status & 0xf != 0
        || write_index & 7 != 0
        || bytes[32..].iter().any(|b| *b != 0);
    let start = ring & !0x3f;
    let fits = start.checked_add(entries * 64).is_some();
    if !valid || reserved || entries == 0 || entries > limits.ring || !fits {
        return Err(Failure::invalid(step::CONTROL));
    }
    Ok(Control {
        ring: start,
        entries,
        status,
        write_index,
    })
}

/// Bytes of an AKey.
pub const AKEY: u64 = 16;

/// Reads an AKey that must be of this function, without PASID: its interrupt, if it has one.
pub fn akey(bytes: &[u8; AKEY as usize]) -> Result<Option<u16>, Failure> {
    let (flags, function) = (u16_at(bytes, 0), u16_at(bytes, 2));
    let pasid = u32_at(bytes, 4);
    let valid = flags & 1 != 0;
    let pv = flags & 4 != 0;
    // Without the PASID itself, and the processing hint.
    let reserved = flags & 0x8000 != 0
        || pasid & 0x3ff0_0000 != 0
        || u16_at(bytes, 10) != 0
        || u16_at(bytes, 14) != 0;
    if !valid || pv || reserved || function != 0 {
        return Err(Failure::invalid(step::AKEY));
    }
    Ok((flags & 2 != 0).then_some(flags >> 4 & 0x7ff))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        l2: 0,
        buffer: 1 << 30,
        akeys: 2,
        ring: 65536,
        context: 63,
        groups: 0x10,
    };

    fn set<const N: usize>(mut bytes: [u8; N], at: usize, value: &[u8]) -> [u8; N] {
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    }

    #[test]
    fn golden_log_entry() {
        let entry = log_entry(
            Failure::invalid(step::DESCRIPTOR),
            3,
            Some(9),
            Reaction::ContextStopped,
        );
        assert_eq!(entry, [0x0003_1303_07f7_0701, 9]);
        let entry = log_entry(Failure::buffer(1, 1), 0xffff, None, Reaction::Informative);
        assert_eq!(entry, [0xffff_0115_07f7_0a01, 0]);
    }

    #[test]
    fn codes() {
        assert_eq!(Failure::from_code(None), Failure::buffer(2, 1));
        assert_eq!(Failure::from_code(Some(10 | 1 << 6)), Failure::buffer(1, 1));
        assert_eq!(Failure::from_code(Some(8 | 2 << 6)), Failure::access(8));
    }

    #[test]
    fn l2() {
        assert_eq!(l2_entry(0x1234_5001), Ok(0x1234_5000));
        for bad in [0, 0x1000, 0x1003, 0x1801] {
            assert_eq!(l2_entry(bad), Err(Failure::invalid(2)));
        }
    }

    #[test]
    fn l1() {
        // Golden: vl and ka; max_buffer 11.
        let good = set([0; 32], 0, &(0x7_0040u64 | 3).to_le_bytes());
        let good = set(good, 8, &(0x8000u64 | 1).to_le_bytes());
        let good = set(good, 16, &0x00b0_0000u32.to_le_bytes());
        let good = set(good, 20, &0x18u32.to_le_bytes());
        let expected = L1 {
            control: 0x7_0040,
            akeys: 0x8000,
            akey_entries: 512,
            buffer: 1 << 30,
            groups: 0x10,
        };
        assert_eq!(l1_entry(&good, &LIMITS), Ok(expected));
        let small = set(good, 16, &0u32.to_le_bytes());
        assert_eq!(l1_entry(&small, &LIMITS).unwrap().buffer, 2 << 20);
        for (at, value) in [
            (0, 0x02),
            (0, 0x07),
            (0, 0x0b),
            (0, 0x23),
            (8, 0x11),
            (8, 0x03),
            (9, 0x88),
            (19, 0x01),
            (24, 0x01),
            (31, 0x80),
        ] {
            let bad = set(good, at, &[value]);
            assert_eq!(l1_entry(&bad, &LIMITS), Err(Failure::invalid(3)), "{at}");
        }
    }

    #[test]
    fn context_control() {
        // Golden: vl and csa.
        let good = set([0; 64], 0, &(0x4_0000u64 | 0x21).to_le_bytes());
        let good = set(good, 8, &1024u32.to_le_bytes());
        let good = set(good, 16, &0x9000u64.to_le_bytes());
        let good = set(good, 24, &0xa008u64.to_le_bytes());
        let expected = Control {
            ring: 0x4_0000,
            entries: 1024,
            status: 0x9000,
            write_index: 0xa008,
        };
        assert_eq!(control(&good, &LIMITS), Ok(expected));
        let top = set(good, 0, &(u64::MAX << 12 | 1).to_le_bytes());
        let short = set(good, 8, &1000u32.to_le_bytes());
        assert_eq!(control(&short, &LIMITS).unwrap().entries, 1000);
        for bad in [
            set(good, 0, &[0x20]),
            set(good, 0, &[0x23]),
            set(good, 8, &[0; 4]),
            set(good, 8, &65537u32.to_le_bytes()),
            set(good, 12, &[1]),
            set(good, 16, &[8]),
            set(good, 24, &[4]),
            set(good, 32, &[1]),
            set(good, 63, &[1]),
            top,
        ] {
            assert_eq!(control(&bad, &LIMITS), Err(Failure::invalid(4)));
        }
    }

    #[test]
    fn akeys() {
        let word = |value: u16| set([0; 16], 0, &value.to_le_bytes());
        // Golden.
        assert_eq!(akey(&word(0x0001)), Ok(None));
        assert_eq!(akey(&word(0x0013)), Ok(Some(1)));
        assert_eq!(akey(&word(0x7ff3)), Ok(Some(2047)));
        // Steering, a processing hint, an RKey that is not used.
        let hints = set(set(word(9), 7, &[0xc0]), 8, &[7, 0]);
        assert_eq!(akey(&set(hints, 12, &[5])), Ok(None));
        for bad in [
            word(0),
            word(2),
            word(5),
            word(0x8001),
            set(word(1), 2, &[1]),
            set(word(1), 6, &[0x10]),
            set(word(1), 7, &[0x20]),
            set(word(1), 10, &[1]),
            set(word(1), 15, &[1]),
        ] {
            assert_eq!(akey(&bad), Err(Failure::invalid(11)));
        }
    }
}
