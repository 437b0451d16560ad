// SPDX-License-Identifier: GPL-2.0

//! Hostile drivers: bytes in, accesses to a queue's registers and memory out.
//!
//! One entry point per engine ([`sdxi`] in a file of its own), for the fuzz targets in `fuzz/` and
//! for proptest in `tests/`. Each checks after every descriptor, with its own reading of it, that
//! no byte changed but those that the descriptor names, and that a copy that succeeded is one. It
//! panics if not.

#![forbid(unsafe_code)]

mod input;
mod sdxi;

pub use sdxi::sdxi;

use ferry_vfio::bytes::{u16_at, u32_at, u64_at};
use ferry_vfio::lane::{step, Queue};
use ferry_vfio::memory::{Block, Dma};
use input::Input;

/// The address of the first byte of memory.
pub const BASE: u64 = 0x2_0000_0000;
/// The bytes of memory: few, so that hostile addresses hit it.
pub const SIZE: usize = 1 << 14;
/// Descriptors after each operation: a ring that never ends must not be one.
const STEPS: usize = 40;

/// Returns the range of memory from an address, as far as it lies in it.
fn range(address: u64, len: u64) -> std::ops::Range<usize> {
    let size = SIZE as u64;
    let start = address.clamp(BASE, BASE + size) - BASE;
    let end = address.saturating_add(len).clamp(BASE, BASE + size) - BASE;
    start as usize..end.max(start) as usize
}

/// The copy that a descriptor in memory asks for, as the test reads it, and the bytes that the
/// engine may write besides.
struct Expected {
    source: u64,
    destination: u64,
    len: u64,
    status: std::ops::Range<usize>,
}

fn check(before: &[u8], after: &[u8], expected: &Expected, good: bool) {
    let to = range(expected.destination, expected.len);
    for (i, (old, new)) in before.iter().zip(after).enumerate() {
        let may = to.contains(&i) || expected.status.contains(&i);
        assert!(old == new || may, "byte {i:#x} changed");
    }
    if !good {
        return;
    }
    let from = range(expected.source, expected.len);
    let whole = |r: &std::ops::Range<usize>| r.len() as u64 == expected.len;
    assert!(
        whole(&from) && whole(&to),
        "a copy outside memory succeeded"
    );
    let status = &expected.status;
    if status.start >= to.end || to.start >= status.end {
        assert_eq!(before[from], after[to], "a copy that is none");
    }
}

fn memory(input: &mut Input<'_>) -> Block {
    let seed = input.byte();
    let bytes = (0..SIZE).map(|i| (i as u8).wrapping_mul(seed | 1) ^ (i >> 8) as u8);
    Block::new(BASE, bytes.collect())
}

/// Drives a PTDMA by these bytes.
pub fn ptdma(data: &[u8]) {
    use ferry_ptdma::queue::{Register, Ring};

    let mut input = Input(data);
    let memory = memory(&mut input);
    let mut ring = Ring::default();
    while !input.0.is_empty() {
        match input.byte() {
            kind @ 0..=63 => {
                let register = Register::ALL[usize::from(kind) % Register::ALL.len()];
                let run = 4 << 3 | 2 << 16 | 1;
                let value = match register {
                    Register::Control if kind < 56 => run ^ u32::from(input.byte() & 0xfb),
                    _ => input.near([0, 0x20, 0x400, 0x3ff0]),
                };
                ring.write(register, value);
            }
            64..=127 => {
                let at = (u64::from(input.half()) % SIZE as u64) & !31;
                let near = |i: &mut Input<'_>| i.near([0, 0x100, 0x1000, 0x3f00]);
                let flags = u32::from(input.byte());
                let mut words = [
                    0x50_0010 | flags & 3,
                    near(&mut input) & 0x3fff,
                    near(&mut input),
                    2,
                    near(&mut input),
                    2,
                    0,
                    0,
                ];
                if flags & 0x80 != 0 {
                    words[usize::from(input.byte() & 7)] = input.word();
                }
                let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
                memory.write(BASE + at, &bytes).expect("inside");
            }
            128..=131 => ring.reset(),
            // Polling, and an interrupt handler.
            132..=199 => {
                let latched = ring.read(Register::InterruptStatus);
                ring.write(Register::InterruptStatus, latched);
                assert_eq!(ring.read(Register::InterruptStatus), 0);
            }
            _ => {
                let head = ring.read(Register::Head);
                let tail = ring.read(Register::Tail);
                ring.write(Register::Head, tail);
                ring.write(Register::Tail, head);
            }
        }
        for _ in 0..STEPS {
            let before = memory.bytes();
            let head = ring.read(Register::Head);
            let ring_at = u64::from(ring.read(Register::Control) >> 16) << 32 | u64::from(head);
            ring.write(Register::InterruptStatus, 3);
            if !step(&mut ring, &memory) {
                break;
            }
            let at = range(ring_at, 32);
            let descriptor = &before[at];
            let expected = Expected {
                source: u64::from(u32_at(descriptor, 8))
                    | u64::from(u32_at(descriptor, 12) & 0xffff) << 32,
                destination: u64::from(u32_at(descriptor, 16))
                    | u64::from(u32_at(descriptor, 20) & 0xffff) << 32,
                len: u32_at(descriptor, 4).into(),
                status: 0..0,
            };
            let failed = ring.read(Register::InterruptStatus) & 2 != 0;
            assert_eq!(failed, ring.read(Register::Status) != 0);
            if failed {
                assert_eq!(ring.read(Register::Head), head);
                assert_eq!(
                    ring.read(Register::Control) & 1,
                    0,
                    "an error stops the queue"
                );
            }
            check(&before, &memory.bytes(), &expected, !failed);
        }
        ring.interrupt();
    }
}

/// Drives an AE4DMA by these bytes.
pub fn ae4dma(data: &[u8]) {
    use ferry_ae4dma::queue::{Register, Ring};

    let mut input = Input(data);
    let memory = memory(&mut input);
    let mut ring = Ring::new(0);
    ring.enable(true);
    while !input.0.is_empty() {
        match input.byte() {
            kind @ 0..=95 => {
                let register = Register::ALL[usize::from(kind) % Register::ALL.len()];
                let value = match register {
                    Register::MaxIndex | Register::WriteIndex if kind < 90 => {
                        u32::from(input.byte() & 0x3f)
                    }
                    Register::BaseHigh if kind < 90 => 2,
                    _ => input.near([0, 0x20, 0x400, 0x3ff0]),
                };
                ring.write(register, value);
            }
            96..=175 => {
                let at = (u64::from(input.half()) % SIZE as u64) & !31;
                let near = |i: &mut Input<'_>| i.near([0, 0x100, 0x1000, 0x3f00]);
                let flags = u32::from(input.byte());
                let mut words = [
                    flags & 3,
                    0,
                    near(&mut input) & 0x3ffc,
                    0,
                    near(&mut input),
                    2,
                    near(&mut input),
                    2,
                ];
                if flags & 0x80 != 0 {
                    words[usize::from(input.byte() & 7)] = input.word();
                }
                let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
                memory.write(BASE + at, &bytes).expect("inside");
            }
            176..=179 => {
                ring.reset();
                ring.enable(true);
            }
            other => ring.enable(other & 1 != 0),
        }
        for _ in 0..STEPS {
            let before = memory.bytes();
            let index = ring.read(Register::ReadIndex);
            let base = u64::from(ring.read(Register::BaseHigh)) << 32
                | u64::from(ring.read(Register::BaseLow));
            if !step(&mut ring, &memory) {
                break;
            }
            assert!(index < ring.read(Register::MaxIndex), "beyond the ring");
            let at = base.saturating_add(u64::from(index) * 32);
            let place = range(at, 32);
            let descriptor = &before[place.clone()];
            let expected = Expected {
                source: u64_at(descriptor, 16),
                destination: u64_at(descriptor, 24),
                len: u32_at(descriptor, 8).into(),
                status: if place.len() == 32 {
                    place.start + 4..place.start + 6
                } else {
                    0..0
                },
            };
            let after = memory.bytes();
            let status = expected.status.clone();
            let good = after.get(status.start).copied() == Some(3) && !status.is_empty();
            assert!(
                status.is_empty() || [3, 4].contains(&after[status.start]),
                "neither completed nor failed"
            );
            check(&before, &after, &expected, good);
        }
        ring.interrupt();
    }
}

/// Drives the DMA engine of a PLX switch by these bytes.
pub fn plx(data: &[u8]) {
    use ferry_plx::queue::{Register, Ring};

    const VALID: u32 = 1 << 31;
    let mut input = Input(data);
    let memory = memory(&mut input);
    let mut ring = Ring::default();
    ring.write(Register::RingAddressHigh, 2, u32::MAX);
    while !input.0.is_empty() {
        match input.byte() {
            kind @ 0..=79 => {
                let register = Register::ALL[usize::from(kind) % Register::ALL.len()];
                let value = match register {
                    Register::Count if kind < 70 => u32::from(input.byte() & 0x3f),
                    Register::RingAddressHigh if kind < 70 => 2,
                    Register::Control => u32::from(input.half()),
                    _ => input.near([0, 0x20, 0x400, 0x3ff0]),
                };
                let mask = [u32::MAX, 0xffff, 0xffff_0000][usize::from(input.byte() % 3)];
                ring.write(register, value, mask);
            }
            80..=159 => {
                let at = (u64::from(input.half()) % SIZE as u64) & !15;
                let near = |i: &mut Input<'_>| i.near([0, 0x100, 0x1000, 0x3f00]);
                let flags = u32::from(input.byte());
                let len = match flags & 0x60 {
                    0x60 => 0,
                    _ => near(&mut input) & 0x3fff,
                };
                let mut words = [
                    VALID | flags << 30 & 1 << 30 | len,
                    2 << 16 | 2,
                    near(&mut input),
                    near(&mut input),
                ];
                if flags & 0x80 != 0 {
                    words[usize::from(input.byte() & 3)] = input.word();
                }
                let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
                memory.write(BASE + at, &bytes).expect("inside");
            }
            160..=163 => {
                ring.reset();
                ring.write(Register::RingAddressHigh, 2, u32::MAX);
            }
            // The driver starts it with this value.
            _ => {
                ring.write(Register::Control, 0x174c, 0xffff);
            }
        }
        for _ in 0..STEPS {
            let before = memory.bytes();
            let next = ring.read(Register::NextAddress);
            let base = ring.read(Register::RingAddress);
            let at = u64::from(ring.read(Register::RingAddressHigh)) << 32 | u64::from(base);
            let offset = next.wrapping_sub(base);
            let at = at.saturating_add(offset.into());
            ring.write(Register::Interrupt, u32::MAX, 0xffff_0000);
            if !step(&mut ring, &memory) {
                assert_eq!(before, memory.bytes(), "written without a descriptor");
                break;
            }
            let place = range(at, 16);
            let whole = place.len() == 16;
            let descriptor = &before[place.clone()];
            let flags = u32_at(descriptor, 0);
            let high = |at: usize| u64::from(u16_at(descriptor, at)) << 32;
            let expected = Expected {
                source: u64::from(u32_at(descriptor, 12)) | high(6),
                destination: u64::from(u32_at(descriptor, 8)) | high(4),
                len: (flags & 0x7ff_ffff).into(),
                status: place.start..place.start + if whole { 4 } else { 0 },
            };
            let after = memory.bytes();
            let control = ring.read(Register::Control);
            let status = ring.read(Register::Interrupt) >> 16;
            assert_eq!(control & 1, 0, "it runs, and is paused");
            let failed = status & 3 != 0;
            if !failed {
                assert!(whole && flags & VALID != 0, "no descriptor has succeeded");
                assert_ne!(expected.len, 0, "nothing has been copied");
                assert!(offset / 16 < ring.read(Register::Count), "beyond the ring");
            }
            if whole && control & 1 << 2 != 0 && status & 1 << 1 != 0 {
                let left = u32_at(&after[place], 0);
                assert_eq!(left >> 27, 0, "invalid, and written back as something else");
            }
            check(&before, &after, &expected, !failed);
        }
        ring.quiet(&memory);
        ring.interrupt();
    }
}
