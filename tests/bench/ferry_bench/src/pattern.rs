// SPDX-License-Identifier: GPL-2.0

//! The content of the memory that moves: every word depends on its position and on a generation
//! that changes with every move, so neither a page in the wrong place nor bytes that a freed page
//! still held from an earlier move pass for the right ones.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Odd, so that words repeat after 2^64 positions only.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Returns word 0 of a generation.
fn origin(generation: u64) -> u64 {
    let mut z = generation.wrapping_add(STEP);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Returns the expected word at `index` in `generation`.
pub fn word(index: usize, generation: u64) -> u64 {
    origin(generation).wrapping_add((index as u64).wrapping_mul(STEP))
}

/// Writes `generation` into `words`, the first of which has the position `first`.
pub fn fill(words: &[AtomicU64], first: usize, generation: u64) {
    let mut value = word(first, generation);
    for place in words {
        place.store(value, Relaxed);
        value = value.wrapping_add(STEP);
    }
}

/// Counts the bytes of `words` that are not those of `old`, and writes `new` over all.
pub fn check_and_refill(words: &[AtomicU64], first: usize, old: u64, new: u64) -> u64 {
    let mut value = word(first, old);
    let change = word(first, new).wrapping_sub(value);
    let mut bad = 0;
    for place in words {
        let found = place.load(Relaxed);
        if found != value {
            bad += bad_bytes(found, value);
        }
        place.store(value.wrapping_add(change), Relaxed);
        value = value.wrapping_add(STEP);
    }
    bad
}

/// Returns the number of bytes that differ between two words.
pub fn bad_bytes(found: u64, wanted: u64) -> u64 {
    (found ^ wanted)
        .to_ne_bytes()
        .iter()
        .filter(|&&byte| byte != 0)
        .count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: usize = 4096;
    const FIRST: usize = 7000;

    fn filled(generation: u64) -> Vec<AtomicU64> {
        let words: Vec<AtomicU64> = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
        fill(&words, FIRST, generation);
        words
    }

    #[test]
    fn untouched_memory_is_good_and_gets_the_next_generation() {
        let words = filled(1);
        assert_eq!(check_and_refill(&words, FIRST, 1, 2), 0);
        assert_eq!(check_and_refill(&words, FIRST, 2, 3), 0);
        assert_eq!(words[5].load(Relaxed), word(FIRST + 5, 3));
    }

    #[test]
    fn every_bad_byte_is_counted_wherever_it_is() {
        for index in [0, 1, WORDS / 2, WORDS - 1] {
            for byte in 0..8 {
                let words = filled(4);
                words[index].fetch_xor(0x80 << (8 * byte), Relaxed);
                assert_eq!(check_and_refill(&words, FIRST, 4, 5), 1);
            }
        }
        let words = filled(4);
        words[3].fetch_xor(u64::MAX, Relaxed);
        words[9].fetch_xor(0x0100_0001, Relaxed);
        assert_eq!(check_and_refill(&words, FIRST, 4, 5), 10);
    }

    #[test]
    fn swapped_pages_are_bad() {
        let words = filled(6);
        for i in 0..512 {
            let (a, b) = (words[i].load(Relaxed), words[512 + i].load(Relaxed));
            words[i].store(b, Relaxed);
            words[512 + i].store(a, Relaxed);
        }
        assert!(check_and_refill(&words, FIRST, 6, 7) > 1024 * 6);
    }

    #[test]
    fn the_content_before_the_last_move_is_bad() {
        let words = filled(8);
        assert!(check_and_refill(&words, FIRST, 9, 10) > WORDS as u64 * 7);
    }

    #[test]
    fn zeroes_are_bad() {
        let words: Vec<AtomicU64> = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
        assert!(check_and_refill(&words, FIRST, 1, 2) > WORDS as u64 * 7);
    }
}
