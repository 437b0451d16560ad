// SPDX-License-Identifier: GPL-2.0

//! What an SDXI function is led to: its registers, its doorbells, and memory that it accesses.
//!
//! A function reads and writes whatever memory its descriptors and tables name. Who guarantees
//! what:
//!
//! * Code outside this module cannot name memory. Descriptors of copies take
//!   [`DeviceAddress`](memory::DeviceAddress)es, which only this module makes; the addresses of
//!   rings, tables and logs stay in here; the registers that lead to memory are written in here.
//! * What was outstanding when a context was stopped is reported only with proof that it has
//!   stopped, by [`ContextRing::abandon()`](ring::ContextRing::abandon), which looks for it itself.
//! * Rings, tables and logs are never freed while the function could access them: they are when
//!   [`Bars::prove_quiet()`](mmio::Bars::prove_quiet) has seen it stopped, or gone for good, and it
//!   has not been told to run since. Without proof they are kept for ever, and counted
//!   ([`leaked()`](memory::leaked)).
//! * A [`DeviceAddress`](memory::DeviceAddress) says where, not for how long. Who pushes a copy
//!   keeps its source and destination mapped, and does not use them otherwise, until the copy is
//!   reported, whatever the report says: that is true of the memory of batches, which
//!   `engine::channel` gives back only then, and of [`Buffer`](buffer::Buffer).
//!
//! Memory of the device is read and written in words of 64 bits, each at once, and every index is
//! checked. Takes no locks, but for [`context`].

pub(crate) mod buffer;
pub(crate) mod context;
pub(crate) mod memory;
pub(crate) mod mmio;
pub(crate) mod queue;
pub(crate) mod ring;
pub(crate) mod tables;
