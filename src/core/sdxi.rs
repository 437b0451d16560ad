// SPDX-License-Identifier: GPL-2.0

//! What of an SDXI 1.0 function needs no kernel: the encodings, the ring, and what to do next.
//!
//! Everything of SDXI is little-endian words of 64 bits; here they are numbers. Memory that the
//! device reads and writes is behind [`ring::Memory`]. Nothing that comes from the device is
//! trusted: what it says is compared with what software knows, and numbers are never used as an
//! index.
//!
//! | Module | What it has |
//! |---|---|
//! | [`registers`] | offsets, capabilities, the state of the function |
//! | [`descriptor`] | descriptors |
//! | [`table`] | context tables, control and status, AKeys |
//! | [`ring`] | which slots are whose, and when a copy is done |
//! | [`log`] | the error log |
//! | [`life`] | how a function is brought to a stop, and to run |

pub mod descriptor;
pub mod life;
pub mod log;
pub mod registers;
pub mod ring;
pub mod table;
