// SPDX-License-Identifier: GPL-2.0

//! Model checking of the claim protocol of `ferry_core` with loom.
//!
//! The code under test is the code of the kernel module; only its atomic word is the checker's. The
//! memory that migration moves consists of cells that the checker watches: a model fails if two
//! accesses to a cell, one of which writes, are not ordered. The checker runs every interleaving,
//! with every stale value that the memory model allows a load to return.
//!
//! Each property comes with mutants, which are the same model with one change that breaks it, and
//! which have to fail. A model that cannot fail proves nothing.
//!
//! Models run all interleavings, except for models that bound the number of preemptions by calling
//! `explore_bounded()`.

mod aborted;
mod claim;
mod handoff;
mod order;
mod pending;
mod proof;
mod sdxi;
mod shared;
mod support;
