// SPDX-License-Identifier: GPL-2.0

//! Accesses to a BAR whose registers are 32 or 64 bits wide, and names for registers.

/// Fills `data` from the registers of `N` bytes that `register` reads by offset.
fn read<const N: usize>(offset: u64, data: &mut [u8], mut register: impl FnMut(u64) -> [u8; N]) {
    let size = N as u64;
    let mut have: Option<(u64, [u8; N])> = None;
    for (i, byte) in (0u64..).zip(data.iter_mut()) {
        let Some(at) = offset.checked_add(i) else {
            *byte = 0xff;
            continue;
        };
        let base = at - at % size;
        let value = match have {
            Some((of, value)) if of == base => value,
            _ => {
                let value = register(base);
                have = Some((base, value));
                value
            }
        };
        *byte = value[(at % size) as usize];
    }
}

/// Fills `data` from the 32-bit registers that `register` reads by offset. Any width and alignment
/// is served; bytes beyond the address space read as ones.
pub fn read32(offset: u64, data: &mut [u8], mut register: impl FnMut(u64) -> u32) {
    read(offset, data, |at| register(at).to_le_bytes());
}

/// Reads 64-bit registers, as [`read32`] does those of 32 bits.
pub fn read64(offset: u64, data: &mut [u8], mut register: impl FnMut(u64) -> u64) {
    read(offset, data, |at| register(at).to_le_bytes());
}

/// Splits an access into writes of whole aligned registers. Returns `false` and writes nothing if
/// the access has other parts: devices of this kind ignore narrower writes.
#[must_use]
pub fn write32(offset: u64, data: &[u8], mut register: impl FnMut(u64, u32)) -> bool {
    let fits = offset % 4 == 0 && !data.is_empty() && data.len() % 4 == 0;
    if !fits || offset.checked_add(data.len() as u64).is_none() {
        return false;
    }
    for (i, word) in (0u64..).zip(data.chunks_exact(4)) {
        let mut value = [0; 4];
        value.copy_from_slice(word);
        register(offset + i * 4, u32::from_le_bytes(value));
    }
    true
}

/// Splits an access as [`write32`] does, where registers of 16 bits are in pairs: aligned halves
/// can be written, too. `register` is given the offset of the whole, the value, and a mask of the
/// bits that are written.
#[must_use]
pub fn write32_or_16(offset: u64, data: &[u8], mut register: impl FnMut(u64, u32, u32)) -> bool {
    let fits = offset % 2 == 0 && !data.is_empty() && data.len() % 2 == 0;
    if !fits || offset.checked_add(data.len() as u64).is_none() {
        return false;
    }
    let (mut at, mut rest) = (offset, data);
    while !rest.is_empty() {
        let place = (at % 4) as usize;
        let (now, later) = rest.split_at(rest.len().min(4 - place));
        let (mut value, mut mask) = ([0; 4], [0; 4]);
        value[place..place + now.len()].copy_from_slice(now);
        mask[place..place + now.len()].fill(0xff);
        register(
            at - at % 4,
            u32::from_le_bytes(value),
            u32::from_le_bytes(mask),
        );
        at += now.len() as u64;
        rest = later;
    }
    true
}

/// Splits an access to 64-bit registers as [`write32`] does; they can be written by halves.
/// `register` is given the offset, the value, and a mask of the bits that are written.
#[must_use]
pub fn write64(offset: u64, data: &[u8], mut register: impl FnMut(u64, u64, u64)) -> bool {
    let half = u64::from(u32::MAX);
    let mut whole: Option<(u64, u64)> = None;
    let fits = write32(offset, data, |at, value| {
        let value = u64::from(value);
        match (at % 8, whole.take()) {
            (0, _) => whole = Some((at, value)),
            (_, Some((low, first))) => register(low, first | value << 32, u64::MAX),
            (_, None) => register(at - 4, value << 32, half << 32),
        }
    });
    if let Some((at, value)) = whole {
        register(at, value, half);
    }
    fits
}

/// An enum of registers by offset, with `ALL` of them, `at` an offset, and `dump` for people.
#[macro_export]
macro_rules! registers {
    ($(#[$doc:meta])* pub enum Register { $($(#[$about:meta])* $name:ident = $at:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Register { $($(#[$about])* $name = $at,)* }

        impl Register {
            /// All of them.
            pub const ALL: &'static [Register] = &[$(Register::$name,)*];

            /// Returns the register at an offset.
            pub fn at(offset: u64) -> Option<Register> {
                Register::ALL.iter().copied().find(|r| *r as u64 == offset)
            }

            /// Returns the values of the registers by name.
            pub fn dump<T: std::fmt::LowerHex>(read: impl Fn(Register) -> T) -> serde_json::Value {
                let text = |r: &Register| format!("{:#x}", read(*r)).into();
                let all = Register::ALL.iter();
                let all = all.map(|r| (format!("{r:?}"), text(r)));
                all.collect::<serde_json::Map<_, _>>().into()
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_of_any_width() {
        let register = |offset: u64| 0x0403_0201u32.wrapping_add(offset as u32 * 0x0101_0101);
        let mut eight = [0; 8];
        read32(0, &mut eight, register);
        assert_eq!(eight, [1, 2, 3, 4, 5, 6, 7, 8]);
        let mut odd = [0; 3];
        read32(3, &mut odd, register);
        assert_eq!(odd, [4, 5, 6]);
        let mut end = [0; 4];
        read32(u64::MAX - 1, &mut end, |_| 0);
        assert_eq!(end, [0, 0, 0xff, 0xff]);
        let mut high = [0; 4];
        read64(12, &mut high, |offset| offset << 32);
        assert_eq!(high, [8, 0, 0, 0]);
    }

    #[test]
    fn each_register_is_read_once() {
        let mut seen = Vec::new();
        read32(2, &mut [0; 8], |offset| {
            seen.push(offset);
            0
        });
        assert_eq!(seen, [0, 4, 8]);
    }

    #[test]
    fn only_whole_registers_are_written() {
        let mut seen = Vec::new();
        assert!(write32(8, &[1, 0, 0, 0, 2, 0, 0, 0], |o, v| seen.push((o, v))));
        assert_eq!(seen, [(8, 1), (12, 2)]);
        for (offset, len) in [(1, 4), (0, 2), (0, 0), (0, 6), (u64::MAX - 3, 4)] {
            assert!(!write32(offset, &[0; 8][..len], |_, _| panic!("written")));
        }
    }

    #[test]
    fn pairs_are_written_by_halves_or_whole() {
        let write = |offset, data: &[u8]| {
            let mut seen = Vec::new();
            assert!(write32_or_16(offset, data, |o, v, m| seen.push((o, v, m))));
            seen
        };
        let data = [1, 0, 2, 0, 3, 0, 4, 0];
        let (low, high) = (0xffff, 0xffff_0000);
        assert_eq!(write(8, &data[..2]), [(8, 1, low)]);
        assert_eq!(write(10, &data[..2]), [(8, 1 << 16, high)]);
        assert_eq!(write(8, &data[..4]), [(8, 2 << 16 | 1, u32::MAX)]);
        assert_eq!(
            write(10, &data),
            [
                (8, 1 << 16, high),
                (12, 3 << 16 | 2, u32::MAX),
                (16, 4, low)
            ]
        );
        for (offset, len) in [(1, 2), (0, 1), (0, 0), (0, 3), (u64::MAX - 1, 2)] {
            assert!(!write32_or_16(offset, &data[..len], |_, _, _| panic!(
                "written"
            )));
        }
    }

    #[test]
    fn wide_registers_are_written_by_halves_or_whole() {
        let write = |offset, data: &[u8]| {
            let mut seen = Vec::new();
            assert!(write64(offset, data, |o, v, m| seen.push((o, v, m))));
            seen
        };
        let (low, high) = (u64::MAX >> 32, !(u64::MAX >> 32));
        let data = [1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0];
        assert_eq!(write(8, &data[..8]), [(8, 0x2_0000_0001, u64::MAX)]);
        assert_eq!(write(8, &data[..4]), [(8, 1, low)]);
        assert_eq!(write(12, &data[..4]), [(8, 1 << 32, high)]);
        assert_eq!(
            write(12, &data),
            [(8, 1 << 32, high), (16, 3 << 32 | 2, u64::MAX)]
        );
        assert_eq!(
            write(16, &data),
            [(16, 2 << 32 | 1, u64::MAX), (24, 3, low)]
        );
        for (offset, len) in [(1, 8), (0, 2), (0, 0)] {
            assert!(!write64(offset, &data[..len], |_, _, _| panic!("written")));
        }
    }
}
