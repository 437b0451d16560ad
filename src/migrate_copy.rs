// SPDX-License-Identifier: GPL-2.0

//! The shim in the kernel: its callbacks, and the batches that it fills.
//!
//! C: `include/linux/migrate_copy.h`, `mm/migrate_copy.c` (from `src/shim/`).

pub(crate) mod batch;
#[cfg(CONFIG_KUNIT = "y")]
mod copy_test;
pub(crate) mod provider;
pub(crate) mod spread;
