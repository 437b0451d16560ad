// SPDX-License-Identifier: GPL-2.0

//! Descriptors: 64 bytes, whose first bit says that the rest is valid (SDXI 1.0, chapter 6).
//!
//! Descriptors are made without that bit; the ring sets it when the rest is in memory.
//!
//! # Examples
//!
//! ```
//! use ferry_core::sdxi::descriptor::{Descriptor, VALID};
//!
//! let copy = Descriptor::copy(0, 0x9000, 0x1000, 4096).unwrap();
//! // Type DMA, subtype COPY, the length less one, and not valid yet.
//! assert_eq!(copy.words()[0], 0x0000_0fff_0001_0300);
//! assert_eq!(copy.words()[0] & VALID, 0);
//! // Source and destination must not overlap.
//! assert_eq!(Descriptor::copy(0, 0x1800, 0x1000, 4096), None);
//! ```

/// A descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Descriptor([u64; WORDS]);

/// Number of 64-bit words in a descriptor.
pub const WORDS: usize = 8;

const _: () = assert!(size_of::<Descriptor>() == 64);

/// The bit of word 0 that software sets last and the device clears.
#[doc(alias = "vl")]
pub const VALID: u64 = 1;
/// The bit of word 0 that makes a descriptor wait for all earlier ones of its context.
#[doc(alias = "fe")]
const FENCE: u64 = 1 << 2;
/// The bit of word 7 that says that there is no completion status block.
#[doc(alias = "np")]
const NO_STATUS: u64 = 1;

/// The number of the DMA base group.
#[doc(alias = "DMAB")]
const DMA: u64 = 0x001;
/// The number of the administrative group.
const ADMIN: u64 = 0x002;
/// The number of the interrupt group.
const INTERRUPT: u64 = 0x004;

/// Creates a descriptor of an operation without operands.
const fn descriptor(group: u64, subtype: u64) -> Descriptor {
    Descriptor([group << 16 | subtype << 8, 0, 0, 0, 0, 0, 0, NO_STATUS])
}

/// The kind of earlier commands that a SYNC waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "flt")]
pub enum SyncFilter {
    /// Updates of context tables.
    #[doc(alias = "CXT")]
    Contexts = 0,
    /// Stops of contexts.
    #[doc(alias = "STOP")]
    Stop = 1,
}

/// A range of context numbers that includes both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextRange {
    /// The first context.
    #[doc(alias = "cxt_start")]
    pub first: u16,
    /// The last context.
    #[doc(alias = "cxt_end")]
    pub last: u16,
}

impl ContextRange {
    /// Creates the range of one context.
    pub const fn one(number: u16) -> Self {
        Self {
            first: number,
            last: number,
        }
    }

    /// Returns the range as it stands in word 1 of a descriptor.
    const fn word(self) -> u64 {
        self.first as u64 | (self.last as u64) << 16
    }
}

impl Descriptor {
    /// Returns the words of the descriptor.
    pub const fn words(&self) -> &[u64; WORDS] {
        &self.0
    }

    /// Makes the descriptor start only when all earlier ones of its context are done.
    #[doc(alias = "fe")]
    pub const fn fenced(mut self) -> Self {
        self.0[0] |= FENCE;
        self
    }

    /// Adds the address of a completion status block. Returns `None` unless it is a multiple of 32.
    #[doc(alias = "csb_ptr")]
    pub const fn with_status(mut self, address: u64) -> Option<Self> {
        if address & 0x1f != 0 {
            return None;
        }
        self.0[7] = address;
        Some(self)
    }

    /// Creates a descriptor without an effect.
    #[doc(alias = "NOP")]
    pub const fn nop() -> Self {
        descriptor(DMA, 0x01)
    }

    /// Creates a copy of `len` bytes. Returns `None` unless `len` is 1 byte to 4 GiB, both buffers
    /// end below 2^64, and they do not overlap.
    #[doc(alias = "COPY")]
    pub const fn copy(akey: u16, dst: u64, src: u64, len: u64) -> Option<Self> {
        if len == 0 || len > 1 << 32 {
            return None;
        }
        let last = len - 1;
        let (Some(dst_last), Some(src_last)) = (dst.checked_add(last), src.checked_add(last))
        else {
            return None;
        };
        if dst <= src_last && src <= dst_last {
            return None;
        }
        let mut d = descriptor(DMA, 0x03);
        d.0[0] |= last << 32;
        d.0[1] = (akey as u64) << 32 | (akey as u64) << 48;
        d.0[2] = src;
        d.0[3] = dst;
        Some(d)
    }

    /// Creates a descriptor that raises the interrupt of an AKey.
    #[doc(alias = "INTR")]
    pub const fn interrupt(akey: u16) -> Self {
        let mut d = descriptor(INTERRUPT, 0x00);
        d.0[1] = (akey as u64) << 32;
        d
    }

    /// Creates an administrative descriptor for these contexts.
    const fn contexts(subtype: u64, flags: u64, range: ContextRange) -> Self {
        let mut d = descriptor(ADMIN, subtype);
        d.0[0] |= flags << 32;
        d.0[1] = range.word();
        d
    }

    /// Creates a descriptor that makes the device read the level 1 entries of these contexts, and
    /// the structures that they point to, again.
    #[doc(alias = "CXT_UPD")]
    pub const fn update(range: ContextRange) -> Self {
        Self::contexts(0x01, 1 << 1, range)
    }

    /// Creates a descriptor that starts contexts. It is always fenced.
    #[doc(alias = "CXT_START_NM")]
    pub const fn start(range: ContextRange) -> Self {
        Self::contexts(0x03, 0, range).fenced()
    }

    /// Creates a descriptor that stops contexts; a `hard` stop abandons what they are executing. It
    /// is always fenced.
    #[doc(alias = "CXT_STOP")]
    pub const fn stop(range: ContextRange, hard: bool) -> Self {
        Self::contexts(0x04, (hard as u64) << 13, range).fenced()
    }

    /// Creates a descriptor that completes when the earlier commands of the kind `what` have taken
    /// effect for these contexts.
    #[doc(alias = "SYNC")]
    pub const fn sync(what: SyncFilter, range: ContextRange) -> Self {
        Self::contexts(0x06, what as u64, range)
    }
}

#[cfg_attr(
    CONFIG_KUNIT = "y",
    kernel::macros::kunit_tests(ferry_core_sdxi_descriptor)
)]
#[cfg_attr(not(CONFIG_KUNIT = "y"), cfg(test))]
mod tests {
    use super::*;

    const S: u64 = 0x1234_5678_9000;
    const D: u64 = 0xfedc_ba98_7000;
    const C: u64 = 0x5555_0020;
    const FIVE: ContextRange = ContextRange::one(5);
    const SOME: ContextRange = ContextRange { first: 5, last: 9 };

    fn head(d: Descriptor) -> u64 {
        (d.words()[0] | VALID) & 0xffff_ffff
    }

    /// Checks that the device finds these words.
    fn golden(d: Option<Descriptor>, words: [u64; 8]) {
        let Some(mut d) = d else {
            panic!("no descriptor");
        };
        d.0[0] |= VALID;
        assert_eq!(d.0, words);
    }

    #[test]
    fn golden_heads() {
        let Some(copy) = Descriptor::copy(0, D, S, 1) else {
            panic!("no descriptor");
        };
        assert_eq!(head(Descriptor::nop()), 0x0001_0101);
        assert_eq!(head(Descriptor::nop().fenced()), 0x0001_0105);
        assert_eq!(head(copy), 0x0001_0301);
        assert_eq!(head(copy.fenced()), 0x0001_0305);
        assert_eq!(head(Descriptor::interrupt(0).fenced()), 0x0004_0005);
        assert_eq!(head(Descriptor::start(FIVE)), 0x0002_0305);
        assert_eq!(head(Descriptor::stop(FIVE, false)), 0x0002_0405);
        assert_eq!(head(Descriptor::sync(SyncFilter::Stop, FIVE)), 0x0002_0601);
        assert_eq!(head(Descriptor::update(FIVE)), 0x0002_0101);
    }

    #[test]
    fn golden_descriptors() {
        let copy = Descriptor::copy(1, D, S, 4096);
        let q0 = 0x0000_0fff_0001_0301;
        let q1 = 0x0001_0001_0000_0000;
        golden(copy, [q0, q1, S, D, 0, 0, 0, 1]);
        golden(
            copy.and_then(|d| d.with_status(C)),
            [q0, q1, S, D, 0, 0, 0, C],
        );
        golden(
            Some(Descriptor::interrupt(2).fenced()),
            [0x0004_0005, 0x0000_0002_0000_0000, 0, 0, 0, 0, 0, 1],
        );
        golden(
            Descriptor::start(FIVE).with_status(C),
            [0x0002_0305, 0x0005_0005, 0, 0, 0, 0, 0, C],
        );
        golden(
            Some(Descriptor::stop(SOME, false)),
            [0x0002_0405, 0x0009_0005, 0, 0, 0, 0, 0, 1],
        );
        golden(
            Some(Descriptor::stop(SOME, true)),
            [0x0000_2000_0002_0405, 0x0009_0005, 0, 0, 0, 0, 0, 1],
        );
        golden(
            Descriptor::sync(SyncFilter::Stop, SOME).with_status(C),
            [0x0000_0001_0002_0601, 0x0009_0005, 0, 0, 0, 0, 0, C],
        );
        golden(
            Some(Descriptor::sync(SyncFilter::Contexts, FIVE)),
            [0x0002_0601, 0x0005_0005, 0, 0, 0, 0, 0, 1],
        );
        golden(
            Some(Descriptor::update(FIVE)),
            [0x0000_0002_0002_0101, 0x0005_0005, 0, 0, 0, 0, 0, 1],
        );
    }

    #[test]
    fn copies_that_cannot_be() {
        let copy = |dst, src, len| Descriptor::copy(0, dst, src, len);
        assert_eq!(copy(D, S, 0), None);
        assert_eq!(copy(D, S, (1 << 32) + 1), None);
        assert!(copy(0, 1 << 32, 1 << 32).is_some());
        // The buffers go beyond the last address, and up to it.
        assert_eq!(copy(D, u64::MAX - 10, 12), None);
        assert_eq!(copy(u64::MAX - 10, S, 12), None);
        assert!(copy(u64::MAX - 10, S, 11).is_some());
        // The buffers overlap by one byte, on either side.
        assert_eq!(copy(0x1000, 0x1fff, 0x1000), None);
        assert_eq!(copy(0x1fff, 0x1000, 0x1000), None);
        assert_eq!(copy(0x1000, 0x1000, 1), None);
        assert!(copy(0x1000, 0x2000, 0x1000).is_some());
        assert!(copy(0x2000, 0x1000, 0x1000).is_some());
        let mut largest = [0x0001_0300 | 0xffff_ffff << 32, 0, 0, 0, 0, 0, 0, 1];
        largest[0] |= VALID;
        largest[2] = 1 << 32;
        golden(copy(0, 1 << 32, 1 << 32), largest);
    }

    #[test]
    fn status_in_line() {
        assert_eq!(Descriptor::nop().with_status(16), None);
        assert_eq!(Descriptor::nop().with_status(1), None);
    }
}
