// SPDX-License-Identifier: GPL-2.0

//! Descriptors. Pure.

use crate::choices::group_bit;
use crate::layout::{step, sub, Failure};
use ferry_vfio::bytes::{u16_at, u32_at, u64_at};
use std::ops::RangeInclusive;

/// Bytes of a descriptor.
pub const DESCRIPTOR: u64 = 64;
/// Bytes of a completion status block.
pub const CSB: u64 = 32;
/// Bytes of the block that a repeated copy repeats.
pub const BLOCK: u64 = 4096;

/// In the first word: software has finished it, and the device has not taken it.
pub const VALID: u64 = 1 << 0;
const SEQUENTIAL: u32 = 1 << 1;
const FENCE: u32 = 1 << 2;
const SIMPLE: u32 = 1 << 4;
/// Chain, rb, and the reserved bits.
const RESERVED: u32 = 1 << 3 | 7 << 5 | 0x1f << 27;

const DMA: u16 = 1;
const ADMIN: u16 = 2;
const INTERRUPT: u16 = 4;

/// Properties of a context that decide whether a descriptor is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// `true` if the context is context 0.
    pub admin: bool,
    /// Largest buffer, in bytes.
    pub buffer: u64,
    /// Optional groups.
    pub groups: u32,
    /// Highest context.
    pub context: u16,
    /// Attributes and overlaps are errors.
    pub strict: bool,
}

/// One side of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side {
    /// Its AKey.
    pub akey: u16,
    /// Its address.
    pub address: u64,
}

/// The event that a synchronising descriptor waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Context stops.
    Stops,
    /// Updates, which take effect at once.
    Updates,
}

/// The operation of a descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Nothing.
    Nop,
    /// Immediate data.
    Write {
        /// The destination.
        to: Side,
        /// The data, of which the first bytes count.
        data: [u8; 32],
        /// Number of bytes that count.
        len: usize,
    },
    /// A copy.
    Copy {
        /// The source.
        from: Side,
        /// The destination.
        to: Side,
        /// Bytes.
        len: u64,
    },
    /// A block, again and again.
    Repeat {
        /// The source, of [`BLOCK`] bytes.
        from: Side,
        /// The destination.
        to: Side,
        /// The bytes of the destination.
        len: u64,
    },
    /// An interrupt.
    Interrupt {
        /// The AKey that has its number.
        akey: u16,
    },
    /// Starts contexts.
    Start {
        /// Range of the contexts.
        contexts: RangeInclusive<u16>,
        /// `true` if their doorbells are rung, too.
        doorbell: bool,
    },
    /// Stops contexts.
    Stop {
        /// Range of the contexts.
        contexts: RangeInclusive<u16>,
        /// Without finishing what is in work.
        hard: bool,
    },
    /// Waits.
    Sync {
        /// The events that are waited for.
        wait: Wait,
        /// Range of the contexts.
        contexts: RangeInclusive<u16>,
    },
    /// Tables have changed.
    Update {
        /// Range of the contexts.
        contexts: RangeInclusive<u16>,
    },
    /// Something else has changed, of which nothing is remembered.
    Forget,
}

/// A descriptor. What it asks for, or why it cannot be done; how to say so is known in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// `true` if it begins when all before it are done.
    pub fenced: bool,
    /// The address at which the completion is written.
    pub csb: Option<u64>,
    /// `true` if the completion writes 0 to the signal.
    pub simple: bool,
    /// The operation, or the reason why the descriptor is invalid.
    pub operation: Result<Operation, Failure>,
}

const BAD: Failure = Failure::invalid(step::DESCRIPTOR);

fn demand(good: bool, failure: Failure) -> Result<(), Failure> {
    match good {
        true => Ok(()),
        false => Err(failure),
    }
}

/// Reads a descriptor.
pub fn decode(bytes: &[u8; DESCRIPTOR as usize], rules: &Rules) -> Descriptor {
    let head = u32_at(bytes, 0);
    let completion = u64_at(bytes, 56);
    let wanted = completion & 1 == 0;
    let straight = completion & 0x1e == 0;
    let csb = (wanted && straight).then_some(completion & !0x1f);
    let operation = demand(straight, Failure::invalid(step::CSB))
        .and_then(|()| operation(bytes, head, rules))
        .and_then(|o| apart(&o, csb, rules).map(|()| o));
    Descriptor {
        fenced: head & (FENCE | SEQUENTIAL) != 0,
        csb,
        simple: head & SIMPLE != 0,
        operation,
    }
}

fn operation(bytes: &[u8], head: u32, rules: &Rules) -> Result<Operation, Failure> {
    demand(head & RESERVED == 0, BAD)?;
    let zero = |range: std::ops::Range<usize>| {
        let part = bytes.get(range).unwrap_or(&[]);
        demand(part.iter().all(|b| *b == 0), BAD)
    };
    let side = |akey, address| Side {
        akey: u16_at(bytes, akey),
        address: u64_at(bytes, address),
    };
    let size = u64::from(u32_at(bytes, 4)) + 1;
    let (group, kind) = ((head >> 16) as u16 & 0x7ff, head >> 8 & 0xff);
    match (group, kind) {
        (DMA, 1) => {
            zero(4..56)?;
            demand(head & SEQUENTIAL == 0, BAD)?;
            Ok(Operation::Nop)
        }
        (DMA, 2) => {
            zero(9..12)?;
            zero(14..16)?;
            demand(bytes[8] == 0 || !rules.strict, BAD)?;
            let len = usize::try_from(size).unwrap_or(usize::MAX);
            let mut data = [0; 32];
            demand(len <= data.len(), Failure::buffer(sub::VALIDATION, 1))?;
            data.copy_from_slice(&bytes[24..56]);
            let to = side(12, 16);
            Ok(Operation::Write { to, data, len })
        }
        (DMA, 3 | 4) => {
            zero(9..12)?;
            zero(32..56)?;
            demand(bytes[8] == 0 || !rules.strict, BAD)?;
            let (from, to, len) = (side(12, 16), side(14, 24), size);
            let most = Failure::buffer(sub::VALIDATION, 0);
            demand(len <= rules.buffer, most)?;
            if kind == 3 {
                return Ok(Operation::Copy { from, to, len });
            }
            let blocks = |value: u64, buffer| {
                let bad = Failure::buffer(sub::VALIDATION, buffer);
                demand(value % BLOCK == 0, bad)
            };
            blocks(from.address, 0)?;
            blocks(to.address, 1)?;
            blocks(len, 1)?;
            Ok(Operation::Repeat { from, to, len })
        }
        (ADMIN, _) if rules.admin => admin(bytes, head, kind, rules),
        (INTERRUPT, 0) if rules.groups & group_bit(INTERRUPT) != 0 => {
            zero(4..12)?;
            zero(14..56)?;
            let akey = u16_at(bytes, 12);
            Ok(Operation::Interrupt { akey })
        }
        _ => Err(BAD),
    }
}

fn admin(bytes: &[u8], head: u32, kind: u32, rules: &Rules) -> Result<Operation, Failure> {
    const HARD: u8 = 1 << 5;
    const DOORBELL: u8 = 1 << 6;
    let fenced = head & FENCE != 0;
    let (cflags, vflags) = (bytes[4], bytes[5]);
    let zero = |from: usize| {
        let part = bytes.get(from..56).unwrap_or(&[]);
        demand(part.iter().all(|b| *b == 0), BAD)
    };
    let flags = |c: u8, v: u8| demand(cflags & !c == 0 && vflags & !v == 0, BAD);
    // vf, which is no flag here, says whether this means anything.
    demand(u16_at(bytes, 6) == 0, BAD)?;
    let contexts = || {
        let (first, last) = (u16_at(bytes, 8), u16_at(bytes, 10));
        demand(first <= last && last <= rules.context, BAD)?;
        Ok(first..=last)
    };
    match kind {
        // FN_UPD, AKEY_UPD, and what is probably RKEY_UPD.
        0x00 | 0x02 | 0x07 => {
            flags(7, 0)?;
            zero(16)?;
            Ok(Operation::Forget)
        }
        0x01 => {
            flags(7, 0)?;
            zero(12)?;
            let contexts = contexts()?;
            Ok(Operation::Update { contexts })
        }
        0x03 | 0x08 => {
            flags(0, DOORBELL)?;
            demand(fenced, BAD)?;
            demand(u32_at(bytes, 12) == 0, BAD)?;
            zero(24)?;
            Ok(Operation::Start {
                contexts: contexts()?,
                doorbell: vflags & DOORBELL != 0,
            })
        }
        0x04 => {
            flags(0, HARD)?;
            demand(fenced, BAD)?;
            zero(12)?;
            Ok(Operation::Stop {
                contexts: contexts()?,
                hard: vflags & HARD != 0,
            })
        }
        0x05 => {
            flags(0, 0)?;
            demand(u32_at(bytes, 8) == 0, BAD)?;
            zero(14)?;
            let akey = u16_at(bytes, 12);
            Ok(Operation::Interrupt { akey })
        }
        0x06 => {
            flags(7, 0)?;
            zero(16)?;
            demand(cflags <= 4, BAD)?;
            let wait = match cflags {
                1 => Wait::Stops,
                _ => Wait::Updates,
            };
            let contexts = contexts()?;
            Ok(Operation::Sync { wait, contexts })
        }
        _ => Err(BAD),
    }
}

/// Buffers and CSB must not overlap.
fn apart(operation: &Operation, csb: Option<u64>, rules: &Rules) -> Result<(), Failure> {
    let (from, to) = match *operation {
        Operation::Copy { from, to, len } => (Some((from.address, len)), (to.address, len)),
        Operation::Repeat { from, to, len } => (Some((from.address, BLOCK)), (to.address, len)),
        Operation::Write { to, len, .. } => (None, (to.address, len as u64)),
        _ => return Ok(()),
    };
    if !rules.strict {
        return Ok(());
    }
    let bad = |buffer| Failure::buffer(sub::VALIDATION, buffer);
    let csb = csb.map(|at| (at, CSB));
    demand(!overlap(from, Some(to)), bad(1))?;
    demand(!overlap(csb, from), bad(0))?;
    demand(!overlap(csb, Some(to)), bad(1))
}

fn overlap(a: Option<(u64, u64)>, b: Option<(u64, u64)>) -> bool {
    let (Some((a, a_len)), Some((b, b_len))) = (a, b) else {
        return false;
    };
    let end = |at: u64, len: u64| u128::from(at) + u128::from(len);
    u128::from(a) < end(b, b_len) && u128::from(b) < end(a, a_len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULES: Rules = Rules {
        admin: true,
        buffer: 4 << 30,
        groups: 0x10,
        context: 63,
        strict: true,
    };
    const S: u64 = 0x1_0000_0000;
    const D: u64 = 0x2_0000_0000;
    const C: u64 = 0x3_0000_0020;

    fn words(q: [u64; 8]) -> [u8; 64] {
        let mut bytes = [0; 64];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(q) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn read(q: [u64; 8]) -> Descriptor {
        decode(&words(q), &RULES)
    }

    fn side(akey: u16, address: u64) -> Side {
        Side { akey, address }
    }

    /// The whole descriptors of the datasheet's 5.8.
    #[test]
    fn golden_descriptors() {
        let copy = Operation::Copy {
            from: side(1, S),
            to: side(1, D),
            len: 4096,
        };
        let start = |contexts, doorbell| Operation::Start { contexts, doorbell };
        let stop = |hard| Operation::Stop {
            contexts: 5..=9,
            hard,
        };
        let sync = Operation::Sync {
            wait: Wait::Stops,
            contexts: 5..=9,
        };
        let range = 0x0009_0005;
        #[rustfmt::skip]
        let cases = [
            ([0x0000_0fff_0001_0301, 0x0001_0001_0000_0000, S, D, 0, 0, 0, 1], false, None, copy.clone()),
            ([0x0000_0fff_0001_0301, 0x0001_0001_0000_0000, S, D, 0, 0, 0, C], false, Some(C), copy),
            ([0x0004_0005, 2 << 32, 0, 0, 0, 0, 0, 1], true, None, Operation::Interrupt { akey: 2 }),
            ([0x0002_0305, 0x0005_0005, 0, 0, 0, 0, 0, C], true, Some(C), start(5..=5, false)),
            ([0x0000_4000_0002_0305, 0x0005_0005, 77, 0, 0, 0, 0, 1], true, None, start(5..=5, true)),
            ([0x0002_0405, range, 0, 0, 0, 0, 0, 1], true, None, stop(false)),
            ([0x0000_2000_0002_0405, range, 0, 0, 0, 0, 0, 1], true, None, stop(true)),
            ([0x0000_0001_0002_0601, range, 0, 0, 0, 0, 0, C], false, Some(C), sync),
        ];
        for (q, fenced, csb, operation) in cases {
            let expected = Descriptor {
                fenced,
                csb,
                simple: false,
                operation: Ok(operation),
            };
            assert_eq!(read(q), expected, "{q:x?}");
        }
    }

    /// The first words of the datasheet's 5.8.
    #[test]
    fn golden_first_words() {
        let nothing = |head: u64| read([head, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(nothing(0x0001_0101).operation, Ok(Operation::Nop));
        assert!(!nothing(0x0001_0101).fenced);
        assert_eq!(nothing(0x0001_0105).operation, Ok(Operation::Nop));
        assert!(nothing(0x0001_0105).fenced);
        let fenced = read([0x0001_0305, 0, S, D, 0, 0, 0, 1]);
        assert!(fenced.fenced);
        let one = Operation::Copy {
            from: side(0, S),
            to: side(0, D),
            len: 1,
        };
        assert_eq!(fenced.operation, Ok(one), "the length is less one");
        let update = Operation::Update { contexts: 0..=0 };
        assert_eq!(nothing(0x0002_0101).operation, Ok(update));
        assert_eq!(nothing(0x0002_0201).operation, Ok(Operation::Forget));
    }

    #[test]
    fn immediate_and_repeated() {
        let mut bytes = words([0x1f_0001_0201, 7 << 32, D, 0, 0, 0, 0, 1]);
        let data: [u8; 32] = std::array::from_fn(|i| i as u8);
        bytes[24..56].copy_from_slice(&data);
        let write = |len| Operation::Write {
            to: side(7, D),
            data,
            len,
        };
        assert_eq!(decode(&bytes, &RULES).operation, Ok(write(32)));
        bytes[4] = 0;
        assert_eq!(decode(&bytes, &RULES).operation, Ok(write(1)));
        bytes[4] = 32;
        let long = Failure::buffer(3, 1);
        assert_eq!(decode(&bytes, &RULES).operation, Err(long));
        bytes[4] = 0;
        bytes[14] = 1;
        assert_eq!(decode(&bytes, &RULES).operation, Err(BAD));
        let repeat = |size: u64, s, d| read([size << 32 | 0x0001_0401, 0, s, d, 0, 0, 0, 1]);
        let good = Operation::Repeat {
            from: side(0, S),
            to: side(0, D),
            len: 8192,
        };
        assert_eq!(repeat(8191, S, D).operation, Ok(good));
        let bad = |buffer| Err(Failure::buffer(3, buffer));
        assert_eq!(repeat(8190, S, D).operation, bad(1));
        assert_eq!(repeat(8191, S + 512, D).operation, bad(0));
        assert_eq!(repeat(8191, S, D + 512).operation, bad(1));
        assert_eq!(repeat(8191, D + 4096, D).operation, bad(1));
        assert!(repeat(8191, D + 8192, D).operation.is_ok());
    }

    #[test]
    fn what_is_reserved_must_be_zero() {
        let copy = words([0x0000_0fff_0001_0301, 0, S, D, 0, 0, 0, 1]);
        let interrupt = words([0x0004_0001, 0, 0, 0, 0, 0, 0, 1]);
        let nop = words([0x0001_0101, 0, 0, 0, 0, 0, 0, 1]);
        let start = words([0x0002_0305, 0, 0, 0, 0, 0, 0, 1]);
        let stop = words([0x0002_0405, 0, 0, 0, 0, 0, 0, 1]);
        let sync = words([0x0002_0601, 0, 0, 0, 0, 0, 0, 1]);
        let update = words([0x0002_0101, 0, 0, 0, 0, 0, 0, 1]);
        let common = [
            (0, 0x08),
            (0, 0x20),
            (0, 0x40),
            (0, 0x80),
            (3, 0x08),
            (3, 0x80),
        ];
        let cases: [(_, &[(usize, u8)]); 7] = [
            (
                &copy,
                &[(8, 1), (8, 0x10), (9, 1), (11, 0x80), (32, 1), (55, 0x80)],
            ),
            (&interrupt, &[(4, 1), (11, 1), (14, 1), (55, 1)]),
            (&nop, &[(0, 2), (4, 1), (55, 1)]),
            (
                &start,
                &[
                    (0, 4),
                    (4, 1),
                    (5, 0x20),
                    (5, 0x80),
                    (6, 1),
                    (12, 1),
                    (15, 1),
                    (24, 1),
                ],
            ),
            (
                &stop,
                &[
                    (0, 4),
                    (4, 1),
                    (5, 0x40),
                    (5, 0x80),
                    (6, 1),
                    (12, 1),
                    (55, 1),
                ],
            ),
            (&sync, &[(4, 5), (4, 8), (5, 1), (6, 1), (16, 1)]),
            (&update, &[(4, 8), (5, 0x80), (12, 1)]),
        ];
        for (good, places) in cases {
            assert!(decode(good, &RULES).operation.is_ok());
            for (at, bit) in common.iter().chain(places) {
                let mut bad = *good;
                bad[*at] ^= bit;
                let got = decode(&bad, &RULES).operation;
                assert_eq!(got, Err(BAD), "{good:x?}: {at} {bit:#x}");
            }
        }
    }

    #[test]
    fn unknown_and_disabled() {
        for head in [
            0x0000_0001,
            0x0001_0001,
            0x0001_0501,
            0x0002_0901,
            0x0003_0201,
            0x0004_0101,
            0x0005_0001,
            0x07f7_0001,
        ] {
            assert_eq!(read([head, 0, 0, 0, 0, 0, 0, 1]).operation, Err(BAD));
        }
        let bytes = words([0x0004_0001, 0, 0, 0, 0, 0, 0, 1]);
        let none = Rules { groups: 8, ..RULES };
        assert_eq!(decode(&bytes, &none).operation, Err(BAD));
        let bytes = words([0x0002_0305, 0, 0, 0, 0, 0, 0, 1]);
        let client = Rules {
            admin: false,
            ..RULES
        };
        assert_eq!(decode(&bytes, &client).operation, Err(BAD));
    }

    #[test]
    fn ranges() {
        let stop = |range| read([0x0002_0405, range, 0, 0, 0, 0, 0, 1]).operation;
        assert!(stop(0x003f_0000).is_ok());
        for bad in [0x0040_0000, 0x0001_0002, 0xffff_0000] {
            assert_eq!(stop(bad), Err(BAD));
        }
    }

    #[test]
    fn buffers() {
        let rules = Rules {
            buffer: 2 << 20,
            ..RULES
        };
        let copy = |size: u64, s, d, csb| {
            let q = [size << 32 | 0x0001_0301, 0, s, d, 0, 0, 0, csb];
            let strict = decode(&words(q), &rules).operation;
            let strict = strict.err().map(|f| (f.step, f.sub, f.buffer));
            let lenient = Rules {
                strict: false,
                ..rules
            };
            (strict, decode(&words(q), &lenient).operation.is_ok())
        };
        assert_eq!(copy((2 << 20) - 1, S, D, 1), (None, true));
        assert_eq!(copy(2 << 20, S, D, 1), (Some((10, 3, Some(0))), false));
        let (first, second) = (Some((10, 3, Some(0))), Some((10, 3, Some(1))));
        assert_eq!(copy(4095, S, S + 4095, 1), (second, true));
        assert_eq!(copy(4095, S + 4095, S, 1), (second, true));
        assert_eq!(copy(4095, S, S + 4096, 1), (None, true));
        assert_eq!(copy(4095, S, D, S + 4064), (first, true));
        assert_eq!(copy(4095, S, D, S + 4096), (None, true));
        assert_eq!(copy(4095, S, D, D - 32), (None, true));
        assert_eq!(copy(4095, S, D, D), (second, true));
        assert_eq!(copy(4095, u64::MAX, u64::MAX - 4000, 1), (second, true));
    }

    #[test]
    fn completion_status_blocks() {
        let csb = |last| {
            let d = read([0x0001_0111, 0, 0, 0, 0, 0, 0, last]);
            assert!(d.simple);
            (d.csb, d.operation)
        };
        assert_eq!(csb(0), (Some(0), Ok(Operation::Nop)));
        assert_eq!(csb(0x41), (None, Ok(Operation::Nop)));
        let bad = Err(Failure::invalid(step::CSB));
        assert_eq!(csb(0x50), (None, bad.clone()));
        assert_eq!(csb(0x03), (None, bad));
    }

    proptest! {
        #[test]
        fn any_bytes(
            bytes in any::<[u8; 64]>(),
            head in any::<u16>(),
            admin in any::<bool>(),
            strict in any::<bool>(),
        ) {
            let rules = Rules { admin, strict, ..RULES };
            decode(&bytes, &rules);
            let mut likely = bytes;
            likely[..4].copy_from_slice(&(u32::from(head & 0xf) << 8 | u32::from(head >> 12 & 3) << 16 | 1).to_le_bytes());
            decode(&likely, &rules);
        }
    }
}
