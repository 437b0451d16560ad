// SPDX-License-Identifier: GPL-2.0

//! Levels the tables of translations of emulated CPUs, so that figures do not depend on earlier
//! work of a CPU.
//!
//! QEMU's TCG keeps, for each virtual CPU, a table of translations with one place for a page, by
//! the low bits of its number. The table grows and shrinks at flushes, by how much of it was in
//! use. While it has fewer places than a folio has pages, a folio and its copy share theirs, page
//! by page, and each word copied takes five times as long. On a CPU that was idle it is that small,
//! and stays so while a worker copies, which flushes nothing. So each CPU touches more and more
//! memory in the kernel, with a flush after each step, until its table is as large as it needs to
//! be.

use crate::error::{in_call, Result};
use crate::guest;
use crate::sys;
use std::sync::atomic::Ordering::Relaxed;

/// The smallest table has this many places: smaller folios and their copies share some by chance
/// only.
const SMALLEST: u64 = 64;

/// Bytes that the last step touches.
const MOST_BYTES: u64 = 32 << 20;

/// Returns `true` if the tables change the speed of folios of this size on this machine.
pub fn matter(accel: &str, folio_bytes: u64) -> bool {
    accel == "tcg" && folio_bytes >= SMALLEST * guest::PAGE
}

/// Grows the tables of all these CPUs and ends on `home`.
pub fn level(cpus: &[usize], home: usize) -> Result<()> {
    for &cpu in cpus.iter().filter(|&&cpu| cpu != home).chain([&home]) {
        sys::bind_to_cpu(cpu).map_err(in_call("sched_setaffinity"))?;
        let mut bytes = SMALLEST * guest::PAGE;
        while bytes <= MOST_BYTES {
            // The kernel writes zeroes to all of it, and flushes when it goes.
            let memory = sys::Mapping::new(bytes as usize).map_err(in_call("mmap"))?;
            memory.advise_huge(true).map_err(in_call("madvise"))?;
            for page in memory
                .words()
                .chunks(guest::PAGE as usize / size_of::<u64>())
            {
                if let Some(word) = page.first() {
                    word.store(1, Relaxed);
                }
            }
            bytes *= 2;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_emulated_tables_matter() {
        assert!(matter("tcg", 256 << 10));
        assert!(!matter("tcg", 128 << 10));
        assert!(!matter("kvm", 2 << 20));
        assert!(!matter("none", 2 << 20));
    }

    #[test]
    fn ends_at_home() {
        level(&[0], 0).unwrap();
    }
}
