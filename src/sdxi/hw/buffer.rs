// SPDX-License-Identifier: GPL-2.0

//! Memory that tests of a context copy from and to.
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

/// Memory to copy from and to, for tests of a context.
pub(crate) struct Buffer {
    words: CoherentWords,
}

/// What is in a buffer where nothing was written, and must not be.
const UNWRITTEN: u64 = 0xa5a5_a5a5_a5a5_a5a5;

/// What a test writes: differs by seed and place.
fn pattern(seed: u64, i: usize) -> u64 {
    (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ i as u64).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

impl Buffer {
    /// So many bytes. May sleep.
    pub(crate) fn new(bars: &Arc<Bars>, bytes: usize) -> Result<Self> {
        let words = CoherentWords::new(bars, bytes.div_ceil(8))?;
        Ok(Self { words })
    }

    /// Where a word of it is.
    pub(crate) fn address(&self, word: usize) -> DeviceAddress {
        DeviceAddress::new(self.words.address(word))
    }

    /// Fills words with the pattern of a seed; without a seed, spoils them.
    pub(crate) fn fill(&self, first: usize, len: usize, seed: Option<u64>) {
        for i in 0..len {
            self.words
                .store(first + i, seed.map_or(UNWRITTEN, |seed| pattern(seed, i)));
        }
    }

    /// Are there so many bytes of the pattern, and is nothing changed behind them?
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

    /// Gives it back, if the ring that it was used with has nothing to do any more. Otherwise it
    /// is kept for ever if it is dropped before the function has been proven quiet.
    pub(crate) fn done_with(mut self, ring: &ContextRing) -> Result<Unused, Self> {
        self.words.unused = ring.outstanding() == 0;
        match self.words.unused {
            true => Ok(Unused { _words: self.words }),
            false => Err(self),
        }
    }
}

/// A buffer that nobody uses any more. To be dropped where one may sleep, which freeing does behind
/// an IOMMU (`__iommu_dma_free()`): not with the lock of the ring.
#[must_use]
pub(crate) struct Unused {
    _words: CoherentWords,
}
