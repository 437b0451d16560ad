// SPDX-License-Identifier: GPL-2.0

//! What only this crate can implement for types of the kernel (the orphan rule).

use crate::word::Word;
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
            // orders later stores after it, this barrier later loads: together an acquire, what C
            // calls smp_acquire__after_ctrl_dep().
            smp_mb(Read);
        })
    }

    #[inline]
    fn fetch_add_relaxed(&self, v: u32) -> u32 {
        self.fetch_add(v, Relaxed)
    }
}
