// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers of the kernel interfaces that Ferry uses and the `kernel` crate does not have.
//!
//! None of them depends on migration.

#[cfg(any(CONFIG_DMA_ENGINE, CONFIG_PCI))]
pub(crate) mod bus;
pub(crate) mod kthread;
pub(crate) mod log;
#[cfg(CONFIG_PCI)]
pub(crate) mod pci;
pub(crate) mod sched;
pub(crate) mod sysctl;
pub(crate) mod topology;
pub(crate) mod trace;
pub(crate) mod vec;
