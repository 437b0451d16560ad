// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers of the kernel interfaces that Ferry uses and the `kernel` crate does not have.
//!
//! The only unsafe code of Ferry is below this module; the crate root denies it elsewhere.

pub(crate) mod batch;
#[cfg(any(CONFIG_DMA_ENGINE, CONFIG_PCI))]
pub(crate) mod channel;
#[cfg(CONFIG_KUNIT = "y")]
mod copy_test;
#[cfg(CONFIG_PCI)]
pub(crate) mod counters;
#[cfg(CONFIG_DMA_ENGINE)]
pub(crate) mod dmaengine;
pub(crate) mod log;
pub(crate) mod names;
#[cfg(CONFIG_PCI)]
pub(crate) mod pci;
pub(crate) mod preempt;
#[cfg(CONFIG_PCI)]
pub(crate) mod sdxi;
pub(crate) mod shim;
pub(crate) mod sysctl;
pub(crate) mod topology;
pub(crate) mod trace;
pub(crate) mod vec;
pub(crate) mod worker;
