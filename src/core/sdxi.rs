// SPDX-License-Identifier: GPL-2.0

//! The part of the SDXI 1.0 driver that needs no kernel: encodings, the ring, and decisions.
//!
//! All structures of SDXI are little-endian words of 64 bits; here they are numbers. Memory that
//! the device reads and writes is behind [`ring::Memory`]. No value that comes from the device is
//! trusted: it is compared with what software knows, and is never used as an index.
//!
//! The standard's names of registers, structures and fields are aliases in the documentation, so
//! that a search for `CXT_CTL` finds [`table::control()`].
//!
//! | Module | Subject |
//! |---|---|
//! | [`registers`] | offsets of registers, capabilities, the state of the function |
//! | [`descriptor`] | descriptors |
//! | [`table`] | context tables, control and status, AKeys |
//! | [`ring`] | the owner of each slot, and when a copy is done |
//! | [`log`] | the error log |
//! | [`life`] | the ways in which a function and its contexts are started and stopped |

pub mod descriptor;
pub mod life;
pub mod log;
pub mod registers;
pub mod ring;
pub mod table;
