// SPDX-License-Identifier: GPL-2.0

//! Accesses to a BAR whose registers are 32 bits wide.

/// Fills `data` from the 32-bit registers that `register` reads by offset. Any width and alignment
/// is served; bytes beyond the address space read as ones.
pub fn read32(offset: u64, data: &mut [u8], mut register: impl FnMut(u64) -> u32) {
    let mut have: Option<(u64, [u8; 4])> = None;
    for (i, byte) in (0u64..).zip(data.iter_mut()) {
        let Some(at) = offset.checked_add(i) else {
            *byte = 0xff;
            continue;
        };
        let base = at & !3;
        let value = match have {
            Some((of, value)) if of == base => value,
            _ => {
                let value = register(base).to_le_bytes();
                have = Some((base, value));
                value
            }
        };
        *byte = value[(at & 3) as usize];
    }
}

/// Splits an access into writes of whole aligned registers. `false`, and nothing written, if it is
/// none: devices of this kind ignore narrower writes.
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
}
