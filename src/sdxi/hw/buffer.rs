// SPDX-License-Identifier: GPL-2.0

//! Source and destination memory of the self-test of a context.
//!
//! Takes no locks.

use super::{
    memory::{
        CoherentWords,
        DeviceAddress, //
    },
    mmio::Bars,
    ring::ContextRing, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// Coherent memory that a test of a context copies from or to.
pub(crate) struct Buffer {
    words: CoherentWords,
}

/// The content of words of a destination before a copy, and behind its end after it.
const UNWRITTEN: u64 = 0xa5a5_a5a5_a5a5_a5a5;

/// Returns word `i` of the content of a source, which differs by seed and position.
fn pattern(seed: u64, i: usize) -> u64 {
    (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ i as u64).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

impl Buffer {
    /// Allocates a buffer of `bytes` bytes, rounded up to words.
    ///
    /// # Context
    ///
    /// May sleep.
    pub(crate) fn new(bars: &Arc<Bars>, bytes: usize) -> Result<Self> {
        let words = CoherentWords::new(bars, bytes.div_ceil(8))?;
        Ok(Self { words })
    }

    /// Returns the address of a word, for descriptors.
    pub(crate) fn address(&self, word: usize) -> DeviceAddress {
        DeviceAddress::new(self.words.address(word))
    }

    /// Fills `len` words from `first` with the pattern of a seed, or with [`UNWRITTEN`] without
    /// one.
    pub(crate) fn fill(&self, first: usize, len: usize, seed: Option<u64>) {
        for i in 0..len {
            self.words
                .store(first + i, seed.map_or(UNWRITTEN, |seed| pattern(seed, i)));
        }
    }

    /// Returns `true` if the first `bytes` bytes of `words` words from `first` have the pattern of
    /// the seed, and all bytes behind them are unwritten.
    pub(crate) fn holds(&self, first: usize, words: usize, bytes: usize, seed: u64) -> bool {
        (0..words).all(|i| {
            let (got, full) = (self.words.load(first + i), pattern(seed, i));
            match bytes.saturating_sub(i * 8) {
                0 => got == UNWRITTEN,
                n if n >= 8 => got == full,
                n => {
                    let mask = (1 << (8 * n)) - 1;
                    got == full & mask | UNWRITTEN & !mask
                }
            }
        })
    }

    /// Returns the buffer for freeing if the ring that used it has no outstanding descriptors.
    ///
    /// # Errors
    ///
    /// The buffer itself if there are any: its memory is leaked if it is dropped before the
    /// function has been proven quiet.
    pub(crate) fn done_with(mut self, ring: &ContextRing) -> Result<Unused, Self> {
        self.words.unused = ring.outstanding() == 0;
        match self.words.unused {
            true => Ok(Unused { _words: self.words }),
            false => Err(self),
        }
    }
}

/// A buffer that the device does not access any more.
///
/// # Context
///
/// Dropping it may sleep, as freeing does behind an IOMMU (`__iommu_dma_free()`), so it is dropped
/// without the lock of the ring.
#[must_use]
pub(crate) struct Unused {
    _words: CoherentWords,
}
