// SPDX-License-Identifier: GPL-2.0

//! Access to an SDXI function: its registers, its doorbells, and the memory that it accesses.
//!
//! A function reads and writes any memory that its descriptors and tables name. These rules keep it
//! to memory that it may access:
//!
//! * Code outside this module cannot name memory. Descriptors of copies take
//!   [`DeviceAddress`](memory::DeviceAddress)es, which only this module makes; the addresses of
//!   rings, tables and logs stay in here; the registers that lead to memory are written in here.
//! * Descriptors that are outstanding when a context is stopped are reported only with proof that
//!   the context has stopped, by [`ContextRing::abandon()`](ring::ContextRing::abandon), which
//!   checks the proof itself.
//! * Rings, tables and logs are never freed while the function could access them: they are freed
//!   after [`Bars::prove_quiet()`](mmio::Bars::prove_quiet) has found the function stopped, or gone
//!   for good, and it has not been told to run since. Without proof they are leaked, and counted
//!   ([`leaked()`](memory::leaked)).
//! * A [`DeviceAddress`](memory::DeviceAddress) has no lifetime. The caller that pushes a copy
//!   keeps its source and destination mapped, and does not use them otherwise, until the copy is
//!   reported, as good or failed. This holds for the memory of batches, which `engine::channel`
//!   gives back only then, and for [`Buffer`](buffer::Buffer).
//!
//! Memory that the device accesses is read and written in words of 64 bits, by single accesses, and
//! every index is checked. Only [`context`] takes locks.

pub(crate) mod buffer;
pub(crate) mod context;
pub(crate) mod memory;
pub(crate) mod mmio;
pub(crate) mod queue;
pub(crate) mod ring;
pub(crate) mod tables;
