// SPDX-License-Identifier: GPL-2.0

//! The 32-bit atomic word that all shared state of this crate consists of.
//!
//! The protocol code is generic over [`Word`] and runs unchanged on three types: the kernel's
//! `Atomic<u32>` (in `kernel_glue`), [`core::sync::atomic::AtomicU32`] on the host, and the model
//! checker's atomic, which `tests/host` wraps and implements the trait for.

/// An atomic `u32` with the few operations that the claim protocol uses.
///
/// The orderings are part of the contract: an implementation may be stronger, never weaker.
pub trait Word: Send + Sync {
    /// Reads the word and orders nothing.
    fn load_relaxed(&self) -> u32;

    /// Reads the word before all accesses that follow.
    fn load_acquire(&self) -> u32;

    /// Writes the word and orders nothing.
    fn store_relaxed(&self, v: u32);

    /// Writes the word after all accesses that precede.
    ///
    /// This does not order non-temporal stores: a caller that made any has fenced them before.
    fn store_release(&self, v: u32);

    /// Writes `new` if the word is `old`. Returns the value that the word had.
    ///
    /// The operation is acquire and release if it succeeds, and acquire if it fails. It never fails
    /// spuriously.
    ///
    /// # Errors
    ///
    /// Returns the value as an error if it was not `old`.
    fn compare_exchange(&self, old: u32, new: u32) -> Result<u32, u32>;
}

#[cfg(not(CONFIG_RUST))]
mod host {
    use super::Word;
    use core::sync::atomic::{
        AtomicU32,
        Ordering::{
            AcqRel,
            Acquire,
            Relaxed,
            Release, //
        },
    };

    impl Word for AtomicU32 {
        fn load_relaxed(&self) -> u32 {
            self.load(Relaxed)
        }

        fn load_acquire(&self) -> u32 {
            self.load(Acquire)
        }

        fn store_relaxed(&self, v: u32) {
            self.store(v, Relaxed);
        }

        fn store_release(&self, v: u32) {
            self.store(v, Release);
        }

        fn compare_exchange(&self, old: u32, new: u32) -> Result<u32, u32> {
            AtomicU32::compare_exchange(self, old, new, AcqRel, Acquire)
        }
    }
}

/// The word that the tests of this crate use in the kernel, and that of `core` on the host.
#[cfg(all(CONFIG_RUST, CONFIG_KUNIT = "y"))]
pub(crate) use kernel::sync::atomic::Atomic;
#[cfg(all(CONFIG_RUST, CONFIG_KUNIT = "y"))]
pub(crate) type TestWord = Atomic<u32>;
/// The word that the tests of this crate use in the kernel, and that of `core` on the host.
#[cfg(all(test, not(CONFIG_RUST)))]
pub(crate) type TestWord = core::sync::atomic::AtomicU32;

#[cfg_attr(CONFIG_KUNIT = "y", kernel::macros::kunit_tests(ferry_core_word))]
#[cfg_attr(not(CONFIG_KUNIT = "y"), cfg(test))]
mod tests {
    use super::*;

    #[test]
    fn loads_see_stores() {
        let w = TestWord::new(7);
        assert_eq!(w.load_relaxed(), 7);
        w.store_relaxed(8);
        assert_eq!(w.load_acquire(), 8);
        w.store_release(u32::MAX);
        assert_eq!(w.load_relaxed(), u32::MAX);
    }

    #[test]
    fn compare_exchange_returns_what_was_there() {
        let w = TestWord::new(1);
        assert_eq!(Word::compare_exchange(&w, 1, 2), Ok(1));
        assert_eq!(Word::compare_exchange(&w, 1, 3), Err(2));
        assert_eq!(w.load_relaxed(), 2);
    }
}
