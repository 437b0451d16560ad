// SPDX-License-Identifier: GPL-2.0

//! Tests of the routine that copies past the caches (`rust-bindings/copy_x86_64.S`): it stops where
//! content cannot be read, says how much that leaves, and has copied all before it (I10).
//!
//! The page behind a vmalloc area cannot be read. What poison that has been taken out of the direct
//! map does to a load is the same there, and a machine check takes the same way out.

#[kernel::macros::kunit_tests(ferry_copy_nt)]
mod tests {
    use ferry_bindings as fb;
    use kernel::{
        page::PAGE_SIZE,
        prelude::*, //
    };

    const LINE: usize = 64;
    const WORD: usize = 8;
    const SPOILT: u8 = 0x5a;

    /// A page with nothing behind it: different in each byte of a line, in each line, and never
    /// [`SPOILT`].
    fn source() -> Result<VVec<u8>> {
        let mut page = VVec::with_capacity(PAGE_SIZE, GFP_KERNEL)?;
        for i in 0..PAGE_SIZE {
            let byte = (i % 251) as u8;
            page.push(if byte == SPOILT { 0xff } else { byte }, GFP_KERNEL)?;
        }
        Ok(page)
    }

    /// Copies `len` bytes from `at` on to the beginning of `dst`; returns how many were not.
    fn copy(dst: &mut [u8], src: &[u8], at: usize, len: usize) -> usize {
        assert!(len <= dst.len() && at <= src.len() && len % LINE == 0);
        let from = src.as_ptr().wrapping_add(at);
        // SAFETY: `dst` has room for `len` bytes. What is read beyond `src` is the guard page of
        // its vmalloc area, where the load faults and the routine ends.
        unsafe { fb::ferry_copy_nt(dst.as_mut_ptr().cast(), from.cast(), len) }
    }

    #[test]
    fn all_of_it() -> Result {
        let (src, mut dst) = (source()?, VVec::from_elem(SPOILT, PAGE_SIZE, GFP_KERNEL)?);
        for len in (0..=PAGE_SIZE).step_by(LINE) {
            dst.fill(SPOILT);
            assert_eq!(copy(&mut dst, &src, 0, len), 0);
            assert!(dst[..len] == src[..len]);
            assert!(dst[len..].iter().all(|b| *b == SPOILT));
        }
        Ok(())
    }

    #[test]
    fn up_to_what_cannot_be_read() -> Result {
        let (src, mut dst) = (source()?, VVec::from_elem(SPOILT, PAGE_SIZE, GFP_KERNEL)?);
        // The numbers of whole lines that can be read, and of words of the next one.
        for lines in 0..PAGE_SIZE / LINE {
            for words in 0..LINE / WORD {
                let (good, some) = (lines * LINE, words * WORD);
                let at = PAGE_SIZE - good - some;
                for len in [good + LINE, PAGE_SIZE] {
                    dst.fill(SPOILT);
                    assert_eq!(copy(&mut dst, &src, at, len), len - good);
                    assert!(dst[..good] == src[at..at + good]);
                    // Of that line there may be what could be read.
                    let (line, beyond) = dst[good..].split_at(LINE);
                    for (i, byte) in line.iter().enumerate() {
                        assert!(*byte == SPOILT || i < some && *byte == src[at + good + i]);
                    }
                    assert!(beyond.iter().all(|b| *b == SPOILT));
                }
            }
        }
        Ok(())
    }
}
