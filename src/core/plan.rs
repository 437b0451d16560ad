// SPDX-License-Identifier: GPL-2.0

//! Plans: how the bytes of a batch are cut into ranges, one per chunk.
//!
//! A lane copies one range between a claim and its completion, so ranges are balanced by bytes, not
//! by folios: small folios are gathered, and large ones are cut. A folio larger than a range never
//! shares a range with another folio, so that it can be settled by its own chunks alone.
//!
//! # Examples
//!
//! ```
//! use ferry_core::plan::{plan, span, ChunkRange};
//!
//! // Two pages, a folio that may not be copied early, and a folio of 192 KiB; chunks of 64 KiB.
//! let sizes = [4096, 4096, 0, 192 << 10];
//! let mut ranges = [ChunkRange::default(); 8];
//! let planned = plan(sizes.into_iter(), 64 << 10, &mut ranges);
//!
//! assert_eq!((planned.entries, planned.chunks), (4, 4));
//! assert_eq!(planned.bytes, 200 << 10);
//! // The pages share chunk 0, the large folio has chunks 1 to 3 for itself.
//! assert_eq!(ranges[0], ChunkRange { first: 0, count: 2, offset: 0, len: 8192 });
//! assert_eq!(span(&ranges[..4], 3), Some((1, 3)));
//! // No chunk holds bytes of the folio that may not be copied.
//! assert_eq!(span(&ranges[..4], 2), None);
//! ```

/// The size of a page in bytes; all cuts are at multiples of it.
const PAGE: u64 = 4096;

/// A run of bytes of a batch, which is one chunk.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct ChunkRange {
    /// The first entry.
    pub first: u32,
    /// The number of entries; 1 for a part of a large folio. Entries of size 0 among them are not
    /// eligible, and the lane that copies skips them.
    pub count: u32,
    /// The byte of the first entry at which the range begins; 0 unless it is a part of a large
    /// folio.
    pub offset: u64,
    /// The number of bytes.
    pub len: u64,
}

/// The extent of a plan: how many entries, chunks and bytes it covers.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// The number of entries that were planned: each is either whole in the plan or not eligible.
    pub entries: u32,
    /// The number of ranges that were written.
    pub chunks: u32,
    /// The sum of the lengths of the ranges.
    pub bytes: u64,
}

/// Rounds the wanted size of a range down to whole pages, at least one.
fn cut_size(chunk_bytes: u64) -> u64 {
    (chunk_bytes & !(PAGE - 1)).max(PAGE)
}

/// Returns `a / b`, rounded up; 0 if `b` is 0, so that it cannot panic.
fn div_up(a: u64, b: u64) -> u64 {
    match (a.checked_div(b), a.checked_rem(b)) {
        (Some(quotient), Some(rest)) => quotient.saturating_add(u64::from(rest > 0)),
        _ => 0,
    }
}

/// The part of a plan that has been written so far.
struct Writer<'a> {
    out: &'a mut [ChunkRange],
    done: Planned,
}

impl Writer<'_> {
    /// Returns the number of ranges that still fit.
    fn room(&self) -> u64 {
        (self.out.len() as u64)
            .min(u64::from(u32::MAX))
            .saturating_sub(u64::from(self.done.chunks))
    }

    /// Appends a range. Returns `true` if it fitted.
    fn push(&mut self, range: ChunkRange) -> bool {
        if self.room() == 0 {
            return false;
        }
        let Some(bytes) = self.done.bytes.checked_add(range.len) else {
            return false;
        };
        let Some(slot) = self.out.get_mut(self.done.chunks as usize) else {
            return false;
        };
        *slot = range;
        // There was room, so this is at most `u32::MAX`.
        self.done.chunks = self.done.chunks.saturating_add(1);
        self.done.bytes = bytes;
        true
    }

    /// Cuts `len` bytes at `offset` of entry `first` into as few ranges of at most `cut` bytes as
    /// possible, as equal as pages allow. Returns `false`, and appends none, if not all of them
    /// fit.
    fn push_cut(&mut self, first: u32, offset: u64, len: u64, cut: u64) -> bool {
        let pages = div_up(len, PAGE);
        let ranges = div_up(pages, cut / PAGE);
        let Some(end) = offset.checked_add(len) else {
            return false;
        };
        if ranges > self.room() || self.done.bytes.checked_add(len).is_none() {
            return false;
        }
        // The first `longer` ranges have one page more than the others.
        let (Some(each), Some(longer)) = (pages.checked_div(ranges), pages.checked_rem(ranges))
        else {
            // Without bytes there are no ranges.
            return true;
        };
        let mut offset = offset;
        for i in 0..ranges {
            // The sum of these is `len` rounded up to pages, so the last range ends at `end`.
            let want = each
                .saturating_add(u64::from(i < longer))
                .saturating_mul(PAGE);
            let range = ChunkRange {
                first,
                count: 1,
                offset,
                len: want.min(end.saturating_sub(offset)),
            };
            // This cannot fail, as there was room for all of the ranges.
            if !self.push(range) {
                return false;
            }
            offset = offset.saturating_add(range.len);
        }
        true
    }
}

/// Plans a batch: cuts its entries, given by their sizes in bytes and in move order, into `out`.
///
/// An entry of size 0 is not eligible; a range covers it only if it lies between two eligible ones.
/// Small folios are gathered up to `chunk_bytes` (rounded down to pages, at least one page). A
/// folio larger than that is cut evenly into ranges of at most that size, multiples of a page, and
/// shares no range. Planning stops at the first entry that does not fit completely into the rest of
/// `out`. Returns the entries, ranges and bytes of the plan.
pub fn plan(sizes: impl Iterator<Item = u64>, chunk_bytes: u64, out: &mut [ChunkRange]) -> Planned {
    let cut = cut_size(chunk_bytes);
    let mut to = Writer {
        out,
        done: Planned::default(),
    };
    // The small folios gathered so far; `len` is zero if and only if there are none.
    let mut run = ChunkRange::default();

    // The range ends before the number of entries would not fit into a `u32`.
    for (index, size) in (0..u32::MAX).zip(sizes) {
        if size == 0 {
            // The entry is not eligible, and counts as planned. That would be wrong if an open run
            // turned out not to fit, so a run is opened only when there is room for it.
        } else if size > cut {
            if run.len > 0 {
                // There was room when the run was opened.
                to.push(core::mem::take(&mut run));
            }
            if !to.push_cut(index, 0, size, cut) {
                break;
            }
        } else {
            // `size` is at most `cut`, so the difference does not saturate.
            if run.len > cut.saturating_sub(size) {
                to.push(core::mem::take(&mut run));
            }
            if run.len == 0 {
                if to.room() == 0 || to.done.bytes.checked_add(cut).is_none() {
                    break;
                }
                run.first = index;
            }
            // None of these saturates: `first <= index < u32::MAX`, and `len` stays within `cut`.
            run.count = index.saturating_sub(run.first).saturating_add(1);
            run.len = run.len.saturating_add(size);
        }
        to.done.entries = index.saturating_add(1);
    }

    if run.len > 0 {
        to.push(run);
    }
    to.done
}

/// Plans a part of one large folio, `len` bytes at `offset`, for copying in place.
///
/// The folio is entry 0, and is cut as [`plan()`] cuts a large folio. If `out` is too short for all
/// ranges, it is filled with ranges of `chunk_bytes`, [`Planned::entries`] is 0, and the caller
/// goes on at `offset + bytes`.
pub fn plan_window(offset: u64, len: u64, chunk_bytes: u64, out: &mut [ChunkRange]) -> Planned {
    let cut = cut_size(chunk_bytes);
    // No byte lies beyond the end of the address space.
    let len = len.min(u64::MAX.saturating_sub(offset));
    let mut to = Writer {
        out,
        done: Planned::default(),
    };
    if to.push_cut(0, offset, len, cut) {
        to.done.entries = 1;
    } else {
        // These are fewer bytes than `len`, which takes more ranges than there is room for.
        let part = to.room().saturating_mul(cut).min(len);
        to.push_cut(0, offset, part, cut);
    }
    to.done
}

/// Returns the ranges that hold bytes of `entry`: the index of the first one and their number, or
/// `None` if there are none.
///
/// `ranges` are the ranges that [`plan()`] wrote.
pub fn span(ranges: &[ChunkRange], entry: u32) -> Option<(u32, u32)> {
    let within = |p: &ChunkRange| entry.checked_sub(p.first).is_some_and(|i| i < p.count);
    let begin = ranges.partition_point(|p| p.first < entry && !within(p));
    let rest = ranges.get(begin..)?;
    let count = rest.partition_point(within);
    match (u32::try_from(begin), u32::try_from(count)) {
        (Ok(begin), Ok(count)) if count > 0 => Some((begin, count)),
        _ => None,
    }
}

#[cfg_attr(CONFIG_KUNIT = "y", kernel::macros::kunit_tests(ferry_core_plan))]
#[cfg_attr(not(CONFIG_KUNIT = "y"), cfg(test))]
mod tests {
    use super::*;

    const K: u64 = 1024;
    const M: u64 = 1024 * K;

    fn range(first: u32, count: u32, offset: u64, len: u64) -> ChunkRange {
        ChunkRange {
            first,
            count,
            offset,
            len,
        }
    }

    fn planned(entries: u32, chunks: u32, bytes: u64) -> Planned {
        Planned {
            entries,
            chunks,
            bytes,
        }
    }

    #[test]
    fn small_folios_are_gathered() {
        let mut out = [ChunkRange::default(); 40];
        let p = plan((0..70).map(|_| 4 * K), 128 * K, &mut out);
        assert_eq!(p, planned(70, 3, 280 * K));
        assert_eq!(out[0], range(0, 32, 0, 128 * K));
        assert_eq!(out[1], range(32, 32, 0, 128 * K));
        assert_eq!(out[2], range(64, 6, 0, 24 * K));
        assert_eq!(out[3], ChunkRange::default());
    }

    #[test]
    fn large_folios_are_cut_evenly() {
        let mut out = [ChunkRange::default(); 40];
        let p = plan([2 * M, 196 * K].into_iter(), 128 * K, &mut out);
        assert_eq!(p, planned(2, 18, 2 * M + 196 * K));
        assert_eq!(out[15], range(0, 1, 2 * M - 128 * K, 128 * K));
        assert_eq!(out[16], range(1, 1, 0, 100 * K));
        assert_eq!(out[17], range(1, 1, 100 * K, 96 * K));
    }

    #[test]
    fn large_and_small_share_nothing() {
        let mut out = [ChunkRange::default(); 8];
        let p = plan(
            [4 * K, 64 * K, 256 * K, 4 * K].into_iter(),
            128 * K,
            &mut out,
        );
        assert_eq!(p, planned(4, 4, 328 * K));
        assert_eq!(out[0], range(0, 2, 0, 68 * K));
        assert_eq!(out[1], range(2, 1, 0, 128 * K));
        assert_eq!(out[2], range(2, 1, 128 * K, 128 * K));
        assert_eq!(out[3], range(3, 1, 0, 4 * K));
    }

    #[test]
    fn one_that_fills_a_chunk_is_not_cut() {
        let mut out = [ChunkRange::default(); 4];
        let p = plan([4 * K, 128 * K, 4 * K].into_iter(), 128 * K, &mut out);
        assert_eq!(p, planned(3, 3, 136 * K));
        assert_eq!(out[1], range(1, 1, 0, 128 * K));
    }

    #[test]
    fn ineligible_ones_are_covered_only_between_others() {
        let mut out = [ChunkRange::default(); 4];
        let sizes = [0, 4 * K, 0, 4 * K, 0, 256 * K, 0, 0];
        let p = plan(sizes.into_iter(), 128 * K, &mut out);
        assert_eq!(p, planned(8, 3, 264 * K));
        assert_eq!(out[0], range(1, 3, 0, 8 * K));
        assert_eq!(out[1], range(5, 1, 0, 128 * K));
    }

    #[test]
    fn stops_where_an_entry_does_not_fit() {
        let mut out = [ChunkRange::default(); 3];
        // The second large folio would take two ranges and one is left, so it is not begun.
        let p = plan([256 * K, 256 * K, 4 * K].into_iter(), 128 * K, &mut out);
        assert_eq!(p, planned(1, 2, 256 * K));
        // An open run keeps its place.
        let p = plan(
            [256 * K, 4 * K, 4 * K, 256 * K].into_iter(),
            128 * K,
            &mut out,
        );
        assert_eq!(p, planned(3, 3, 264 * K));
        let p = plan((0..1000).map(|_| 4 * K), 4 * K, &mut out);
        assert_eq!(p, planned(3, 3, 12 * K));
        assert_eq!(plan([4 * K].into_iter(), 4 * K, &mut []), planned(0, 0, 0));
        assert_eq!(plan([0, 0].into_iter(), 4 * K, &mut []), planned(2, 0, 0));
    }

    #[test]
    fn extreme_sizes_stop_the_plan() {
        let mut out = [ChunkRange::default(); 4];
        let p = plan([4 * K, u64::MAX, 4 * K].into_iter(), 128 * K, &mut out);
        assert_eq!(p, planned(1, 1, 4 * K));
        // One range of nearly all bytes leaves no room for the sum.
        let most = u64::MAX - u64::MAX % PAGE;
        let p = plan([most, most].into_iter(), u64::MAX, &mut out);
        assert_eq!(p, planned(1, 1, most));
        let p = plan([1, 2].into_iter(), 0, &mut out);
        assert_eq!(p, planned(2, 1, 3));
    }

    #[test]
    fn window_of_a_large_folio() {
        let mut out = [ChunkRange::default(); 16];
        let p = plan_window(0, 2 * M, 128 * K, &mut out);
        assert_eq!(p, planned(1, 16, 2 * M));
        let p = plan_window(4 * M, 2 * M + 4 * K, 128 * K, &mut out);
        assert_eq!(p, planned(0, 16, 2 * M));
        assert_eq!(out[0], range(0, 1, 4 * M, 128 * K));
        assert_eq!(out[15], range(0, 1, 6 * M - 128 * K, 128 * K));
        assert_eq!(plan_window(0, 0, 128 * K, &mut out), planned(1, 0, 0));
        assert_eq!(plan_window(0, 4 * K, 0, &mut []), planned(0, 0, 0));
        let p = plan_window(u64::MAX - 4095, u64::MAX, u64::MAX, &mut out);
        assert_eq!(p, planned(1, 1, 4095));
    }

    #[test]
    fn span_finds_the_chunks_of_an_entry() {
        let mut out = [ChunkRange::default(); 8];
        let p = plan(
            [0, 4 * K, 4 * K, 256 * K, 0, 4 * K].into_iter(),
            128 * K,
            &mut out,
        );
        let used = &out[..p.chunks as usize];
        assert_eq!(span(used, 0), None);
        assert_eq!(span(used, 1), Some((0, 1)));
        assert_eq!(span(used, 2), Some((0, 1)));
        assert_eq!(span(used, 3), Some((1, 2)));
        assert_eq!(span(used, 4), None);
        assert_eq!(span(used, 5), Some((3, 1)));
        assert_eq!(span(used, 6), None);
        assert_eq!(span(&[], 0), None);
        assert_eq!(
            span(&[range(u32::MAX, u32::MAX, 0, 1)], u32::MAX),
            Some((0, 1))
        );
    }
}
