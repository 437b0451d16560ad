// SPDX-License-Identifier: GPL-2.0

//! The input of a hostile driver.

/// The bytes of an input, from the front; zeros when they are used up.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl Input<'_> {
    /// Takes `N` bytes.
    pub(crate) fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let n = self.0.len().min(N);
        let (now, rest) = self.0.split_at(n);
        out[..n].copy_from_slice(now);
        self.0 = rest;
        out
    }

    /// Takes a byte.
    pub(crate) fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }

    /// Takes 16 bits.
    pub(crate) fn half(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    /// Takes 32 bits.
    pub(crate) fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    /// Takes an address or index: mostly near one of these places, sometimes any number.
    pub(crate) fn near(&mut self, places: [u32; 4]) -> u32 {
        match self.byte() {
            kind @ 0..=199 => {
                let place = places[usize::from(kind % 4)];
                place.wrapping_add(u32::from(self.half() & 0x3fe0))
            }
            _ => self.word(),
        }
    }
}
