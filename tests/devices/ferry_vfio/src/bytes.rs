// SPDX-License-Identifier: GPL-2.0

//! Little-endian words of structures in memory.

fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(found) = at.checked_add(N).and_then(|end| bytes.get(at..end)) {
        out.copy_from_slice(found);
    }
    out
}

/// Returns 16 bits at a byte offset; 0 beyond the end, which no fixed structure has.
pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(part(bytes, at))
}

/// Returns 32 bits, as [`u16_at`] does 16.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(part(bytes, at))
}

/// Returns 64 bits, as [`u16_at`] does 16.
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(part(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let bytes: Vec<u8> = (1..=9).collect();
        assert_eq!(u16_at(&bytes, 1), 0x0302);
        assert_eq!(u32_at(&bytes, 5), 0x0908_0706);
        assert_eq!(u64_at(&bytes, 0), 0x0807_0605_0403_0201);
        assert_eq!(u64_at(&bytes, 2), 0);
        assert_eq!(u16_at(&bytes, usize::MAX), 0);
    }
}
