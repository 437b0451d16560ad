// SPDX-License-Identifier: GPL-2.0

//! The parts of a vfio-user model of a DMA engine that do not depend on the engine.
//!
//! A model is a [`Device`]: registers behind BARs, and one [`lane::Lane`] (a thread) for each of
//! its queues or contexts. It sees its host through [`Host`]: guest memory, interrupts, the faults
//! it has been told to show, its counters and limits. [`server::serve`] puts it on a socket for
//! QEMU's `vfio-user-pci`, and [`control`] on a second one for the test.
//!
//! ```text
//!   QEMU ── socket ── server ── Function (config space) ── Device (registers) ── Lane ─┐
//!   test ── socket ── control ─── faults, limits, counters ──────── Host ── memory, irq ┘
//! ```
//!
//! Ownership: the [`Host`] is shared by all; the server thread owns the configuration space; a
//! lane's mutex owns the state of its queue.
//!
//! Lock order: a lane's state, then what the device has in common to its channels, then one of the
//! host's leaves (memory, interrupts, faults). No thread holds two lanes' locks, and a device's
//! `reset` is called without any.
//!
//! The guest is hostile: nothing that it writes to a register or into its memory makes a model
//! panic, wait for ever or touch memory that is not the guest's. The client (QEMU) is trusted as
//! far as the `vfio_user` crate trusts it, which ends the process on a malformed version message.

#![deny(unsafe_code)]

pub mod bytes;
pub mod config;
pub mod control;
pub mod counters;
pub mod fault;
pub mod host;
pub mod irq;
pub mod lane;
pub mod limit;
pub mod memory;
pub mod mmio;
pub mod server;

pub use host::{Device, Host};
