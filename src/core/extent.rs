// SPDX-License-Identifier: GPL-2.0

//! Extents: the bytes that one descriptor of an engine copies.
//!
//! # Examples
//!
//! ```
//! use ferry_core::extent::{ExtentMerger, Segment};
//!
//! let page = |entry: u32, src: u64, dst: u64| Segment { chunk: 0, entry, src, dst, len: 4096 };
//! let mut merger = ExtentMerger::new(4 << 20);
//!
//! // Two folios that adjoin in source and destination are one extent.
//! assert_eq!(merger.push(page(0, 0x1000, 0x8000)), None);
//! assert_eq!(merger.push(page(1, 0x2000, 0x9000)), None);
//! // The third one is elsewhere, so the extent of the first two is complete.
//! let extent = merger.push(page(2, 0x7000, 0xa000)).unwrap();
//! assert_eq!((extent.src, extent.dst, extent.len), (0x1000, 0x8000, 8192));
//! assert_eq!(extent.entries, (0, 1));
//! assert_eq!(merger.finish().map(|last| last.len), Some(4096));
//! ```

/// A part of a folio, or all of it, that has to be copied, by its physical addresses.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The chunk that it belongs to.
    pub chunk: u32,
    /// The entry that it belongs to.
    pub entry: u32,
    /// The physical address of the source.
    pub src: u64,
    /// The physical address of the destination.
    pub dst: u64,
    /// The length in bytes.
    pub len: u64,
}

/// Segments that adjoin in source and destination, which one descriptor copies.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The physical address of the source.
    pub src: u64,
    /// The physical address of the destination.
    pub dst: u64,
    /// The length in bytes.
    pub len: u64,
    /// The first and the last chunk of its segments.
    pub chunks: (u32, u32),
    /// The first and the last entry of its segments.
    pub entries: (u32, u32),
}

impl From<Segment> for Extent {
    fn from(s: Segment) -> Self {
        Self {
            src: s.src,
            dst: s.dst,
            len: s.len,
            chunks: (s.chunk, s.chunk),
            entries: (s.entry, s.entry),
        }
    }
}

/// A merger that joins segments, given in order, to extents.
#[derive(Debug)]
pub struct ExtentMerger {
    open: Option<Extent>,
    max: u64,
}

impl ExtentMerger {
    /// Creates a merger whose extents are at most `max` bytes long, except for a single segment
    /// that is longer.
    pub const fn new(max: u64) -> Self {
        Self { open: None, max }
    }

    /// Adds a segment. Returns the extent before it if the segment does not adjoin that, or would
    /// make it too long.
    pub fn push(&mut self, segment: Segment) -> Option<Extent> {
        if let Some(extent) = &mut self.open {
            let joined = extent
                .len
                .checked_add(segment.len)
                .filter(|&l| l <= self.max);
            if let (Some(len), true) = (
                joined,
                extent.src.checked_add(extent.len) == Some(segment.src)
                    && extent.dst.checked_add(extent.len) == Some(segment.dst),
            ) {
                extent.len = len;
                extent.chunks.1 = segment.chunk;
                extent.entries.1 = segment.entry;
                return None;
            }
        }
        self.open.replace(segment.into())
    }

    /// Ends a chunk. Returns the open extent unless the `whole` chunk has been added.
    ///
    /// All entries between the first and the last segment of an extent count as copied with it, so
    /// no extent may span an entry that was not added.
    pub fn end_chunk(&mut self, whole: bool) -> Option<Extent> {
        if whole {
            None
        } else {
            self.open.take()
        }
    }

    /// Returns the last extent, if one is open.
    pub fn finish(&mut self) -> Option<Extent> {
        self.open.take()
    }
}

#[cfg_attr(CONFIG_KUNIT = "y", kernel::macros::kunit_tests(ferry_core_extent))]
#[cfg_attr(not(CONFIG_KUNIT = "y"), cfg(test))]
mod tests {
    use super::*;

    const K: u64 = 1024;

    fn segment(chunk: u32, entry: u32, src: u64, dst: u64, len: u64) -> Segment {
        Segment {
            chunk,
            entry,
            src,
            dst,
            len,
        }
    }

    #[test]
    fn what_adjoins_is_one_extent() {
        let mut m = ExtentMerger::new(16 * K);
        assert_eq!(m.push(segment(0, 0, 0x1000, 0x9000, 4096)), None);
        assert_eq!(m.push(segment(0, 2, 0x2000, 0xa000, 4096)), None);
        assert_eq!(m.push(segment(1, 3, 0x3000, 0xb000, 4096)), None);
        let extent = Extent {
            src: 0x1000,
            dst: 0x9000,
            len: 3 * 4096,
            chunks: (0, 1),
            entries: (0, 3),
        };
        // The source adjoins, the destination does not.
        assert_eq!(m.push(segment(1, 4, 0x4000, 0xd000, 4096)), Some(extent));
        let next = Extent::from(segment(1, 4, 0x4000, 0xd000, 4096));
        // The destination adjoins, the source does not.
        assert_eq!(m.push(segment(1, 5, 0x6000, 0xe000, 4096)), Some(next));
        assert_eq!(m.finish(), Some(segment(1, 5, 0x6000, 0xe000, 4096).into()));
        assert_eq!(m.finish(), None);
    }

    #[test]
    fn no_extent_spans_a_chunk_that_failed() {
        let mut m = ExtentMerger::new(64 * K);
        assert_eq!(m.push(segment(0, 0, 0x1000, 0x9000, 4096)), None);
        assert_eq!(m.end_chunk(true), None);
        // No segment of chunk 1 is added; chunk 2 adjoins chunk 0.
        let before = Extent::from(segment(0, 0, 0x1000, 0x9000, 4096));
        assert_eq!(m.end_chunk(false), Some(before));
        assert_eq!(m.push(segment(2, 2, 0x2000, 0xa000, 4096)), None);
        assert_eq!(m.end_chunk(true), None);
        let extent = m.finish();
        assert_eq!(
            extent.map(|r| (r.chunks, r.entries)),
            Some(((2, 2), (2, 2)))
        );
        assert_eq!(m.end_chunk(false), None);
    }

    #[test]
    fn extents_have_a_limit() {
        let mut m = ExtentMerger::new(8 * K);
        assert_eq!(m.push(segment(0, 0, 0, 64 * K, 8 * K)), None);
        let first = m.push(segment(1, 0, 8 * K, 72 * K, 4 * K));
        assert_eq!(first.map(|r| r.len), Some(8 * K));
        // One segment that is too long stays whole.
        let second = m.push(segment(2, 0, 12 * K, 76 * K, 32 * K));
        assert_eq!(second.map(|r| (r.len, r.chunks)), Some((4 * K, (1, 1))));
        assert_eq!(m.finish().map(|r| r.len), Some(32 * K));
    }

    #[test]
    fn addresses_at_the_end_do_not_wrap() {
        let mut m = ExtentMerger::new(u64::MAX);
        assert_eq!(m.push(segment(0, 0, u64::MAX - 4095, 0, 4096)), None);
        assert!(m.push(segment(0, 1, 0, 4096, 4096)).is_some());
        let mut m = ExtentMerger::new(u64::MAX);
        assert_eq!(m.push(segment(0, 0, 0, 0, u64::MAX)), None);
        assert!(m.push(segment(0, 1, u64::MAX, u64::MAX, 4096)).is_some());
    }
}
