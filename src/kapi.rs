// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers of the kernel interfaces that Ferry uses and the `kernel` crate does not have.
//!
//! The only unsafe code of Ferry is below this module; the crate root denies it elsewhere.

pub(crate) mod batch;
#[cfg(CONFIG_KUNIT = "y")]
mod copy_test;
pub(crate) mod log;
#[cfg(CONFIG_PCI)]
pub(crate) mod pci;
pub(crate) mod preempt;
#[cfg(CONFIG_PCI)]
pub(crate) mod sdxi;
pub(crate) mod shim;
pub(crate) mod sysctl;
pub(crate) mod topology;
pub(crate) mod trace;
pub(crate) mod worker;
