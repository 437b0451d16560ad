// SPDX-License-Identifier: GPL-2.0

//! Decisions that are functions of numbers: whether a batch is worth it, how many workers it has,
//! and how far ahead of the mover they copy.

use crate::{
    knob::CopyRoutine,
    reasons, //
};

/// Returns how many chunks of `chunk_bytes` bytes hold `bytes` bytes.
pub fn chunks(bytes: u64, chunk_bytes: u64) -> u32 {
    let chunk_bytes = chunk_bytes.max(1);
    let chunks = (bytes / chunk_bytes).saturating_add(u64::from(bytes % chunk_bytes > 0));
    u32::try_from(chunks).unwrap_or(u32::MAX)
}

/// Returns the number of workers that a batch of `chunks` chunks has work for, at most `cap`.
///
/// The mover copies, too, so there is one worker fewer than there are chunks, and none for a single
/// chunk.
pub fn most_workers(chunks: u32, cap: u32) -> u32 {
    chunks.saturating_sub(1).min(cap)
}

/// The routine with which a CPU copies.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Routine {
    /// The stores go through the caches.
    #[default]
    Cached,
    /// The stores go past the caches, for content that will not be read soon.
    NonTemporal,
}

/// Returns the routine for a migration with this reason.
///
/// By default, demotion goes past the caches, because folios that are demoted have not been used
/// for a long time.
pub fn routine(knob: CopyRoutine, reason: u32) -> Routine {
    match knob {
        CopyRoutine::Auto if reason == reasons::DEMOTION => Routine::NonTemporal,
        CopyRoutine::Auto | CopyRoutine::Cached => Routine::Cached,
        CopyRoutine::NonTemporal => Routine::NonTemporal,
    }
}

/// Returns `true` if a batch of `folios` eligible folios with `bytes` bytes in total is worth being
/// submitted early.
///
/// A single folio never is: its mover settles it at once, so a copy in place by several lanes is as
/// good, and needs no proof that the folio may be copied early.
pub fn worth_submitting(bytes: u64, folios: u32, min_bytes: u64) -> bool {
    folios >= 2 && bytes >= min_bytes
}

/// The size, in bytes, of the smallest chunk that is worth being handed to another lane, which is
/// the smallest value of `chunk_bytes`, too.
const MIN_CHUNK_BYTES: u64 = 64 << 10;

/// Returns the size of the chunks of one folio of `bytes` bytes that is copied in place.
///
/// The size is at most `chunk_bytes`, and small enough that there are four chunks, so that a lane
/// that comes late still finds one and the last lane does not end much later than the others. It is
/// not smaller than is worth being handed over.
pub fn in_place_chunk_bytes(bytes: u64, chunk_bytes: u64) -> u64 {
    (bytes / 4).max(MIN_CHUNK_BYTES).min(chunk_bytes)
}

/// Returns about how many bytes `taken` of the `chunks` chunks of a batch of `bytes` bytes have.
pub fn bytes_of(bytes: u64, taken: u32, chunks: u32) -> u64 {
    let each = bytes.checked_div(chunks.into()).unwrap_or(0);
    each.saturating_mul(taken.into()).min(bytes)
}

/// Returns the first chunk that is too far ahead of the mover to be claimed, which is the limit for
/// [`ChunkCounter::take()`](crate::ChunkCounter::take).
///
/// `mover` is the chunk that the mover is at. Even without any look-ahead, the chunk after that is
/// within reach; otherwise workers would have no chunk but the mover's own.
pub fn lookahead_limit(mover: u32, lookahead_bytes: u64, chunk_bytes: u64, chunks: u32) -> u32 {
    let ahead = (lookahead_bytes / chunk_bytes.max(1)).max(1);
    u32::try_from(ahead)
        .unwrap_or(u32::MAX)
        .saturating_add(mover)
        .saturating_add(1)
        .min(chunks)
}

#[cfg_attr(CONFIG_KUNIT = "y", kernel::macros::kunit_tests(ferry_core_policy))]
#[cfg_attr(not(CONFIG_KUNIT = "y"), cfg(test))]
mod tests {
    use super::*;

    const K: u64 = 1024;

    #[test]
    fn one_folio_is_cut_in_four_or_more() {
        assert_eq!(in_place_chunk_bytes(128 * K, 128 * K), 64 * K);
        assert_eq!(in_place_chunk_bytes(256 * K, 128 * K), 64 * K);
        assert_eq!(in_place_chunk_bytes(512 * K, 128 * K), 128 * K);
        assert_eq!(in_place_chunk_bytes(2048 * K, 128 * K), 128 * K);
        assert_eq!(in_place_chunk_bytes(2048 * K, 1024 * K), 512 * K);
        assert_eq!(in_place_chunk_bytes(u64::MAX, 128 * K), 128 * K);
    }

    #[test]
    fn workers_follow_bytes_and_cap() {
        assert_eq!(most_workers(chunks(2048 * K, 128 * K), 8), 8);
        assert_eq!(most_workers(chunks(2048 * K, 128 * K), 64), 15);
        assert_eq!(most_workers(chunks(128 * K, 128 * K), 8), 0);
        assert_eq!(most_workers(chunks(129 * K, 128 * K), 8), 1);
        assert_eq!(most_workers(chunks(0, 128 * K), 8), 0);
        assert_eq!(most_workers(chunks(2048 * K, 128 * K), 0), 0);
        assert_eq!(chunks(u64::MAX, 0), u32::MAX);
    }

    #[test]
    fn routine_follows_reason_and_knob() {
        let (demotion, syscall) = (reasons::DEMOTION, 3);
        assert_eq!(routine(CopyRoutine::Auto, demotion), Routine::NonTemporal);
        assert_eq!(routine(CopyRoutine::Auto, syscall), Routine::Cached);
        assert_eq!(routine(CopyRoutine::Cached, demotion), Routine::Cached);
        assert_eq!(
            routine(CopyRoutine::NonTemporal, syscall),
            Routine::NonTemporal
        );
    }

    #[test]
    fn batches_worth_it() {
        assert!(worth_submitting(64 * K, 16, 64 * K));
        assert!(!worth_submitting(64 * K - 1, 16, 64 * K));
        assert!(!worth_submitting(2048 * K, 1, 64 * K));
        assert!(!worth_submitting(0, 0, 0));
        assert!(worth_submitting(0, 2, 0));
    }

    #[test]
    fn lookahead_moves_with_the_mover() {
        assert_eq!(lookahead_limit(0, 512 * K, 128 * K, 100), 5);
        assert_eq!(lookahead_limit(10, 512 * K, 128 * K, 100), 15);
        assert_eq!(lookahead_limit(98, 512 * K, 128 * K, 100), 100);
        assert_eq!(lookahead_limit(0, 0, 128 * K, 100), 2);
        assert_eq!(lookahead_limit(u32::MAX, u64::MAX, 0, u32::MAX), u32::MAX);
    }
}
