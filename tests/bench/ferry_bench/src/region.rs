// SPDX-License-Identifier: GPL-2.0

//! Memory made of folios of one size, its content, where it lies and what it consists of.

use crate::error::{in_call, Error, Result};
use crate::guest::PAGE;
use crate::{pattern, sys};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes that one entry of a page middle directory maps.
const PMD_BYTES: u64 = 2 << 20;

/// Bits of `/proc/kpageflags` and `/proc/self/pagemap`.
const KPF_COMPOUND_HEAD: u64 = 1 << 15;
const KPF_COMPOUND_TAIL: u64 = 1 << 16;
const PAGEMAP_PRESENT: u64 = 1 << 63;
const PAGEMAP_PFN: u64 = (1 << 55) - 1;

pub struct Region {
    mapping: Arc<sys::Mapping>,
    bytes: u64,
    folio_bytes: u64,
    /// Generation of the content of each piece that moves by itself.
    generations: Vec<u64>,
    piece_bytes: u64,
    next_generation: u64,
    /// One address for each folio: migration moves the whole of it.
    folios: Vec<usize>,
    pages: Vec<usize>,
}

impl Region {
    /// Allocates `bytes` on `node` and fills them. `folio_bytes` is the size that the kernel was
    /// told to use.
    pub fn new(bytes: u64, folio_bytes: u64, piece_bytes: u64, node: i32) -> Result<Region> {
        let mapping = sys::Mapping::new(bytes as usize).map_err(in_call("mmap"))?;
        mapping
            .advise_huge(folio_bytes > PAGE)
            .map_err(in_call("madvise"))?;
        let addresses = |step: u64| -> Vec<usize> {
            (0..bytes / step)
                .map(|i| mapping.address() + (i * step) as usize)
                .collect()
        };
        let (folios, pages) = (addresses(folio_bytes), addresses(PAGE));
        let mut region = Region {
            mapping: Arc::new(mapping),
            bytes,
            folio_bytes,
            generations: vec![0; (bytes / piece_bytes) as usize],
            piece_bytes,
            next_generation: 1,
            folios,
            pages,
        };
        region.renew(0..region.pieces(), node)?;
        Ok(region)
    }

    /// Gives the pieces new folios on `node`, with new content.
    fn renew(&mut self, pieces: Range<usize>, node: i32) -> Result<()> {
        let words = self.words_of(pieces.clone());
        self.mapping
            .discard(words.clone())
            .map_err(in_call("madvise"))?;
        sys::allocate_on(Some(node)).map_err(in_call("set_mempolicy"))?;
        pattern::fill(
            &self.mapping.words()[words.clone()],
            words.start,
            self.next_generation,
        );
        sys::allocate_on(None).map_err(in_call("set_mempolicy"))?;
        self.generations[pieces].fill(self.next_generation);
        self.next_generation += 1;
        Ok(())
    }

    /// Makes the pieces ready for their next move, from `node`, where they are.
    ///
    /// Linux 7.3 splits a large folio that is mapped by PTEs when it is migrated a second time:
    /// unmapping it page by page marks it as partially mapped, `migrate_folio_move()` hands the
    /// mark on to the new folio, and the next `migrate_pages()` splits what bears it. To measure
    /// folios of these sizes at all, every move needs fresh ones.
    pub fn prepare(&mut self, pieces: Range<usize>, node: i32) -> Result<()> {
        if self.folio_bytes > PAGE && self.folio_bytes < PMD_BYTES {
            self.renew(pieces, node)?;
        }
        Ok(())
    }

    fn words_of(&self, pieces: Range<usize>) -> Range<usize> {
        let words = (self.piece_bytes / 8) as usize;
        pieces.start * words..pieces.end * words
    }

    fn pages_of(&self, pieces: Range<usize>) -> Range<usize> {
        let pages = (self.piece_bytes / PAGE) as usize;
        pieces.start * pages..pieces.end * pages
    }

    pub fn folio_bytes(&self) -> u64 {
        self.folio_bytes
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn pieces(&self) -> usize {
        self.generations.len()
    }

    /// Returns one address per folio of the pieces.
    pub fn folios(&self, pieces: Range<usize>) -> &[usize] {
        let per_piece = (self.piece_bytes / self.folio_bytes) as usize;
        &self.folios[pieces.start * per_piece..pieces.end * per_piece]
    }

    pub fn mapping(&self) -> Arc<sys::Mapping> {
        self.mapping.clone()
    }

    /// Returns the number of base pages in a piece.
    pub fn pages_per_piece(&self) -> usize {
        (self.piece_bytes / PAGE) as usize
    }

    /// Returns the position and the content of the first word of a page of a piece.
    pub fn word_of_page(&self, piece: usize, page: usize) -> (usize, u64) {
        let index = self.words_of(piece..piece + 1).start + page * (PAGE / 8) as usize;
        (index, pattern::word(index, self.generations[piece]))
    }

    /// Counts wrong bytes, and gives every piece new content for its next move.
    pub fn check(&mut self, pieces: Range<usize>) -> u64 {
        let generation = self.next_generation;
        self.next_generation += 1;
        pieces
            .map(|piece| {
                let words = self.words_of(piece..piece + 1);
                let old = std::mem::replace(&mut self.generations[piece], generation);
                let place = &self.mapping.words()[words.clone()];
                pattern::check_and_refill(place, words.start, old, generation)
            })
            .sum()
    }

    /// Returns the number of base pages of the pieces that are not on `node`.
    pub fn pages_not_on(&self, node: i32, pieces: Range<usize>) -> Result<u64> {
        let pages = &self.pages[self.pages_of(pieces)];
        let mut status = vec![-1; pages.len()];
        sys::where_are_pages(pages, &mut status).map_err(in_call("move_pages"))?;
        Ok(status.iter().filter(|&&found| found != node).count() as u64)
    }

    /// Returns the share of the pieces that lies in folios of exactly the wanted size and
    /// alignment.
    pub fn right_size_share(&self, pieces: Range<usize>) -> Result<f64> {
        let open = |path: &str| {
            File::open(path).map_err(|source| Error::File {
                path: path.into(),
                source,
            })
        };
        let (pagemap, flags) = (open("/proc/self/pagemap")?, open("/proc/kpageflags")?);
        let pages = &self.pages[self.pages_of(pieces)];
        let entries = read_u64s(&pagemap, pages[0] as u64 / PAGE, pages.len())
            .map_err(in_call("reading /proc/self/pagemap"))?;
        let per_folio = (self.folio_bytes / PAGE) as usize;
        let mut right = 0;
        for folio in entries.chunks_exact(per_folio) {
            let Some(pfn) = contiguous(folio) else {
                continue;
            };
            let mut frames =
                read_u64s(&flags, pfn, per_folio).map_err(in_call("reading /proc/kpageflags"))?;
            // One more, to see where the folio ends; past the last frame nothing goes on.
            let after = read_u64s(&flags, pfn + per_folio as u64, 1);
            frames.push(after.map_or(0, |flags| flags[0]));
            right += usize::from(is_one_folio(pfn, &frames));
        }
        Ok(right as f64 * self.folio_bytes as f64 / (pages.len() as u64 * PAGE) as f64)
    }
}

fn read_u64s(file: &File, index: u64, count: usize) -> std::io::Result<Vec<u64>> {
    let mut bytes = vec![0; count * 8];
    file.read_exact_at(&mut bytes, index * 8)?;
    let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
    Ok(bytes.chunks_exact(8).map(word).collect())
}

/// Returns the first frame of pagemap entries if all are present and follow each other.
fn contiguous(entries: &[u64]) -> Option<u64> {
    let first = entries[0] & PAGEMAP_PFN;
    entries
        .iter()
        .zip(first..)
        .all(|(entry, pfn)| entry & PAGEMAP_PRESENT != 0 && entry & PAGEMAP_PFN == pfn)
        .then_some(first)
        .filter(|&pfn| pfn != 0)
}

/// Returns `true` if the frames from `pfn` on, all but the last of `flags`, are one whole folio.
fn is_one_folio(pfn: u64, flags: &[u64]) -> bool {
    let (after, frames) = flags.split_last().expect("flags of at least one frame");
    let kind = |flags: &u64| flags & (KPF_COMPOUND_HEAD | KPF_COMPOUND_TAIL);
    if frames.len() == 1 {
        return kind(&frames[0]) == 0;
    }
    pfn % frames.len() as u64 == 0
        && kind(&frames[0]) == KPF_COMPOUND_HEAD
        && frames[1..]
            .iter()
            .all(|flags| kind(flags) == KPF_COMPOUND_TAIL)
        && kind(after) != KPF_COMPOUND_TAIL
}

#[cfg(test)]
mod tests {
    use super::*;

    const H: u64 = KPF_COMPOUND_HEAD | 1 << 12;
    const T: u64 = KPF_COMPOUND_TAIL;

    #[test]
    fn frames_in_a_row() {
        let at = |pfn: u64| PAGEMAP_PRESENT | 1 << 55 | pfn;
        assert_eq!(contiguous(&[at(8), at(9), at(10)]), Some(8));
        assert_eq!(contiguous(&[at(8), at(10)]), None);
        assert_eq!(contiguous(&[at(8), 9]), None);
        assert_eq!(contiguous(&[at(0)]), None, "frame numbers hidden: not root");
    }

    #[test]
    fn folios_by_their_flags() {
        assert!(is_one_folio(7, &[0, T]), "a base page");
        assert!(!is_one_folio(7, &[T, 0]) && !is_one_folio(8, &[H, T]));
        assert!(is_one_folio(8, &[H, T, T, T, H]) && is_one_folio(8, &[H, T, T, T, 0]));
        assert!(!is_one_folio(8, &[H, T, T, T, T]), "larger than wanted");
        assert!(!is_one_folio(8, &[H, T, H, T, 0]), "smaller than wanted");
        assert!(!is_one_folio(10, &[H, T, T, T, 0]), "not aligned");
    }
}
