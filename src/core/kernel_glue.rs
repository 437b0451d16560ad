// SPDX-License-Identifier: GPL-2.0

//! Implementations for types of the kernel that the orphan rule allows in this crate only.

use crate::{
    reasons::ReasonMask,
    sdxi::log,
    word::Word, //
};
use kernel::sync::{
    atomic::{
        Acquire,
        Atomic,
        Full,
        Relaxed,
        Release, //
    },
    barrier::{
        smp_mb,
        Read, //
    },
};

impl Word for Atomic<u32> {
    #[inline]
    fn load_relaxed(&self) -> u32 {
        self.load(Relaxed)
    }

    #[inline]
    fn load_acquire(&self) -> u32 {
        self.load(Acquire)
    }

    #[inline]
    fn store_relaxed(&self, v: u32) {
        self.store(v, Relaxed);
    }

    #[inline]
    fn store_release(&self, v: u32) {
        self.store(v, Release);
    }

    #[inline]
    fn compare_exchange(&self, old: u32, new: u32) -> Result<u32, u32> {
        self.cmpxchg(old, new, Full).inspect_err(|_| {
            // The load of a failed cmpxchg() is relaxed in the kernel's memory model. The branch
            // orders later stores after it, and this barrier orders later loads: together they are
            // an acquire, like smp_acquire__after_ctrl_dep() in C.
            smp_mb(Read);
        })
    }
}

impl kernel::fmt::Display for log::Entry {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

// `reasons` gives its names the numbers of `enum migrate_reason`, which has no other reasons.
const _: () = {
    use kernel::bindings as b;

    assert!(b::migrate_reason_MR_COMPACTION == 0);
    assert!(b::migrate_reason_MR_MEMORY_FAILURE == 1);
    assert!(b::migrate_reason_MR_MEMORY_HOTPLUG == 2);
    assert!(b::migrate_reason_MR_SYSCALL == 3);
    assert!(b::migrate_reason_MR_MEMPOLICY_MBIND == 4);
    assert!(b::migrate_reason_MR_NUMA_MISPLACED == 5);
    assert!(b::migrate_reason_MR_CONTIG_RANGE == 6);
    assert!(b::migrate_reason_MR_LONGTERM_PIN == 7);
    assert!(b::migrate_reason_MR_DEMOTION == 8);
    assert!(b::migrate_reason_MR_DAMON == 9);
    assert!(ReasonMask::ALL.bits() == (1 << b::migrate_reason_MR_NEVER) - 1);
};
